"""Clips of a timeline: where they stand, what they show of which file, and those of nested ones."""

import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from vab_rt.errors import MediaError

MAX_ITEMS = 200_000
"""The most items of a timeline, with all that is nested: one that holds itself a few times over has
billions."""
_MAX_DEPTH = 64
_NTSC = Fraction(1000, 1001)


class Unheard(NamedTuple):
    """Why an item gets no sound. is_fault: the user would want one."""

    reason: str
    is_fault: bool = True


DISABLED = Unheard("it is disabled", is_fault=False)
GENERATED = Unheard("it is generated, not a video file", is_fault=False)
OFFLINE = Unheard("its media is missing; link it again in the editor")
NO_PICTURE = Unheard("it has no picture", is_fault=False)
OTHER_SPEED = Unheard("its speed is changed; render it to a file first")
STILL = Unheard("it is a still picture", is_fault=False)


class Item(NamedTuple):
    """What stands on a track, but for gaps; seconds are exact."""

    name: str
    begin_s: Fraction
    """on its track"""
    length_s: Fraction
    start_s: Fraction
    """where it begins in what it shows"""
    content: "Path | Unheard | Callable[[], Iterable[Item]]"
    """a video file; or what is on the track that is nested here"""


class Clip(NamedTuple):
    """What is seen of one file without a cut."""

    name: str
    begin_s: Fraction
    """on the timeline"""
    length_s: Fraction
    start_s: Fraction
    """where it begins in its media, counted from its first frame"""
    media: Path | Unheard


class Sound(NamedTuple):
    """The sound of a clip."""

    clip: Clip
    path: Path
    """where it lies"""
    rate_hz: int
    facts: dict[str, Any]
    """what it was made of: seed, model, source, start_s"""

    def frames(self, rate: Fraction) -> tuple[int, int]:
        """From which frame of a timeline to which, the latter not included; at least one."""
        begin = round(self.clip.begin_s * rate)
        return begin, max(begin + 1, round((self.clip.begin_s + self.clip.length_s) * rate))


def clips_of(items: Iterable[Item], path: Path) -> list[Clip]:
    """All clips on a track, those that are nested at their place on it, as far as they are seen.
    path: of the timeline. Raises MediaError for more than any film has."""
    visited = count(1)

    def flat(
        items: Iterable[Item], part: tuple[Fraction, Fraction] | None, shift: Fraction, depth: int
    ) -> Iterator[Clip]:
        """Those between two seconds of their track, which is moved by `shift`."""
        for item in items:
            if next(visited) > MAX_ITEMS or depth > _MAX_DEPTH:
                raise MediaError(
                    f"{path} has more than {MAX_ITEMS} clips, or nests them more than {_MAX_DEPTH} "
                    "deep, expected a timeline that ends; check what is nested in it"
                )
            first, last = item.begin_s, item.begin_s + item.length_s
            if part is not None:
                first, last = max(first, part[0]), min(last, part[1])
            if last <= first and item.length_s > 0:
                continue
            start = item.start_s + first - item.begin_s
            if item.length_s <= 0:
                media = Unheard("it has no length", is_fault=False)
                yield Clip(item.name, first + shift, Fraction(0), start, media)
            elif callable(item.content):
                part_of_it = (start, start + last - first)
                yield from flat(item.content(), part_of_it, shift + first - start, depth + 1)
            else:
                yield Clip(item.name, first + shift, last - first, start, item.content)

    return list(flat(items, None, Fraction(0), 0))


def exact_rate(rate: float) -> Fraction:
    """The fraction for the float that a file has: 29.97, 29.97003 and 23.976 are thousandths of
    1001."""
    whole = round(rate)
    if abs(rate - whole) < 1e-6:
        return Fraction(whole)
    ntsc = whole * _NTSC
    return ntsc if abs(rate - float(ntsc)) < 5e-3 else Fraction(rate).limit_denominator(1001)


def media_at(url: str | None, folder: Path) -> Path | Unheard:
    """The file that a timeline in a folder names, as a path or as an address of this machine."""
    if not url or "\0" in url:
        return OFFLINE
    scheme, has_host, rest = url.partition("://")
    if has_host and scheme.lower() != "file":
        return Unheard(f"its media is at {scheme}://, expected a file on this machine")
    if has_host:  # not by urlsplit, for which a name that was not encoded ends at # or ?
        from urllib.request import url2pathname  # of a library that takes long to import

        return _existing(Path(url2pathname("/" + rest.partition("/")[2])))
    plain = url.removeprefix("file:")
    written = _existing(folder / plain)
    return written if isinstance(written, Path) else _existing(folder / unquote(plain))


def _existing(path: Path) -> Path | Unheard:
    return path if os.path.exists(path) else OFFLINE
