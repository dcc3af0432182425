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
from training.datasets.growing import Field, Row, grow, read_grown
from training.evaluation.held_out import encoded_clips, with_classes
from training.fitting import averaged_weights, steps_made
from training.model import VAB
from training.pretrain import PretrainSettings, pretrain
from training.stage import hold, stage
from vab_rt.config import Tuning


def encoded(path: Path, start: Path, split: str, count: int) -> TokenisedClips:
    """Clips of a split by the encoders in `start`, kept in `path` until these change."""
    rows = path.with_name(f"{path.stem}-{count}")
    config, seeds = read_checkpoint(start).config, foleyworld.clip_seeds(split, 0, count)
    fields = {
        "tokens": Field("<i2", (config.num_codebooks, config.num_token_steps)),
        "features": Field("<f2", (config.num_frames, config.visual_dim)),
    }

    def rows_from(first: int) -> Iterator[Row]:
        for clip in encoded_clips(start, seeds[first:], os.cpu_count() or 1, "cpu"):
            yield Row({"tokens": clip.tokens, "features": clip.features})

    def make() -> None:
        arrays, _ = read_grown(grow(rows, fields, count, rows_from), ("tokens", "features"))
        with_classes(arrays["tokens"], arrays["features"], seeds).save(path)

    begun = (rows, rows.with_name(f"{rows.name}.partial"))
    stage(path, make, parts=begun, start=start, clips=count, world=foleyworld.VERSION)
    shutil.rmtree(rows, ignore_errors=True)
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
    to be decoded with these `options`. Raises OptionError where it was begun from another start."""
    with distributed.rank_zero_first():
        hold(folder / "vab.pt", start=start.path)
    report(
        f"pretrain {start.config.name}",
        pretrain(folder, clips, validation, start.vab(), settings, minutes),
    )
    if distributed.rank() == 0:
        finish(folder, start, options)
    distributed.barrier()
    return folder / "ckpt.pt"


def finish(folder: Path, start: Checkpoint, options: Tuning) -> None:
    """`folder`/ckpt.pt: `start` with the weights in vab.pt."""
    path, weights = folder / "ckpt.pt", folder / "vab.pt"

    def make() -> None:
        vab = VAB(start.config)
        vab.load_state_dict(averaged_weights(weights))
        modules = {"vab": vab, "codec": start.codec(), **start.visual_parts()}
        made = {
            "date": datetime.date.today().isoformat(),
            "pretraining_steps": str(steps_made(weights)),
        }
        header = msgspec.structs.replace(start.header.with_provenance(made), options=options)
        write_checkpoint(path, header, modules)

    if path.exists() and read_checkpoint(path).header.options != options:
        path.unlink()  # also one of an earlier version, without inputs beside it
    stage(path, make, weights=weights, start=start.path)
