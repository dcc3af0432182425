"""The folder of an extraction: what it was begun with, its clips, and how far it is."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from training.datasets.media_sets import Listing, Segment, Skipped, list_csv, list_folder
from training.datasets.shard_format import (
    INDEX,
    ShardIndex,
    check_facts,
    clip_facts,
    read_index,
    write_index,
)
from training.saving import write_whole
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError
from vab_rt.output import writing

REQUEST, CLIPS, SKIPPED = "request.json", "clips.jsonl", "skipped.jsonl"
Line = TypeVar("Line")


class Source(msgspec.Struct, frozen=True):
    """What to extract: all of `media`, or the rows of `csv`, all or of one `split`."""

    media: Path
    csv: Path | None = None
    classes: Path | None = None
    split: str | None = None


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """request.json: what a folder was begun with; only the same may go on in it."""

    media: str
    csv_sha256: str | None
    classes_sha256: str | None
    split: str | None
    clips_per_shard: int


def begin(
    out: Path,
    source: Source,
    config: ModelConfig,
    digest: str,
    workers: int,
    clips_per_shard: int,
) -> ShardIndex:
    """The index of a run that goes on, or of a new one once its clips are listed."""
    request = Request(
        media=str(source.media.resolve()),
        csv_sha256=_sha256(source.csv),
        classes_sha256=_sha256(source.classes),
        split=source.split,
        clips_per_shard=clips_per_shard,
    )
    if (out / INDEX).exists():
        index = _read_begun(out)
        _check_same(out, request, index, config, digest)
        return index
    if source.csv is None:
        listing = list_folder(source.media, config.clip_s, workers)
    else:
        listing = list_csv(source.media, source.csv, source.classes, source.split)
    return _write_listing(out, request, listing, config, digest)


def keep_finished(out: Path, index: ShardIndex) -> tuple[ShardIndex, int]:
    """The index less shards whose file is gone or cut short; the lines that stay in SKIPPED.

    Files that a killed run has left half written are removed.
    """
    for part in out.glob(".vab-rt-*.part"):
        part.unlink(missing_ok=True)
    shards = {
        name: shard
        for name, shard in index.shards.items()
        if (out / name).is_file() and (out / name).stat().st_size == shard.size_bytes
    }
    skipped = [
        line
        for line in _read_lines(out / SKIPPED, Skipped)
        if line.shard is None or shard_name(line.shard) in shards
    ]
    write_whole(out / SKIPPED, _lines(skipped))
    is_complete = index.complete and len(shards) == len(index.shards)
    return msgspec.structs.replace(index, shards=shards, complete=is_complete), len(skipped)


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def read_clips(out: Path) -> list[Segment]:
    """Every clip to be extracted, in the order of the shards. Raises DataError."""
    return _read_lines(out / CLIPS, Segment)


def add_skipped(out: Path, records: list[Skipped]) -> None:
    with writing(out / SKIPPED), (out / SKIPPED).open("ab") as file:
        file.write(_lines(records))


def _write_listing(
    out: Path, request: Request, listing: Listing, config: ModelConfig, digest: str
) -> ShardIndex:
    """All that a run which goes on needs; the index comes last and vouches for the rest."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_whole(out / REQUEST, msgspec.json.encode(request) + b"\n")
    write_whole(out / SKIPPED, _lines(listing.skipped))
    write_whole(out / CLIPS, _lines(listing.segments))
    index = ShardIndex(
        model=clip_facts(config),
        encoders_sha256=digest,
        labels=listing.labels,
        shards={},
        complete=False,
    )
    write_index(out, index)
    return index


def _read_begun(out: Path) -> ShardIndex:
    try:
        data = (out / INDEX).read_bytes()
    except OSError as error:
        raise _unreadable(out / INDEX, error) from error
    return read_index(str(out / INDEX), data)


def _check_same(
    out: Path, request: Request, index: ShardIndex, config: ModelConfig, digest: str
) -> None:
    check_facts(str(out), index.model, config)
    if index.encoders_sha256 != digest:
        raise DataError(
            f"{out} was begun with another checkpoint, expected the weights of this one; go on "
            "with that one, or choose another --out"
        )
    begun = next(iter(_read_lines(out / REQUEST, Request)), None)
    if begun is None:
        raise _unreadable(out / REQUEST, "it has no line")
    for name in Request.__struct_fields__:
        found, expected = getattr(begun, name), getattr(request, name)
        if found != expected:
            raise DataError(
                f"{out} was begun with {name} {found}, expected {expected}; go on with the same "
                "command, or choose another --out"
            )


def _sha256(path: Path | None) -> str | None:
    if path is None:
        return None
    if not path.is_file():
        raise DataError(f"{path} is not a file, expected a CSV; check the path")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _lines(records: Iterable[msgspec.Struct]) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


def _read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """The records of a file; a last line that an interruption has cut short is left out."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
        return [msgspec.json.decode(line, type=kind) for line in lines]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, why: object) -> DataError:
    return DataError(
        f"{path} cannot be read ({why}), expected it as it was written; delete {path.parent} "
        "and begin again"
    )
