"""FoleyGen trained on the tokens and features of a run as VAB is: by the same batches, parts of
clips first, optimizers and budget; only what it predicts is its own."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.peers.autoregressive import delay
from bench.peers.foleygen import FoleyGen
from training import distributed
from training.datasets.clips import ClipSource, TokenisedClips
from training.fitting import EMA, averaged_weights, wants_bfloat16
from training.pretrain import Masked, PretrainSettings, fit_transformer, to_device
from vab_rt.config import ModelConfig

VALIDATION_BATCH = 8


def train_foleygen(
    checkpoint: Path,
    clips: ClipSource,
    validation: TokenisedClips,
    config: ModelConfig,
    settings: PretrainSettings,
    minutes: float | None,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses), as `pretrain` does; leaves the averaged weights in
    `checkpoint`. Every `validate_every` steps the losses hold `val_loss` and `val_accuracy`."""

    def held_out(average: EMA) -> dict[str, float]:
        return validate(average.weights, validation, config, settings)

    torch.manual_seed(settings.seed)
    model = FoleyGen(config)
    yield from fit_transformer(
        checkpoint, clips, model, next_token_loss, settings, minutes, held_out
    )


def load_foleygen(checkpoint: Path, config: ModelConfig) -> FoleyGen:
    """What `train_foleygen` left."""
    model = FoleyGen(config)
    model.load_state_dict(averaged_weights(checkpoint))
    return model.to(distributed.device()).eval()


def next_token_loss(
    model: nn.Module, batch: Masked, config: ModelConfig, s: PretrainSettings
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every token after those before it, in the delay pattern, and the share that
    the model would guess. What the batch masks is not looked at."""
    device, columns = distributed.device(), delay(batch.targets, config)  # [B, K, T + K]
    with torch.autocast(device.type, torch.bfloat16, wants_bfloat16(s.precision, device)):
        logits = model(columns[..., :-1], batch.features, batch.conditional, batch.first_frame)
    targets = columns[..., 1:].transpose(1, 2)  # [B, P, K]
    is_there = targets != config.codebook_size
    logits, targets = logits[is_there].float(), targets[is_there]  # [tokens, V]
    return F.cross_entropy(logits, targets), (logits.argmax(-1) == targets).float().mean()


@torch.no_grad()
def validate(
    weights: dict[str, Tensor], clips: TokenisedClips, config: ModelConfig, s: PretrainSettings
) -> dict[str, float]:
    """Means over whole held-out clips."""
    model = FoleyGen(config).to(distributed.device()).eval()
    model.load_state_dict(weights)
    found = []
    for start in range(0, len(clips), VALIDATION_BATCH):
        batch = clips.take(np.arange(start, min(start + VALIDATION_BATCH, len(clips))))
        unmasked = np.zeros(batch.tokens.shape, bool)
        on = np.ones(len(batch), np.float32)
        held_out = to_device(batch.tokens, batch.tokens, unmasked, batch.features, on)
        figures = torch.stack(next_token_loss(model, held_out, config, s))
        found.append(len(batch) * figures)
    loss, accuracy = (torch.stack(found).sum(0) / len(clips)).tolist()
    return {"val_loss": loss, "val_accuracy": accuracy}
