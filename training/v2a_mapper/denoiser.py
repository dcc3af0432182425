"""The tiny latent diffusion: AudioLDM's UNet, which takes the noise out of latents of a sound.

It is conditioned on the CLAP vector of the very sound it restores, so it needs no text
(arXiv:2301.12503, section 3.1).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.fitting import EMA, cosine_lr, fit, set_lr, wants_bfloat16
from training.representation import load_averaged
from training.v2a_mapper.diffusion import noised
from training.v2a_mapper.parts import build_unet
from training.v2a_mapper.settings import check_stage
from vab_rt.v2a_mapper.config import V2AConfig
from vab_rt.v2a_mapper.diffusion import scaled_linear_alphas


class DenoiserSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """columns: of a crop, until crop_share of the run; then batches of as many columns in whole
    clips. null_share: of the batch, which hears the null embedding instead."""

    batch: int = 32
    columns: int = 32
    crop_share: float = 0.85
    null_share: float = 0.1
    peak_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        check_stage("denoiser", self, ("batch", "columns"), ("crop_share", "null_share"))


class Sounds(msgspec.Struct, frozen=True):
    """latents [N, T, C, M] of unit spread once multiplied by `scale`, vectors [N, audio_dim] of
    the same sounds, null [audio_dim]."""

    latents: np.ndarray
    scale: float
    vectors: Tensor
    null: Tensor


def train_denoiser(
    folder: Path,
    sounds: Sounds,
    config: V2AConfig,
    sizes: dict[str, Any],
    settings: DenoiserSettings,
    minutes: float,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/unet.pt with the averaged weights."""
    s, half = settings, wants_bfloat16("auto", torch.device("cpu"))
    torch.manual_seed(s.seed)
    unet = build_unet(sizes).train()
    average = EMA(unet)
    optimizer = torch.optim.AdamW(unet.parameters(), weight_decay=s.weight_decay)
    alphas = scaled_linear_alphas(config.timesteps, config.beta_start, config.beta_end)
    left = torch.from_numpy(alphas).float()

    def step(i: int, progress: float) -> dict[str, float]:
        set_lr(optimizer, cosine_lr(progress, s.peak_rate))
        random = np.random.default_rng((s.seed, i))
        clean, condition = random_sounds(sounds, s, progress, random)
        times = spread_times(len(clean), config.timesteps, random)
        noise = torch.from_numpy(random.standard_normal(clean.shape, np.float32))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            x = noised(clean, noise, left[times])
            found = unet(x, times, encoder_hidden_states=None, class_labels=condition).sample
        loss = F.mse_loss(found.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        average.update(unet)
        return {"loss": loss.item()}

    parts = {"unet": unet, "average": average, "optimizer": optimizer}
    yield from fit(folder / "unet.pt", parts, step, minutes)


def random_sounds(
    sounds: Sounds, s: DenoiserSettings, progress: float, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Scaled latents [B, C, T, M] and what they are conditioned on [B, audio_dim]."""
    whole = sounds.latents.shape[1]
    cropped = progress < s.crop_share and s.columns < whole
    length = s.columns if cropped else whole
    count = s.batch if cropped else max(1, round(s.batch * s.columns / whole))
    rows = random.integers(len(sounds.latents), size=count)
    starts = random.integers(whole - length + 1, size=count)
    parts = [sounds.latents[r, t : t + length] for r, t in zip(rows, starts, strict=True)]
    clean = torch.from_numpy(np.stack(parts).astype(np.float32)).transpose(1, 2) * sounds.scale
    told = torch.from_numpy(random.random((count, 1)) >= s.null_share)
    return clean, torch.where(told, sounds.vectors[torch.from_numpy(rows)], sounds.null)


def spread_times(count: int, timesteps: int, random: np.random.Generator) -> Tensor:
    """Times int64 [count], one in each of as many equal parts of the schedule."""
    shares = (np.arange(count) + random.random(count)) / count
    return torch.from_numpy((shares * timesteps).astype(np.int64))


def load_denoiser(path: Path, sizes: dict[str, Any]) -> nn.Module:
    """What `train_denoiser` left. Raises DataError, ExportError for other sizes."""
    return load_averaged(path, build_unet(sizes))
