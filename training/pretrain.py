"""Pre-training: predict masked audio tokens from the picture and the tokens left (section 3.2)."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.fitting import Average, fit, half_cosine, set_rate
from training.masking import mask_tokens, temporal_mixup, temporal_roll
from training.model import VAB
from vab_rt.config import ModelConfig


class PretrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One pre-training run; the defaults are the paper's (table 8)."""

    batch: int = 60
    peak_rate: float = 2e-4
    weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    dropout: float = 0.1
    mixup: float = 0.5
    roll: float = 0.1
    visual_dropout: float = 0.1
    seed: int = 0


class TokenisedClips(msgspec.Struct, frozen=True):
    """tokens [N, K, T] and visual features float32 [N, F, visual_dim] of N clips."""

    tokens: np.ndarray
    features: np.ndarray


def pretrain(
    folder: Path,
    clips: TokenisedClips,
    codebooks: Tensor,
    config: ModelConfig,
    settings: PretrainSettings,
    minutes: float,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/vab.pt with the averaged weights."""
    s = settings
    torch.manual_seed(s.seed)
    model = VAB(config, s.dropout)
    model.use_codebooks(codebooks)
    average = Average(model)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=s.weight_decay)

    def step(i: int, progress: float) -> dict[str, float]:
        set_rate(optimizer, half_cosine(progress, s.peak_rate))
        batch = training_batch(clips, config, s, np.random.default_rng((s.seed, i)))
        loss, accuracy = masked_loss(model, *batch, s.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        return {"loss": loss.item(), "accuracy": accuracy.item()}

    parts = {"vab": model, "average": average, "optimizer": optimizer}
    yield from fit(folder / "vab.pt", parts, step, minutes)


def training_batch(
    clips: TokenisedClips,
    config: ModelConfig,
    settings: PretrainSettings,
    random: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """masked tokens, targets [B, K, T], hidden [B, K, T], features [B, F, C], conditional [B]"""
    rows = random.integers(len(clips.tokens), size=settings.batch)
    tokens = clips.tokens[rows].astype(np.int32)
    features = clips.features[rows].astype(np.float32)
    tokens, features = temporal_mixup(tokens, features, random, settings.mixup)
    tokens, features = temporal_roll(tokens, features, random, settings.roll)
    masked, hidden = mask_tokens(tokens, config.mask_id, random)
    conditional: NDArray[np.float32] = (
        random.random(settings.batch) >= settings.visual_dropout
    ).astype(np.float32)
    arrays = (masked, tokens.astype(np.int64), hidden, features, conditional)
    masked_, targets_, hidden_, features_, conditional_ = map(torch.from_numpy, arrays)
    return masked_, targets_, hidden_, features_, conditional_


def masked_loss(
    model: VAB,
    masked: Tensor,
    targets: Tensor,
    hidden: Tensor,
    features: Tensor,
    conditional: Tensor,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy on the masked tokens, and how many of them the model would guess."""
    logits = model(masked, features, conditional)[hidden]  # [masked, V]
    wanted = targets[hidden]
    loss = F.cross_entropy(logits, wanted, label_smoothing=label_smoothing)
    return loss, (logits.argmax(-1) == wanted).float().mean()
