"""What a mapper learns from, of your own clips: `python -m training.v2a_mapper.extract --help`.

Pictures by the CLIP that an import has put in a checkpoint, sound by CLAP in the layout of
transformers. `python -m training.v2a_mapper.mapping --pairs OUT` trains on the folder. Run the same
command again to go on where it stopped.
"""

import argparse
import functools
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av.error
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training.checkpoint import load_weights, read_parts
from training.command import run_command
from training.datasets.encoders import read_segment
from training.datasets.media_sets import Segment, list_csv, list_folder
from training.datasets.resumable_arrays import NOTES, Field, Row, grow, read_grown
from training.datasets.shard_format import encoders_sha256
from training.processes import in_order
from training.v2a_mapper.checkpoint import KIND, NULL_EMBEDDING, V2A_PARTS
from training.v2a_mapper.mapping import ARRAYS
from training.v2a_mapper.parts import PictureEncoder
from training.v2a_mapper.real_clap import Clap, open_clap
from vab_rt.errors import DataError, ExportError, MediaError, MediaWarning, VabError
from vab_rt.v2a_mapper.config import V2AConfig

IMPORTS = {"image_encoder": "clip", NULL_EMBEDDING: "audioldm"}


class Encoders(NamedTuple):
    """images: frames -> features. digest: of the weights of both."""

    config: V2AConfig
    images: PictureEncoder
    clap: Clap
    digest: str


class ClipJob(msgspec.Struct, frozen=True):
    """One clip to be encoded."""

    media: Path
    segment: Segment
    checkpoint: Path
    clap: Path


def extract(
    out: Path, media: Path, segments: list[Segment], checkpoint: Path, clap: Path, workers: int = 1
) -> int:
    """Fill `out` with features [N, F, visual_dim] and unit vectors [N, audio_dim] of these clips;
    returns how many could be read.

    What cannot be read is NaN, and its note says why. Raises VabError; what is finished stays, and
    the same call goes on from there.
    """
    encoders = open_encoders(checkpoint, clap)
    check_begun(out, segments, encoders.digest)
    c = encoders.config
    fields = {
        "features": Field("<f2", (c.num_frames, c.visual_dim)),
        "vectors": Field("<f4", (c.audio_dim,)),
    }
    jobs = [ClipJob(media, segment, checkpoint, clap) for segment in segments]

    def rows_from(first: int) -> Iterator[Row]:
        yield from in_order(encode_clip, jobs[first:], workers)

    grow(out, fields, len(segments), rows_from)
    _, notes = read_grown(out, ARRAYS)
    reasons = [note["skipped"] for note in notes if "skipped" in note]
    if len(reasons) == len(notes):
        raise DataError(
            f"none of the {len(notes)} clips could be read, for instance: {reasons[0]}; delete "
            f"{out} before the next try"
        )
    return len(notes) - len(reasons)


def check_begun(out: Path, segments: list[Segment], digest: str) -> None:
    """Raises DataError where `out` holds other clips, or by other encoders."""
    for folder in (out, out.with_name(f"{out.name}.partial")):
        path = folder / NOTES
        lines = path.read_text().splitlines() if path.is_file() else []
        notes = [note_of(segment, digest) for segment in segments]
        if (len(lines) > len(notes)) or (folder == out and out.exists() and not lines):
            raise DataError(f"{folder} holds something else, expected {len(notes)} clips or none")
        for line, expected in zip(lines, notes, strict=False):
            found = {key: x for key, x in json.loads(line).items() if key != "skipped"}
            if found != expected:
                raise DataError(
                    f"{folder} was begun with {found}, expected {expected}; go on with the same "
                    "media and weights, or choose another --out"
                )


