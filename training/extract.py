"""Tokens and features of real media, in shards: `python -m training.extract --help`.

Run the same command again to go on where it stopped. Layouts and the format: docs/DATA.md.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import av.error
import msgspec

from training.configs import read_recipe
from training.datasets.encoders import encode_segment, load_encoders
from training.datasets.extraction import (
    SKIPPED,
    Source,
    add_skipped,
    begin,
    keep_finished,
    read_clips,
    shard_name,
)
from training.datasets.media_sets import Segment, Skipped
from training.datasets.shard_format import (
    Shard,
    ShardIndex,
    check_facts,
    clip_facts,
    encoders_sha256,
    write_index,
    write_shard,
)
from training.file_names import print_any_name
from training.kinds import with_kinds_of
from training.processes import in_parallel
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, MediaError, OptionError, VabError


class Progress(msgspec.Struct, frozen=True):
    """skipped counts rows without a file as well as clips that could not be read."""

    shards: int
    num_shards: int
    clips: int
    skipped: int


class ShardJob(msgspec.Struct, frozen=True):
    """One shard to be made; first is the number of its first clip in clips.jsonl."""

    number: int
    first: int
    segments: list[Segment]
    media: Path
    out: Path
    checkpoint: Path
    device: str


def extract(
    out: Path,
    source: Source,
    config: ModelConfig,
    checkpoint: Path,
    workers: int = 1,
    clips_per_shard: int = 512,
    device: str = "cpu",
) -> Iterator[Progress]:
    """Fill `out` with shards; yields after the list of clips is made, and after each shard.

    Raises VabError; what was finished stays, and the same call goes on from there.
    """
    if workers < 1 or clips_per_shard < 1:
        raise OptionError(
            f"workers {workers} and clips per shard {clips_per_shard}: expected at least 1 of each"
        )
    encoders = load_encoders(checkpoint, device)
    config = with_kinds_of(config, encoders.config)
    check_facts(str(checkpoint), clip_facts(encoders.config), config)
    digest = encoders_sha256(encoders.codec, encoders.visual_encoder)
    index = begin(out, source, config, digest, workers, clips_per_shard)
    segments = read_clips(out)
    num_shards = -(-len(segments) // clips_per_shard)
    index, num_skipped = keep_finished(out, index)
    yield _progress(index, num_shards, num_skipped)
    jobs = (
        ShardJob(
            number=number,
            first=number * clips_per_shard,
            segments=segments[number * clips_per_shard :][:clips_per_shard],
            media=source.media,
            out=out,
            checkpoint=checkpoint,
            device=device,
        )
        for number in range(num_shards)
        if shard_name(number) not in index.shards
    )
    for number, shard, skipped in in_parallel(extract_shard, jobs, workers):
        add_skipped(out, skipped)
        num_skipped += len(skipped)
        shards = dict(sorted({**index.shards, shard_name(number): shard}.items()))
        index = msgspec.structs.replace(index, shards=shards)
        write_index(out, index)
        yield _progress(index, num_shards, num_skipped)
    if not any(shard.clips for shard in index.shards.values()):
        raise DataError(
            f"none of the {len(segments)} clips could be read, expected some; see "
            f"{out / SKIPPED} for the reasons, and delete {out} before the next try"
        )
    write_index(out, msgspec.structs.replace(index, complete=True))


def extract_shard(job: ShardJob) -> tuple[int, Shard, list[Skipped]]:
    """Read, encode and write the clips of one shard; returns its number and what was skipped."""
    encoders = load_encoders(job.checkpoint, job.device)
    samples, skipped = [], []
    for number, segment in enumerate(job.segments, job.first):
        try:
            samples.append(encode_segment(job.media, segment, f"{number:09d}", encoders))
        except (VabError, av.error.FFmpegError, OSError) as error:
            skipped.append(Skipped(segment.path, segment.start_s, str(error), job.number))
    if not samples and not any((job.media / part.path).exists() for part in job.segments):
        raise MediaError(
            f"{job.media} has lost its files, such as {job.segments[0].path}, since they were "
            "listed; bring them back (is the disk mounted?) and run the same command to go on"
        )
    return job.number, write_shard(job.out / shard_name(job.number), samples), skipped


def _progress(index: ShardIndex, num_shards: int, num_skipped: int) -> Progress:
    clips = sum(shard.clips for shard in index.shards.values())
    return Progress(len(index.shards), num_shards, clips, num_skipped)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    print_any_name()
    source = Source(options.media, options.csv, options.classes, options.split)
    try:
        progress = extract(
            options.out,
            source,
            read_recipe(options.config).model,
            options.ckpt,
            options.workers,
            options.clips_per_shard,
            options.device,
        )
        for state in progress:
            print(
                f"shard {state.shards} of {state.num_shards}: {state.clips} clips, "
                f"{state.skipped} skipped (see {options.out / SKIPPED})",
                flush=True,
            )
        print(f"shards: {options.out}")
    except VabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.extract", description=__doc__)
    parser.add_argument("--media", type=Path, required=True, help="folder of videos with sound")
    parser.add_argument("--csv", type=Path, help="labels in the layout of AudioSet or VGGSound")
    parser.add_argument("--classes", type=Path, help="AudioSet's class_labels_indices.csv")
    parser.add_argument("--split", choices=["train", "test"], help="rows of a VGGSound CSV")
    parser.add_argument("--config", required=True, metavar="NAME|FILE.toml")
    parser.add_argument("--ckpt", type=Path, required=True, help="codec and visual encoders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clips-per-shard", type=int, default=512)
    parser.add_argument("--device", default="cpu", help="cpu or cuda, shared by all workers")
    return parser


if __name__ == "__main__":
    main()
