"""Pre-training: predict masked audio tokens from the video and the tokens left (section 3.2)."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed
from training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from training.datasets.clips import ClipSource, TokenisedClips
from training.fitting import (
    EMA,
    averaged_weights,
    cosine_lr,
    fit,
    steps_made,
    wants_bfloat16,
    warm_up_share,
)
from training.masking import (
    MASK_MEAN,
    mask_tokens,
    part_of_clip,
    random_part,
    temporal_freeze,
    temporal_mixup,
    temporal_roll,
)
from training.model import VAB
from training.stage import stage
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError
from vab_rt.options import Tuning

VALIDATION_SEED = 1

LossOf = Callable[[nn.Module, "Masked", ModelConfig, "PretrainSettings"], tuple[Tensor, Tensor]]
"""Model, batch, config, settings -> loss and accuracy; the model may be wrapped for many ranks."""


class PretrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One pre-training run; the defaults are the paper's (table 8).

    batch: clips a process and pass; `accumulate` passes make a step. warm_up: below 1 a share of
    the run, else a number of steps, which needs a budget of epochs.
    crop_s: until `crop_share` of the run, batches of as many seconds in clips this long.
    in_order: the share of clips whose last codebooks are masked first, see `mask_tokens`.
    muon_rate: above 0 the layers' matrices are trained by Muon (torch.optim.Muon), the rest by
    AdamW. precision auto: bfloat16 where the CPU computes it faster.
    """

    batch: int = 60
    accumulate: int = 1
    epochs: float = 17
    peak_rate: float = 2e-4
    muon_rate: float = 0.0
    weight_decay: float = 1e-5
    warm_up: float = 100_000.0
    label_smoothing: float = 0.1
    dropout: float = 0.1
    mask_mean: float = MASK_MEAN
    in_order: float = 0.0
    mixup: float = 0.5
    roll: float = 0.1
    freeze: float = 0.0
    visual_dropout: float = 0.1
    crop_s: float | None = None
    crop_share: float = 0.75
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    validate_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "accumulate", "validate_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"pretrain {name} is {getattr(self, name)}, expected at least 1")
        for name in ("mask_mean", "in_order"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"pretrain {name} is {getattr(self, name)}, expected 0 to 1")


class Masked(msgspec.Struct, frozen=True):
    """masked tokens, targets [B, K, T]; places of the masked ones, an index [masked] for each
    axis; features [B, F, C]; conditional [B]; where the clips begin."""

    tokens: Tensor
    targets: Tensor
    places: tuple[Tensor, ...]
    features: Tensor
    conditional: Tensor
    first_frame: int = 0


