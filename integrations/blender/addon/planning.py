# SPDX-License-Identifier: GPL-3.0-or-later
"""From strips to seconds of their files, and back to frames: all that needs no Blender."""

import math
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

NUM_CHANNELS = 128
"""Blender's; the first is 1."""
MOST_DRIFT_FRAMES = 2
LEAST_SPEED_ERROR = 0.0005
"""Containers round lengths by less."""
_NEAR_SPEED = 0.01
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]+')


class Refused(Exception):
    """What a strip or scene is not fit for, in one line for the user."""


@dataclass(frozen=True)
class Strip:
    """Facts of a strip, in frames of the scene where nothing else is said."""

    name: str
    kind: str
    """Blender's: MOVIE, SOUND, IMAGE, ..."""
    path: Path | None
    begin: int
    """the first frame that is seen, after trimming"""
    end: int
    """the first that is not"""
    content_begin: float
    """where its file begins, seen or not"""
    content_frames: float
    cut_frames: tuple[int, int] = (0, 0)
    """of the movie itself, at its beginning and end, that Blender no longer counts"""
    movie_hz: float = 0.0
    """the movie's own frames a second"""
    channel: int = 1
    num_retiming_keys: int = 0
    is_reversed: bool = False
    has_speed_effect: bool = False


@dataclass(frozen=True)
class Piece:
    """What is to be heard: frames `begin` to `end` of the scene, and their part of a file."""

    name: str
    path: Path
    begin: int
    end: int
    start_s: float
    duration_s: float
    channel: int
    content_begin: float
    content_s: float
    """of the file as the scene plays it, without what was cut away"""
    cut_s: float
    """of the file, that was cut away"""
    rate_hz: Fraction
    movie_hz: float


def frame_rate(fps: float, base: float) -> Fraction:
    """Frames a second of a scene: 30 over 1.001 is 30000/1001, whatever a float says."""
    return Fraction(fps).limit_denominator(1000) / Fraction(base).limit_denominator(1000)


def seconds(frames: float, rate_hz: Fraction) -> float:
    """How long so many frames are, to the microsecond."""
    return round(float(Fraction(frames) / rate_hz), 6)


def plan_piece(strip: Strip, rate_hz: Fraction) -> Piece:
    """The piece of a movie strip. What it holds before or after its movie has no sound. Raises
    Refused."""
    path = _movie_of(strip)
    first = math.ceil(strip.content_begin)
    last = math.floor(strip.content_begin + strip.content_frames)
    begin, end = max(strip.begin, first), min(strip.end, last)
    if end <= begin:
        raise Refused(
            f"{strip.name} shows no frame of its movie, expected one at least; trim it anew"
        )
    movie_hz = strip.movie_hz or float(rate_hz)
    start_s = (begin - strip.content_begin) / float(rate_hz) + strip.cut_frames[0] / movie_hz
    return Piece(
        name=strip.name,
        path=path,
        begin=begin,
        end=end,
        start_s=round(start_s, 6),
        duration_s=seconds(end - begin, rate_hz),
        channel=strip.channel,
        content_begin=strip.content_begin,
        content_s=seconds(strip.content_frames, rate_hz),
        cut_s=sum(strip.cut_frames) / movie_hz,
        rate_hz=rate_hz,
        movie_hz=movie_hz,
    )


def _movie_of(strip: Strip) -> Path:
    if strip.kind != "MOVIE" or strip.path is None:
        kind = strip.kind.lower().replace("_", " ")
        hint = "; open it with Tab and select the movies in it" if kind == "meta" else ""
        raise Refused(f"{strip.name} is a strip of kind {kind}, expected a movie{hint}")
    if strip.is_reversed:
        raise Refused(f"{strip.name} runs backwards, expected forwards; turn Reverse Frames off")
    if strip.num_retiming_keys > 2 or strip.has_speed_effect:
        raise Refused(speed_changed(strip.name))
    if not strip.path.is_file():
        raise Refused(
            f"{strip.name} is of {strip.path}, which is not there; find it with "
            "File > External Data > Find Missing Files"
        )
    return strip.path


def check_speed(piece: Piece, file_s: float | None) -> None:
    """file_s: how long the file says that it is. Raises Refused where the scene plays it in another
    time, as Blender does frame for frame where rates differ."""
    if file_s is None:
        return
    speed = (file_s - piece.cut_s) / piece.content_s
    drift_frames = abs(speed - 1) * piece.content_s * piece.rate_hz
    if abs(speed - 1) > LEAST_SPEED_ERROR and drift_frames > MOST_DRIFT_FRAMES:
        if abs(speed - float(piece.rate_hz) / piece.movie_hz) > _NEAR_SPEED * speed:
            raise Refused(speed_changed(piece.name))
        raise Refused(
            f"{piece.name} has {piece.movie_hz:.6g} frames a second and plays frame for frame at "
            f"{float(piece.rate_hz):.6g}, expected its own rate; give the scene that rate, or add "
            "the movie anew with Adjust Playback Rate"
        )


def speed_changed(name: str) -> str:
    """The message for a strip whose speed was changed."""
    return (
        f"{name} has its speed changed, expected its own time; render it to a file first, and use "
        "that"
    )


def part_of_sound(strip: Strip, part: tuple[int, int], rate_hz: Fraction) -> tuple[float, float]:
    """Seconds of a sound strip's file that lie in frames `part` of the scene. Raises Refused."""
    begin, end = max(strip.begin, part[0]), min(strip.end, part[1])
    if end <= begin:
        raise Refused(
            f"{strip.name} is at frames {strip.begin} to {strip.end - 1}, the preview range at "
            f"{part[0]} to {part[1] - 1}, expected one within the other; set the range anew (P)"
        )
    first = math.floor(strip.content_begin)
    return seconds(max(begin - first, 0), rate_hz), seconds(max(end - first, 0), rate_hz)


def free_channel(taken: Iterable[tuple[int, int, int]], begin: int, end: int, above: int) -> int:
    """The first channel over `above`, else the first at all, that is free in frames begin to end.

    taken: channel, begin and end of every strip. Raises Refused where there is none.
    """
    full = {channel for channel, other, until in taken if other < end and until > begin}
    wanted = [*range(above + 1, NUM_CHANNELS + 1), *range(1, above + 1)]
    for channel in wanted:
        if channel not in full:
            return channel
    raise Refused(f"all {NUM_CHANNELS} channels are taken at frame {begin}; make room in one")


def sound_folder(blend: str, wanted: str) -> tuple[Path, bool]:
    """Where sounds go: the folder that is wanted, else NAME.sound beside the .blend; and whether
    it is one for the meantime, as nothing is saved yet."""
    if wanted:
        return Path(wanted), False
    if blend:
        path = Path(blend)
        return path.with_name(path.stem + ".sound"), False
    return Path(tempfile.gettempdir()) / "vab-rt-unsaved.sound", True


def sound_path(folder: Path, name: str, seed: int) -> Path:
    """A file that is not there yet, so that no strip's file is ever written over."""
    stem = _NOT_IN_NAMES.sub("_", name).strip(" .")[:80] or "sound"
    for number in range(1, 10_000):
        again = f".{number}" if number > 1 else ""
        path = folder / f"{stem}.seed{seed}{again}.wav"
        if not path.exists():
            return path
    raise Refused(f"{folder} has 9999 sounds of {name}; empty it, or choose another folder")


def one_line(error: object) -> str:
    """A message as Blender's status bar shows it."""
    return " ".join(str(error).split())
