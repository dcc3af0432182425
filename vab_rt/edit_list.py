"""The edit list of a written mp4 or mov (ISO/IEC 14496-12, 8.6.6): where its frames end.

Frames are stored out of order, so a copy may have to keep some that are displayed after its end.
FFmpeg's muxer cannot hide them; the list can.
"""

import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple

_LONG = {1: ">Q", 0: ">I"}  # by version: how a duration is stored


class _Box(NamedTuple):
    kind: bytes
    begin: int  # of what is in it
    end: int


def hide_after(path: Path, end_s: Fraction) -> None:
    """Ends the display of the video track there, in place."""
    with path.open("r+b") as file:
        (movie,) = _find(file, _Box(b"", 0, path.stat().st_size), b"moov")
        (header,) = _find(file, movie, b"mvhd")
        timescale, movie_at, form = _duration_place(file, header, timescale_at=(12, 20))
        lengths = []
        for track in _find(file, movie, b"trak"):
            (own,) = _find(file, track, b"tkhd")
            _, at, own_form = _duration_place(file, own, timescale_at=None)
            if _handler(file, track) == b"vide":
                length = _shorten(file, track, round(end_s * timescale))
                _write(file, at, own_form, min(_read(file, at, own_form), length))
            lengths.append(_read(file, at, own_form))
        _write(file, movie_at, form, max(lengths))


def _shorten(file: BinaryIO, track: _Box, length: int) -> int:
    """Cuts the track's last edit; returns what all have."""
    (edits,) = _find(file, track, b"edts")
    (entries,) = _find(file, edits, b"elst")
    version = _read(file, entries.begin, ">B")
    form, size = _LONG[version], 20 if version else 12
    num_entries = _read(file, entries.begin + 4, ">I")
    places = [entries.begin + 8 + size * n for n in range(num_entries)]
    before = sum(_read(file, at, form) for at in places[:-1])
    last = min(_read(file, places[-1], form), max(1, length - before))
    _write(file, places[-1], form, last)
    return before + last


def _duration_place(
    file: BinaryIO, box: _Box, timescale_at: tuple[int, int] | None
) -> tuple[int, int, str]:
    """Timescale, and where and how the duration of a mvhd or tkhd is stored."""
    version = _read(file, box.begin, ">B")
    at = box.begin + (24 if version else 16)
    if timescale_at is None:
        return 0, at + 4, _LONG[version]  # after the track's number and four reserved bytes
    return _read(file, box.begin + timescale_at[version], ">I"), at, _LONG[version]


def _handler(file: BinaryIO, track: _Box) -> bytes:
    (media,) = _find(file, track, b"mdia")
    (handler,) = _find(file, media, b"hdlr")
    file.seek(handler.begin + 8)
    return file.read(4)


def _find(file: BinaryIO, box: _Box, kind: bytes) -> list[_Box]:
    return [inner for inner in _boxes(file, box) if inner.kind == kind]


def _boxes(file: BinaryIO, box: _Box) -> Iterator[_Box]:
    at = box.begin
    while at + 8 <= box.end:
        size, head = _read(file, at, ">I"), 8
        file.seek(at + 4)
        kind = file.read(4)
        if size == 1:
            size, head = _read(file, at + 8, ">Q"), 16
        yield _Box(kind, at + head, at + size if size else box.end)
        at = at + size if size else box.end


def _read(file: BinaryIO, at: int, form: str) -> int:
    file.seek(at)
    (value,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(value)


def _write(file: BinaryIO, at: int, form: str, value: int) -> None:
    file.seek(at)
    file.write(struct.pack(form, value))