def note_of(segment: Segment, digest: str) -> dict:
    return {"path": segment.path, "start_s": segment.start_s, "encoders": digest}


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_encoders(checkpoint: Path, clap: Path) -> Encoders:
    """The encoders of a checkpoint that may still lack a mapper. Raises ExportError, DataError."""
    header, weights = read_parts(checkpoint, V2A_PARTS)
    if header.get("kind") != KIND:
        raise ExportError(
            f"{checkpoint} has the kind {header.get('kind')!r}, expected {KIND!r}; begin one with: "
            "python -m export.import_weights"
        )
    for part, kind in IMPORTS.items():
        if part not in weights:
            raise ExportError(
                f"{checkpoint} has no {part}, expected one; put it in with: python -m "
                f"export.import_weights {kind}"
            )
    try:
        config = msgspec.convert(header.get("config"), V2AConfig)
    except (msgspec.ValidationError, VabError) as error:
        raise ExportError(f"{checkpoint}: {error}") from error
    images = load_weights(
        f"{checkpoint}: image_encoder", weights["image_encoder"], PictureEncoder(config)
    )
    sound = open_clap(clap, config, weights[NULL_EMBEDDING]["text"])
    return Encoders(config, images, sound, encoders_sha256(sound.model, images))


@torch.inference_mode()
def encode_clip(job: ClipJob) -> Row:
    """Raises MediaError for a file that was listed and is gone."""
    encoders = open_encoders(job.checkpoint, job.clap)
    c, note = encoders.config, note_of(job.segment, encoders.digest)
    try:
        audio, frames = heard_and_seen(job, c)
    except (VabError, MediaWarning, av.error.FFmpegError, OSError) as error:
        if not (job.media / job.segment.path).exists():
            raise MediaError(
                f"{job.media} has lost {job.segment.path} since it was listed, expected it; bring "
                "it back (is the disk mounted?) and run the same command to go on"
            ) from error
        nothing = {
            "features": np.full((c.num_frames, c.visual_dim), np.nan, np.float16),
            "vectors": np.full(c.audio_dim, np.nan, np.float32),
        }
        return Row(nothing, note | {"skipped": str(error)})
    features = encoders.images(torch.from_numpy(frames)).numpy()  # [1 to F, visual_dim]
    features = features[spread_places(len(features), c.num_frames)].astype(np.float16)
    vector = encoders.clap.vector(audio, c.sample_rate_hz)
    return Row({"features": features, "vectors": vector}, note)


def heard_and_seen(
    job: ClipJob, config: V2AConfig
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Sound [S], no longer than the clip, and frames [1 to F, image_size, image_size, 3].

    What the runtime would only warn of is raised.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", MediaWarning)
        audio, frames, notes = read_segment(job.media, job.segment, config)
    return audio[: config.samples_in(notes.end_s - job.segment.start_s)], frames


def spread_places(seen: int, count: int) -> NDArray[np.int64]:
    """Places [count] among as many frames as were seen: each about equally often, in order, so
    that the mean and the middle are those of a short clip too."""
    return np.arange(count) * seen // count


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.v2a_mapper.extract", description=__doc__
    )
    parser.add_argument("--media", type=Path, required=True, help="folder of videos with sound")
    parser.add_argument("--csv", type=Path, help="labels in the layout of AudioSet or VGGSound")
    parser.add_argument("--split", choices=["train", "test"], help="rows of a VGGSound CSV")
    parser.add_argument(
        "--ckpt", type=Path, required=True, help="with CLIP and AudioLDM put in by import_weights"
    )
    parser.add_argument("--clap", type=Path, required=True, help="a folder of transformers' CLAP")
    parser.add_argument("--out", type=Path, required=True, help="folder of the pairs")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    a = arguments
    if a.workers < 1:
        raise DataError(f"workers is {a.workers}, expected at least 1")
    config = open_encoders(a.ckpt, a.clap).config
    if a.csv is None:
        segments = list_folder(a.media, config.clip_s, a.workers).segments
    else:
        segments = list_csv(a.media, a.csv, None, a.split).segments
    count = extract(a.out, a.media, segments, a.ckpt, a.clap, a.workers)
    print(f"pairs: {a.out}, {count} of {len(segments)} clips; next: ", end="")
    print(f"python -m training.v2a_mapper.mapping --pairs {a.out}")


if __name__ == "__main__":
    main()
