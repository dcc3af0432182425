"""A job's files, made in the thread that has the pipeline."""

import hashlib
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.error
import msgspec

from vab_rt.audio import Audio, AudioWriter, plan_output
from vab_rt.candidates import Ranked, ranked_steps, seed_of
from vab_rt.config import GenerateOptions
from vab_rt.delivery import Delivery
from vab_rt.errors import MediaError, MediaWarning, VabError
from vab_rt.mixing import require_sound
from vab_rt.pipeline import Pipeline
from vab_rt.steps import Seen, Step
from vab_rt.take import path_of
from vab_rt.video import Video

_MOST_DELIVERIES = 16
_LISTS = {"hls", "dash", "concat", "imf", "sdp", "webm_dash_manifest"}


class Cancelled(Exception):
    """Nobody wants the sound any more."""


class Edit(NamedTuple):
    """Of a sound that is there, the seconds to be made anew. sound: a file in the job's folder."""

    of: str
    candidate: int
    start_s: float
    end_s: float
    sound: Path

    def report(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("of", "candidate", "start_s", "end_s")}


@dataclass(frozen=True)
class Order:
    """What is to be made, and where. folder: of this job alone; its video may lie elsewhere."""

    folder: Path
    video: Path
    options: GenerateOptions
    start_s: float
    duration_s: float | None
    num_candidates: int
    format: str
    shown: str = "the video"
    """what messages call the video"""
    edit: Edit | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def output(self, number: int) -> Path:
        """Of a candidate, counted from 1."""
        return self.folder / f"sound.{number}.{self.format}"

    def without_paths(self, message: str) -> str:
        """The same for those who must not know where files are."""
        message = message.replace(str(self.video), self.shown)
        return message.replace(f"{self.folder}/", "").replace(
            str(self.folder), "the server's folder"
        )


class TakeFile(NamedTuple):
    """A finished file."""

    path: Path
    seed: int
    score: float | None


@dataclass(frozen=True)
class Made:
    """takes: best first. video_has_sound: some to mix with."""

    takes: list[TakeFile]
    video_has_sound: bool
    duration_s: float
    sample_rate_hz: int
    kinds: dict[str, float]
    warnings: list[str]
    timings_s: dict[str, float]


def make(order: Order, pipeline: Pipeline, tell: Callable[[int], None]) -> Made:
    """tell: percent done. Raises Cancelled, VabError."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", MediaWarning)
        made = _make(order, pipeline, tell)
    said = [one.message for one in told if isinstance(one.message, MediaWarning)]
    texts = [order.without_paths(str(message)) for message in said]
    # Warnings are of the process: another thread's are about another sound.
    made.warnings.extend(text for text in texts if str(order.folder.parent) not in text)
    return made


def _make(order: Order, pipeline: Pipeline, tell: Callable[[int], None]) -> Made:
    if order.stop.is_set():
        raise Cancelled
    refuse_lists(order.video)
    video = Video(order.video, order.start_s, order.duration_s)
    for number in range(1, order.num_candidates + 1):
        plan_output(order.output(number), video=video)
    rate_hz, seed, seen = pipeline.config.sample_rate_hz, order.options.seed, Seen()
    if order.edit is not None:
        old = Audio.load(order.edit.sound)
        rate_hz, (_, _, start_s, end_s, _) = old.sample_rate_hz, order.edit
        steps = pipeline.regenerate_steps(video, old, start_s, end_s, order.options)
    elif order.num_candidates == 1:
        steps = pipeline.generate_steps(video, order.options)
    else:
        steps = pipeline.candidate_steps(video, order.options, num_candidates=order.num_candidates)
    told = seen.watch(_told(steps, order, tell))
    takes, num_samples = [], 0
    for number, (candidate, score, parts) in enumerate(_takes(told, order), 1):
        path = order.output(number)
        num_samples = _write(path, video, parts, rate_hz)
        takes.append(TakeFile(path, seed_of(seed, candidate), score))
    duration_s = num_samples / rate_hz
    return Made(takes, _has_sound(video), duration_s, rate_hz, seen.shares(), [], seen.timings_s)


def _has_sound(video: Video) -> bool:
    try:
        return require_sound(video) > 0
    except VabError:
        return False


def _takes(
    steps: Iterator[Step], order: Order
) -> Iterable[tuple[int, float | None, Iterable[Step]]]:
    """Candidate, score and steps of each, best first; one alone is written as it is made."""
    if order.num_candidates == 1:
        return [(0, None, steps)]
    ranked: list[Ranked] = ranked_steps(steps)
    return [(take.candidate, take.score, take.steps) for take in ranked]


def _write(path: Path, video: Video, steps: Iterable[Step], rate_hz: int) -> int:
    """The file and its take beside it, as `vab-rt generate` writes them; its length in samples."""
    take = None
    with AudioWriter(plan_output(path, video=video), rate_hz) as file:
        for step in steps:
            take = step.take
            if step.audio is not None:
                file.write(step.audio)
    if take is not None:
        file.keep(take)
    return file.num_samples


def delivered(order: Order, sound: Path, name: str, delivery: Delivery) -> Path:
    """A finished sound in a file of a format, as it is wanted, beside it: made once, and of those
    wanted in other ways the latest few are kept. Raises VabError."""
    out = sound.with_suffix(f".{name}")
    if delivery != Delivery():
        digest = hashlib.sha256(msgspec.json.encode(delivery)).hexdigest()[:16]
        out = sound.with_suffix(f".{digest}.{name}")
        others = sorted(order.folder.glob(f"{sound.stem}.{'?' * 16}.*"), key=_changed_at)
        for old in others[: -_MOST_DELIVERIES + 1]:
            old.unlink(missing_ok=True)
    if not out.exists():
        video = Video(order.video, order.start_s, order.duration_s)
        with without_paths(order):
            Audio.load(sound).save(out, video=video, force=True, take=False, delivery=delivery)
    return out


@contextmanager
def without_paths(order: Order) -> Iterator[None]:
    """Errors that a client causes, as they are told to it."""
    try:
        yield
    except VabError as error:
        raise type(error)(order.without_paths(str(error))) from error.__cause__


def _changed_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # removed meanwhile
        return 0.0


def borrowed(old: Order, sound: Path, folder: Path) -> tuple[Path, Path]:
    """The video of an order and a sound of it, in the folder of another. Raises OSError."""
    own, video = folder / f"before.{old.format}", old.video
    if video.is_relative_to(old.folder):
        video = _linked(video, folder / "video")
    _linked(sound, own)
    if path_of(sound).exists():
        _linked(path_of(sound), path_of(own))
    return video, own


def _linked(file: Path, link: Path) -> Path:
    """The same file by another name, so that it outlives the first."""
    try:
        os.link(file, link)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(file, link)
    return link


def _told(steps: Iterator[Step], order: Order, tell: Callable[[int], None]) -> Iterator[Step]:
    for step in steps:
        if order.stop.is_set():
            raise Cancelled
        yield step
        done, total = step.position(order.num_candidates)
        if total is not None:
            tell(min(99, 100 * done // total))


def refuse_lists(video: Path) -> None:
    """Raises MediaError for what names other files, which would be this machine's."""
    try:
        with av.open(f"file:{video}", container_options={"pattern_type": "none"}) as container:
            name = container.format.name
    except (av.error.FFmpegError, OSError, ValueError):
        return  # what is wrong with it is told by whoever reads it
    if _LISTS & set(name.split(",")):
        raise MediaError(
            f"{video} is a list of other files ({name}), expected the video itself; send that"
        )