def pretrain(
    folder: Path,
    clips: ClipSource,
    validation: TokenisedClips | None,
    start: VAB,
    settings: PretrainSettings,
    minutes: float | None,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/vab.pt with the averaged weights.

    start: the first weights and the codebooks, not changed. minutes None: `settings.epochs` of the
    clips. Every `validate_every` steps the losses hold the averaged model's `val_accuracy`, where
    there are clips for it.
    """
    config = start.config
    model = VAB(config, settings.dropout)
    model.load_state_dict(start.state_dict())

    def held_out(average: EMA) -> dict[str, float]:
        return {"val_accuracy": validate(average, validation, config, settings)}

    measured = held_out if validation is not None else None
    path = folder / "vab.pt"
    yield from fit_transformer(path, clips, model, masked_loss, settings, minutes, measured)


def fit_transformer(
    checkpoint: Path,
    clips: ClipSource,
    model: nn.Module,
    loss_of: LossOf,
    settings: PretrainSettings,
    minutes: float | None,
    held_out: Callable[[EMA], dict[str, float]] | None = None,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Train a model of tokens and features, with `config` and `layers`; see `pretrain`.

    held_out: what the losses also hold, of the averaged weights, every `validate_every` steps. The
    model's weights are kept under the checkpoint's stem.
    """
    s, config = settings, model.config
    model.to(distributed.device())
    trained, average = distributed.ddp(model), EMA(model)
    steps = None if minutes is not None else num_steps(len(clips), s)
    warm_up = warm_up_share(s.warm_up, steps, "pretrain")
    optimizers = make_optimizers(model, s)

    def step(i: int, progress: float) -> dict[str, float | Tensor]:
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = cosine_lr(progress, group["peak"], warm_up)
            optimizer.zero_grad()
        passes = []
        for part in range(s.accumulate):
            batch = training_batch(clips, config, s, i * s.accumulate + part, progress)
            loss, accuracy = loss_of(trained, batch, config, s)
            (loss / s.accumulate).backward()
            passes.append(torch.stack([loss.detach(), accuracy]))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        average.update(model)
        loss, accuracy = torch.stack(passes).mean(0)
        losses: dict[str, float | Tensor]
        losses = {
            "loss": distributed.all_reduce_mean(loss),
            "accuracy": distributed.all_reduce_mean(accuracy),
        }
        if held_out is not None and (i + 1) % s.validate_every == 0:
            losses |= held_out(average)
        return losses

    parts: dict[str, Any] = {checkpoint.stem: model, "average": average, **optimizers}
    yield from fit(checkpoint, parts, step, minutes, steps)


def finish(
    path: Path,
    start: Checkpoint,
    config: ModelConfig,
    weights: Path,
    options: Tuning,
    steps: str = "pretraining_steps",
) -> None:
    """A checkpoint at `path`: `start` with the averaged weights of a run, of a transformer of that
    config, whose model wants to be decoded with these options; steps: what its steps are called."""

    def make() -> None:
        vab = VAB(config)
        vab.load_state_dict(averaged_weights(weights))
        modules = {"vab": vab, "codec": start.codec(), **start.visual_parts()}
        made = {"date": datetime.date.today().isoformat(), steps: str(steps_made(weights))}
        header = start.header.with_provenance(made)
        header = msgspec.structs.replace(header, config=config, options=options)
        write_checkpoint(path, header, modules)

    if path.exists() and read_checkpoint(path).header.options != options:
        path.unlink()  # also one of an earlier version, without inputs beside it
    stage(path, make, weights=weights, start=start.path)


def num_steps(num_clips: int, settings: PretrainSettings) -> int:
    per_step = settings.batch * settings.accumulate * distributed.world_size()
    return max(1, round(settings.epochs * num_clips / per_step))


def make_optimizers(model: nn.Module, s: PretrainSettings) -> dict[str, torch.optim.Optimizer]:
    """AdamW, and Muon for the layers' matrices where it is asked for; each group has its `peak`."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2 and s.muon_rate > 0]
    theirs = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in theirs]
    groups = [{"params": rest, "peak": s.peak_rate}]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "optimizer": torch.optim.AdamW(groups, lr=s.peak_rate, weight_decay=s.weight_decay)
    }
    if matrices:
        groups = [{"params": matrices, "peak": s.muon_rate}]
        optimizers["muon"] = torch.optim.Muon(groups, lr=s.muon_rate, weight_decay=0.0)
    return optimizers


def training_batch(
    clips: ClipSource, config: ModelConfig, s: PretrainSettings, draw: int, progress: float
) -> Masked:
    """This process's share of batch number `draw`: cut, mixed, rolled and masked."""
    random = np.random.default_rng((s.seed, draw, distributed.rank()))
    share = part_of_clip(s.crop_s, s.crop_share, config, progress)
    count = round(s.batch / share)
    batch = clips.batch(draw, count, s.seed, distributed.rank(), distributed.world_size())
    tokens, features, first_frame = batch.tokens, batch.features, 0
    if share < 1:
        tokens, features, first_frame = random_part(tokens, features, config, share, random)
    tokens, features = temporal_mixup(tokens, features, random, s.mixup)
    tokens, features = temporal_roll(tokens, features, random, s.roll)
    features = temporal_freeze(features, random, s.freeze)
    conditional = (random.random(count) >= s.visual_dropout).astype(np.float32)
    masked = mask_tokens(
        tokens, config.mask_id, random, s.mask_mean, config.given_codebooks, s.in_order
    )
    return to_device(tokens, *masked, features, conditional, first_frame)


def to_device(
    tokens: np.ndarray,
    masked: np.ndarray,
    hidden: np.ndarray,
    features: np.ndarray,
    conditional: np.ndarray,
    first_frame: int = 0,
) -> Masked:
    def move(array: np.ndarray) -> Tensor:
        return distributed.on_device(array, distributed.device())

    return Masked(
        tokens=move(masked),
        targets=move(tokens.astype(np.int64)),
        places=tuple(move(axis) for axis in np.nonzero(hidden)),
        features=move(features),
        conditional=move(conditional),
        first_frame=first_frame,
    )


def masked_loss(
    model: nn.Module, batch: Masked, config: ModelConfig, s: PretrainSettings
) -> tuple[Tensor, Tensor]:
    """Cross-entropy on the masked tokens, and how many of them the model would guess."""
    device = distributed.device()
    with torch.autocast(device.type, torch.bfloat16, wants_bfloat16(s.precision, device)):
        logits = model(batch.tokens, batch.features, batch.conditional, batch.first_frame)
    clip, codebook, step = batch.places  # given codebooks are never hidden; a mask waits for a GPU
    logits = logits[clip, codebook - config.given_codebooks, step].float()  # [masked, V]
    targets = batch.targets[batch.places]
    loss = F.cross_entropy(logits, targets, label_smoothing=s.label_smoothing)
    return loss, (logits.argmax(-1) == targets).float().mean()


@torch.no_grad()
def validate(
    average: EMA, clips: TokenisedClips, config: ModelConfig, s: PretrainSettings
) -> float:
    """The averaged model's share of right guesses, always of the same masked tokens."""
    model = VAB(config).to(distributed.device()).eval()
    model.load_state_dict(average.weights)
    right = []
    for start in range(0, len(clips), 8):
        batch = clips.take(np.arange(start, min(start + 8, len(clips))))
        random = np.random.default_rng((VALIDATION_SEED, start))
        masked = mask_tokens(
            batch.tokens, config.mask_id, random, s.mask_mean, config.given_codebooks
        )
        on = np.ones(len(batch), np.float32)
        held_out = to_device(batch.tokens, *masked, batch.features, on)
        right.append((masked_loss(model, held_out, config, s)[1].item(), len(batch)))
    return sum(share * count for share, count in right) / sum(count for _, count in right)
