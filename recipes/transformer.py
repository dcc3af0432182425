"""The tokens and features of FoleyWorld's clips, and the transformer that learns from them."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from training import distributed, foleyworld
from training.checkpoint import Checkpoint, read_checkpoint
from training.command import report
from training.datasets.clips import ClipSource, TokenisedClips
from training.datasets.resumable_arrays import Field, Row, grow, read_grown
from training.distill import DISTILLATION, DistillSettings, distill_guidance
from training.evaluation.held_out import encoded_clips, with_classes
from training.fitting import averaged_weights, steps_made
from training.model import VAB
from training.pretrain import PretrainSettings, finish, pretrain
from training.stage import begin, hold, stage
from vab_rt.config import ModelConfig
from vab_rt.options import Tuning


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
    distilled: tuple[DistillSettings, float] | None = None,
) -> Path:
    """Pre-train the transformer of `start`; the path of the finished checkpoint, whose model wants
    to be decoded with these `options`. Raises OptionError where it was begun from another start.

    distilled: then distill its guidance into one pass, in so many minutes.
    """
    with distributed.rank_zero_first():
        hold(folder / "vab.pt", start=start.path)
    report(
        f"pretrain {start.config.name}",
        pretrain(folder, clips, validation, start.vab(), settings, minutes),
    )
    config, weights, steps = start.config, folder / "vab.pt", "pretraining_steps"
    if distilled is not None:
        made = {steps: str(steps_made(weights))}
        start = msgspec.structs.replace(start, header=start.header.with_provenance(made))
        steps = DISTILLATION
        config, weights = distill(
            folder / "distilled" / "vab.pt", weights, clips, config, *distilled
        )
    if distributed.rank() == 0:
        finish(folder / "ckpt.pt", start, config, weights, options, steps)
    distributed.barrier()
    return folder / "ckpt.pt"


def distill(
    path: Path,
    weights: Path,
    clips: ClipSource,
    config: ModelConfig,
    settings: DistillSettings,
    minutes: float,
) -> tuple[ModelConfig, Path]:
    """The student of a model with these weights, at `path`."""
    with distributed.rank_zero_first():
        begin(path, weights=weights)
    teacher = VAB(config)
    teacher.load_state_dict(averaged_weights(weights))
    report(
        f"distill {config.name}",
        distill_guidance(path.parent, clips, teacher, settings, minutes),
    )
    return settings.student_config(config), path
