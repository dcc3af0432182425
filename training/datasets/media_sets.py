"""Layouts of media on disk: the clips of a folder, or of a CSV of labels beside a folder.

Which names are understood is written down in docs/DATA.md.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from training.datasets.label_files import Row, name_labels, read_classes, read_rows
from training.processes import in_parallel
from vab_rt.errors import DataError, MediaError, VabError
from vab_rt.media import probe

SUFFIXES = frozenset(
    f".{name}"
    for name in ("mp4", "m4v", "mov", "mkv", "webm", "avi", "flv", "wmv", "mpg", "mpeg", "ts")
)
CLASS_FILE = "class_labels_indices.csv"
SHORTEST_S = 1.0


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A clip to be made of the file at `path`, relative to the media folder.

    start_s, end_s: in the original video. holds: whether the file is that video, was cut to the
    segment already, or is one of the two, which its length tells.
    """

    path: str
    start_s: float
    end_s: float
    labels: tuple[str, ...] = ()
    holds: Literal["video", "segment", "either"] = "video"


class Skipped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of skipped.jsonl. source: a path, or the name in the CSV that has no file.

    shard: the number of the shard that does without it; None when it was never listed for one.
    """

    source: str
    start_s: float
    reason: str
    shard: int | None = None


class Listing(msgspec.Struct, frozen=True):
    """What there is to extract. labels: every class, in the order of the columns."""

    labels: tuple[str, ...]
    segments: list[Segment]
    skipped: list[Skipped]


def list_folder(media: Path, clip_s: float, workers: int = 1) -> Listing:
    """Every window of every video. Raises DataError when none can be read."""
    files = media_files(media)
    jobs = [(media, path, clip_s) for path in files]
    found = dict(in_parallel(_windows_or_reason, jobs, workers))
    skipped = [
        Skipped(path.as_posix(), 0.0, found[path]) for path in files if isinstance(found[path], str)
    ]
    if len(skipped) == len(files):
        raise DataError(
            f"none of the {len(files)} files in {media} can be read, for instance: "
            f"{skipped[0].reason}"
        )
    segments = [part for path in files if isinstance(found[path], list) for part in found[path]]
    return Listing((), segments, skipped)


def list_csv(media: Path, csv_path: Path, classes: Path | None, split: str | None) -> Listing:
    """Every row that has a file. classes: None takes the class file beside the CSV, if any.

    Raises DataError for a line that cannot be read, and when no row has a file.
    """
    rows = read_rows(csv_path)
    beside = csv_path.with_name(CLASS_FILE)
    is_audioset = rows[0].split is None
    if classes is None and is_audioset and beside.is_file():
        classes = beside
    names = {} if classes is None else read_classes(classes)
    rows = name_labels(rows, names, csv_path) if names else rows
    labels = tuple(names.values()) or tuple(sorted({label for row in rows for label in row.labels}))
    splits = sorted({row.split for row in rows if row.split is not None})
    if split is not None:
        rows = [row for row in rows if row.split == split]
        if not rows:
            known = "none, as in AudioSet" if is_audioset else " or ".join(splits)
            raise DataError(f"{csv_path} has no rows of the split {split!r}, expected {known}")
    found = list(find_files(rows, media_files(media)))
    segments = [segment for _, segment in found if segment is not None]
    if not segments:
        tried = ", ".join(
            [f"{rows[0].name}.mp4", *(f"{n}.mp4" for n in segment_names(rows[0]))][:4]
        )
        raise DataError(
            f"none of the {len(rows)} videos of {csv_path} has a file in {media}, expected for "
            f"instance one of {tried}; check both paths, and the names in docs/DATA.md"
        )
    missing = [
        Skipped(row.name, row.start_s, f"no file in {media} has a name that fits")
        for row, segment in found
        if segment is None
    ]
    return Listing(labels, segments, missing)


def media_files(folder: Path) -> list[Path]:
    """Paths below `folder` and relative to it, sorted.

    Raises DataError when there are none, and for a name that is no UTF-8.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder, expected one with media; check the path")
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if _is_media(path))
    if not files:
        known = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise DataError(f"{folder} holds no media, expected files of the types {known}")
    for path in (folder.resolve(), *files):
        require_text(path)
    return files


def require_text(path: Path) -> None:
    """Raises DataError for a name that JSON cannot hold: bytes in it are no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path} has a name that is no UTF-8, expected one, as shards name their sources; "
            "rename it"
        ) from error


def _windows_or_reason(job: tuple[Path, Path, float]) -> tuple[Path, list[Segment] | str]:
    media, path, clip_s = job
    try:
        return path, windows(media, path, clip_s)
    except VabError as error:
        return path, str(error)


def _is_media(path: Path) -> bool:
    is_hidden = path.name.startswith(".")  # such as the ._NAME.mp4 that macOS leaves
    return path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file()


def windows(folder: Path, path: Path, clip_s: float) -> list[Segment]:
    """The clips of one video, one after the other. Raises MediaError.

    The last is kept if at least half of it is there; a video shorter than that is one clip.
    """
    length_s = probe(folder / path).duration_s
    if length_s is None:
        raise MediaError(
            f"{folder / path} does not say how long it is, expected a length in its header; "
            "copy it into another container, as `ffmpeg -c copy` does"
        )
    if length_s < SHORTEST_S:
        raise MediaError(
            f"{folder / path} is {length_s:g} s long, expected at least {SHORTEST_S:g} s; "
            "leave it out"
        )
    starts_s = (i * clip_s for i in range(max(1, math.floor(length_s / clip_s + 0.5))))
    return [Segment(path.as_posix(), at, min(at + clip_s, length_s)) for at in starts_s]


def find_files(rows: list[Row], files: list[Path]) -> Iterator[tuple[Row, Segment | None]]:
    """Each row and its clip, None where no file has a name that fits the row."""
    known: dict[str, Path] = {}
    for path in files:
        for name in (path.as_posix(), path.name, path.stem):
            known.setdefault(name, path)
    for row in rows:
        found = next((known[name] for name in segment_names(row) if name in known), None)
        holds: Literal["segment", "either"] = "segment"
        if found is None:
            found, holds = known.get(row.name, known.get(f"Y{row.name}")), "either"
        if found is None:
            yield row, None
        else:
            yield row, Segment(found.as_posix(), row.start_s, row.end_s, row.labels, holds)


def segment_names(row: Row) -> Iterator[str]:
    """Names, without the suffix, of a file that was cut to the segment, likeliest first."""
    for name in (row.name, f"Y{row.name}"):
        for start, end in zip(_written(row.start_s), _written(row.end_s), strict=True):
            yield f"{name}_{start}"
            yield f"{name}_{start}_{end}"
            yield f"{name}_{start}-{end}"


def _written(seconds: float) -> tuple[str, ...]:
    """000030, 30, 30.0, 30.000 and, in milliseconds, 30000."""
    return (
        f"{int(seconds):06d}",
        f"{seconds:g}",
        f"{seconds:.1f}",
        f"{seconds:.3f}",
        f"{round(1000 * seconds)}",
    )
