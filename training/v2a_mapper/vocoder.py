"""The tiny vocoder: HiFi-GAN's generator, without its discriminators.

It learns from spectra at several resolutions alone, as adversaries take a CPU too long; half of
its input has gone through the autoencoder, as all of it does when sound is generated.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from training.codecs.spectra import MultiScaleSpectra
from training.fitting import EMA, cosine_lr, fit, set_lr
from training.representation import load_averaged
from training.samples import as_floats
from training.v2a_mapper.mel import MEAN, SPREAD, LogMel
from training.v2a_mapper.parts import build_vocoder
from training.v2a_mapper.settings import check_stage
from vab_rt.errors import OptionError
from vab_rt.v2a_mapper.config import V2AConfig

LOSSES = frozenset({"log_mel", "convergence"})
SHORTEST_WINDOW = 8


class VocoderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """columns: latent columns of a crop, without one at each end, which is only heard of.
    decoded_share: of the steps, on spectra that went through the autoencoder. sizes, bands: see
    `MultiScaleSpectra`."""

    batch: int = 16
    columns: int = 10
    decoded_share: float = 0.5
    peak_rate: float = 2e-3
    weight_decay: float = 1e-3
    sizes: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    bands: int = 80
    seed: int = 0

    def __post_init__(self) -> None:
        check_stage("vocoder", self, ("batch", "columns", "bands"), ("decoded_share",))
        if not self.sizes or min(self.sizes) < SHORTEST_WINDOW:
            raise OptionError(
                f"vocoder sizes are {self.sizes}, expected some, of at least {SHORTEST_WINDOW}"
            )


class Recorded(msgspec.Struct, frozen=True):
    """audio int16 [N, S] and latents [N, T, C, M], unscaled, of the same sounds."""

    audio: np.ndarray
    latents: np.ndarray


def train_vocoder(
    folder: Path,
    recorded: Recorded,
    vae: nn.Module,
    config: V2AConfig,
    sizes: dict[str, Any],
    settings: VocoderSettings,
    minutes: float,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/vocoder.pt with the averaged weights."""
    s = settings
    torch.manual_seed(s.seed)
    vocoder = untrained_vocoder(sizes).train()
    average = EMA(vocoder)
    optimizer = torch.optim.AdamW(
        vocoder.parameters(), betas=(0.8, 0.99), weight_decay=s.weight_decay
    )
    distance = MultiScaleSpectra(config.sample_rate_hz, s.sizes, s.bands, torch.device("cpu"))
    log_mel = LogMel(config)

    def step(i: int, progress: float) -> dict[str, float]:
        set_lr(optimizer, cosine_lr(progress, s.peak_rate))
        random = np.random.default_rng((s.seed, i))
        audio, latents = random_parts(recorded, config, s, random)
        is_decoded = random.random() < s.decoded_share
        with torch.no_grad():
            mels = vae.decode(latents).sample[:, 0] if is_decoded else log_mel(audio)
        margin = config.hop_samples
        inner = slice(margin, audio.shape[1] - margin)
        losses = distance(vocoder(mels)[:, inner], audio[:, inner], LOSSES)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(vocoder.parameters(), 1.0)
        optimizer.step()
        average.update(vocoder)
        return {name: x.item() for name, x in losses.items()}

    parts = {"vocoder": vocoder, "average": average, "optimizer": optimizer}
    yield from fit(folder / "vocoder.pt", parts, step, minutes)


def untrained_vocoder(sizes: dict[str, Any]) -> nn.Module:
    """With weights that let sound through: those of the library begin near silence."""
    vocoder = build_vocoder(sizes)
    for layer in vocoder.modules():
        if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
            layer.reset_parameters()
    vocoder.mean.fill_(MEAN)
    vocoder.scale.fill_(SPREAD)
    return vocoder


def random_parts(
    recorded: Recorded, config: V2AConfig, s: VocoderSettings, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Sound [B, samples] in [-1, 1] and its latents [B, C, columns, M]."""
    hop, length = config.hop_samples, s.columns + 2
    rows = random.integers(len(recorded.audio), size=s.batch)
    starts = random.integers(recorded.latents.shape[1] - length + 1, size=s.batch)
    places = list(zip(rows, starts, strict=True))
    audio = np.stack([recorded.audio[r, t * hop : (t + length) * hop] for r, t in places])
    latents = np.stack([recorded.latents[r, t : t + length] for r, t in places])
    return (
        torch.from_numpy(as_floats(audio)),
        torch.from_numpy(latents.astype(np.float32)).transpose(1, 2),
    )


def load_vocoder(path: Path, sizes: dict[str, Any]) -> nn.Module:
    """What `train_vocoder` left. Raises DataError, ExportError for other sizes."""
    return load_averaged(path, build_vocoder(sizes))
