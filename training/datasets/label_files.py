"""Files that say what is heard in which seconds of which video: AudioSet's and VGGSound's CSVs; and
MSR-VTT's lists of videos, whose sounds have no labels."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from vab_rt.errors import DataError

_VGGSOUND_CLIP_S = 10.0
_AUDIOSET = 'ID, start_seconds, end_seconds, "label,label"'
_VGGSOUND = 'ID, start_seconds, "label", train or test'
_MSRVTT = ["key", "vid_key", "video_id", "sentence"]
_MSRVTT_CLIP_S = 10.0


class Row(msgspec.Struct, frozen=True):
    """One line of a CSV; split is None where the layout has none."""

    line: int
    name: str
    start_s: float
    end_s: float
    labels: tuple[str, ...]
    split: str | None


class _Video(msgspec.Struct, frozen=True):
    video_id: str
    split: str = "test"


class _VideoList(msgspec.Struct, frozen=True):
    """What of MSR-VTT's test_videodatainfo.json is read: its captions are not."""

    videos: list[_Video]


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV in the layout of AudioSet, VGGSound or MSR-VTT, or of MSR-VTT's JSON; of
    each of its videos the first 10 s. Raises DataError with the line."""
    if path.suffix == ".json":
        return _read_video_list(path)
    rows: list[Row] = []
    parse: Callable[[list[str]], tuple] | None = None
    for line, fields in _lines(path):
        if not fields or fields[0].startswith("#"):
            continue
        if parse is None and fields == _MSRVTT:
            parse = _msrvtt
            continue
        if parse is None:
            parse = _vggsound if fields[-1] in ("train", "test") else _audioset
        try:
            rows.append(Row(line, *parse(fields)))
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}; correct the line") from error
    if not rows:
        raise DataError(f"{path} has no rows, expected {_AUDIOSET} or {_VGGSOUND}")
    if parse is _msrvtt:  # a video has a line for each caption in some of the lists
        return list({row.name: row for row in reversed(rows)}.values())[::-1]
    return rows


def _read_video_list(path: Path) -> list[Row]:
    try:
        videos = msgspec.json.decode(path.read_bytes(), type=_VideoList).videos
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as a list of videos ({error}), expected MSR-VTT's JSON with "
            "video_id and split under videos"
        ) from error
    if not videos:
        raise DataError(f"{path} has no videos, expected MSR-VTT's JSON with some")
    return [
        Row(i, video.video_id, 0.0, _MSRVTT_CLIP_S, (), video.split)
        for i, video in enumerate(videos, start=1)
    ]


def read_classes(path: Path) -> dict[str, str]:
    """Display names by label id, in the order of class_labels_indices.csv. Raises DataError."""
    names: dict[str, str] = {}
    for line, fields in _lines(path):
        if line == 1 and fields[:1] == ["index"]:
            continue
        if len(fields) != 3 or fields[0] != str(len(names)) or fields[1] in names:
            raise DataError(
                f"{path}, line {line}: found {fields}, expected index {len(names)}, an id of its "
                "own and a name; take the file that AudioSet comes with"
            )
        names[fields[1]] = fields[2]
    if not names:
        raise DataError(f"{path} has no classes, expected lines of index, id and name")
    return names


def name_labels(rows: list[Row], classes: dict[str, str], csv_path: Path) -> list[Row]:
    """The rows with display names in place of ids. Raises DataError for an id without one."""
    for row in rows:
        unknown = [label for label in row.labels if label not in classes]
        if unknown:
            raise DataError(
                f"{csv_path}, line {row.line}: label {unknown[0]!r} is not among the "
                f"{len(classes)} classes; name the class file that belongs to this CSV"
            )
    return [
        msgspec.structs.replace(row, labels=tuple(classes[label] for label in row.labels))
        for row in rows
    ]


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each line and its number, from 1. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path} is not a file, expected a CSV; check the path")
    with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark first
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        try:
            for fields in reader:
                yield reader.line_num, [field.strip() for field in fields]
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}, line {reader.line_num + 1}: {error}, expected UTF-8 text with fields "
                "divided by commas, and quotes around fields with a comma; correct the line"
            ) from error


def _audioset(fields: list[str]) -> tuple[str, float, float, tuple[str, ...], None]:
    if len(fields) != 4:
        raise ValueError(f"found {len(fields)} fields, expected {_AUDIOSET}")
    name, start, end, labels = fields
    start_s, end_s = _seconds(start), _seconds(end)
    if end_s <= start_s:
        raise ValueError(f"the clip ends at {end} s, expected later than its start, {start} s")
    return _name(name), start_s, end_s, _labels(labels.split(",")), None


def _vggsound(fields: list[str]) -> tuple[str, float, float, tuple[str, ...], str]:
    if len(fields) != 4:
        raise ValueError(f"found {len(fields)} fields, expected {_VGGSOUND}")
    name, start, label, split = fields
    if split not in ("train", "test"):
        raise ValueError(f"the split is {split!r}, expected train or test")
    start_s = _seconds(start)
    return _name(name), start_s, start_s + _VGGSOUND_CLIP_S, _labels([label]), split


def _msrvtt(fields: list[str]) -> tuple[str, float, float, tuple[str, ...], str]:
    if len(fields) != len(_MSRVTT):
        raise ValueError(f"found {len(fields)} fields, expected {', '.join(_MSRVTT)}")
    return _name(fields[2]), 0.0, _MSRVTT_CLIP_S, (), "test"


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise ValueError(f"found {text!r}, expected a time in seconds")
    return seconds


def _name(text: str) -> str:
    if not text:
        raise ValueError("the first field is empty, expected the name of a video")
    return text


def _labels(names: list[str]) -> tuple[str, ...]:
    labels = tuple(dict.fromkeys(name.strip() for name in names))
    if "" in labels:
        raise ValueError(f"found the labels {names}, expected at least one, none of them empty")
    return labels
