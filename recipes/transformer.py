"""The tokens and features of FoleyWorld's clips, and the transformer that learns from them."""

import datetime
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from training import distributed, foleyworld
from training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from training.command import report
from training.datasets.clips import ClipSource, TokenisedClips
from training.datasets.growing import Field, Row, drop_older, grow, is_older, read_grown
from training.evaluation.held_out import encoded_clips, with_classes
from training.fitting import averaged_weights, steps_made
from training.model import VAB
from training.pretrain import PretrainSettings, pretrain
from training.saving import save_whole
from vab_rt.config import Tuning


def encoded(path: Path, start: Path, split: str, count: int) -> TokenisedClips:
    """Clips of a split by the encoders in `start`, kept in `path` until these change."""
    rows = path.with_name(f"{path.stem}-{count}")
    if not is_older(path, start):
        kept = TokenisedClips.load(path)
        if len(kept) == count:
            shutil.rmtree(rows, ignore_errors=True)
            return kept
    config, seeds = read_checkpoint(start).config, foleyworld.clip_seeds(split, 0, count)
    fields = {
        "tokens": Field("<i2", (config.num_codebooks, config.num_token_steps)),
        "features": Field("<f2", (config.num_frames, config.visual_dim)),
    }

    def rows_from(first: int) -> Iterator[Row]:
        for clip in encoded_clips(start, seeds[first:], os.cpu_count() or 1, "cpu"):
            yield Row({"tokens": clip.tokens, "features": clip.features})

    drop_older(rows, start)
    arrays, _ = read_grown(grow(rows, fields, count, rows_from), ("tokens", "features"))
    with_classes(arrays["tokens"], arrays["features"], seeds).save(path)
    shutil.rmtree(rows)
    return TokenisedClips.load(path)


def train_model(
    folder: Path,
    start: Checkpoint,
    clips: ClipSource,
    validation: TokenisedClips | None,
    settings: PretrainSettings,
    minutes: float | None,
    options: Tuning,
) -> Path:
    """Pre-train the transformer of `start`; the path of the finished checkpoint, whose model wants
    to be decoded with these `options`."""
    report(
        f"pretrain {start.config.name}",
        pretrain(folder, clips, validation, start.vab(), settings, minutes),
    )
    path = folder / "ckpt.pt"
    if distributed.rank() == 0 and is_older(path, folder / "vab.pt", start.path):
        vab = VAB(start.config)
        vab.load_state_dict(averaged_weights(folder / "vab.pt"))
        modules = {"vab": vab, "codec": start.codec(), **start.visual_parts()}
        made = {
            "date": datetime.date.today().isoformat(),
            "pretraining_steps": str(steps_made(folder / "vab.pt")),
        }
        header = msgspec.structs.replace(start.header.with_provenance(made), options=options)
        write_checkpoint(path, header, modules)
    elif distributed.rank() == 0:
        recommend(path, options)
    distributed.barrier()
    return path


def recommend(path: Path, options: Tuning) -> None:
    """Write other options into a checkpoint, which stays as old as its weights."""
    checkpoint = read_checkpoint(path)
    if checkpoint.header.options == options:
        return
    times, header = path.stat(), msgspec.structs.replace(checkpoint.header, options=options)
    save_whole(path, msgspec.to_builtins(header) | checkpoint.weights)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
