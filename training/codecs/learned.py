"""The spectral codec with latents that are learned, for recordings of real sound.

An encoder sees the bands of some frames before and after, so that codes tell what lasts once and
less of what noise makes of it. Latents begin as the principal components of the bands, codebooks as
k-means of these, and the decoder as what undoes them: all three then learn together. A fixed matrix
holds that beginning, since Adam's steps would turn it faster than the networks learn.

A token may say several frames at once: what it takes to tell a sound's kind then fits in a quarter
of the bits or less, and a model that draws tokens independently has fewer that must agree.
"""

import math
from collections.abc import Iterator

import msgspec
import torch
from encodec.quantization import ResidualVectorQuantizer
from torch import Tensor, nn

from training.codecs.bands import FINE_BANDS, LEVEL_BANDS
from training.codecs.codebooks import fit_codebooks, quantise
from training.codecs.networks import ConvNeXtBlock
from training.codecs.spectral import CODE_DIM, ENVELOPE_POINTS, SpectralCodec, Spectrum
from training.codecs.upper import Upper
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

LEARNT_ALONE = ("deviation", "level", "envelope", "upper")
FITTED_POINTS, FITTING_ROUNDS = 40_000, 12
STEEPEST = 2.0  # neper of power: from there on a level that is told too low costs by a line


class LearnedSpectralCodec(SpectralCodec):
    """audio [B, S] in [-1, 1] <-> tokens [B, K, T], S = T * hop."""

    def _make_networks(self, config: ModelConfig) -> None:
        s, dim, width = self.settings, config.code_dim, self.settings.decoder_width
        frames = s.frames_per_token
        if dim > frames * CODE_DIM:
            raise OptionError(
                f"code_dim is {dim}, expected at most {frames * CODE_DIM}, the bands there are"
            )
        self.together, self.apart = Together(frames), Apart(frames)
        self.quantizer = ResidualVectorQuantizer(
            dimension=dim, n_q=config.num_codebooks, bins=config.codebook_size
        )
        self.encoder = nn.Sequential(
            nn.Linear(CODE_DIM, s.encoder_width),
            *[ConvNeXtBlock(s.encoder_width, s.expansion) for _ in range(s.encoder_blocks)],
            nn.LayerNorm(s.encoder_width),
            self.together,
            zeroed(nn.Linear(frames * s.encoder_width, dim)),
        )
        self.register_buffer("mean", torch.zeros(frames * CODE_DIM))
        self.register_buffer("down", torch.eye(frames * CODE_DIM, dim))
        self.register_buffer("up", torch.eye(dim, frames * CODE_DIM))
        self.decoder = nn.Sequential(
            nn.Linear(dim, frames * width),
            self.apart,
            *[ConvNeXtBlock(width, s.expansion) for _ in range(s.decoder_blocks)],
            nn.LayerNorm(width),
        )
        self.head = nn.Linear(width, 4 * self.bins)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.mend = zeroed(nn.Linear(width, CODE_DIM))
        if s.upper:
            self.upper = Upper(width + CODE_DIM, 2 * self.hop)

    @property
    def seen(self) -> list[int]:
        """Every codebook looks at all of the latents."""
        return [0] * len(self.quantizer.vq.layers)

    def latents(self, audio: Tensor) -> Tensor:
        """[B, T, code_dim]"""
        return self._latents(self.points(audio), bfloat16=False)

    def points(self, audio: Tensor) -> Tensor:
        """[B, T, frames_per_token * CODE_DIM]"""
        return self.together(super().points(self.lower(audio)))

    def lower(self, audio: Tensor) -> Tensor:
        """What is coded of audio [B, S]: its lower half, where the upper one is made anew."""
        return self.upper.halved(audio) if self.settings.upper else audio

    def render(self, spectrum: Spectrum) -> Tensor:
        audio = super().render(spectrum)
        if spectrum.upper is None:
            return audio
        return self.upper.doubled(audio) + self.upper.sound(spectrum.upper)

    def fit_shares(self, points: Tensor) -> Tensor:
        return self.together(super().fit_shares(self.apart(points))[:, None]).amax(1)

    def _latents(self, points: Tensor, bfloat16: bool) -> Tensor:
        with torch.autocast(points.device.type, torch.bfloat16, bfloat16):
            learned = self.encoder(self.apart(points) / self.weight / 3 + 1)
        return (points - self.mean) @ self.down + learned.float()

    def spectrum(self, latents: Tensor, bfloat16: bool = False) -> Spectrum:
        with torch.autocast(latents.device.type, torch.bfloat16, bfloat16):
            hidden = self.decoder(latents)
            of_bins, mended = self.head(hidden).float(), self.mend(hidden).float()
        logs = self.apart(latents @ self.up + self.mean) / self.weight + mended
        spectrum = self._spectrum(logs, of_bins.unflatten(2, (4, self.bins)))
        if not self.settings.upper:
            return spectrum
        strengths = self.upper(torch.cat([hidden.float(), logs / 3 + 1], -1))
        return msgspec.structs.replace(spectrum, upper=strengths)

    def reconstruct(
        self, audio: Tensor, random: torch.Generator, dead_below: float, bfloat16: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training pass: what becomes of audio [B, S], and the losses of what lies before it.

        Frequencies learn by their own loss alone: through the sum over frames that makes phases of
        them, gradients from the sound are mostly noise. So do levels and envelope: losses of the
        sound are of logarithms, and least at its median, which is fainter than the mean power.
        """
        with torch.no_grad():
            points = self.points(audio)
        latents = self._latents(points, bfloat16)
        num_kept = self._num_kept(len(audio), random)
        quantised, commitment = quantise(self.quantizer, latents, random, dead_below, num_kept)
        spectrum = self.spectrum(quantised, bfloat16)
        losses = self.spectrum_losses(spectrum, self.lower(audio))
        _, level, envelope = (self.apart(points) / self.weight).split(
            [FINE_BANDS, LEVEL_BANDS, ENVELOPE_POINTS], -1
        )
        losses["energies"] = power_loss(spectrum.level, level) + power_loss(
            spectrum.envelope, envelope
        )
        if spectrum.upper is not None:
            losses["energies"] = losses["energies"] + self.upper.loss(spectrum.upper, audio)
        found = {name: getattr(spectrum, name) for name in LEARNT_ALONE}
        own = {name: x.detach() for name, x in found.items() if x is not None}
        rendered = self.render(msgspec.structs.replace(spectrum, **own))
        return rendered, losses | {"commitment": commitment}

    @torch.no_grad()
    def fit(self, points: Tensor) -> Iterator[None]:
        """Fits principal components, and their codebooks, to points [N, frames_per_token *
        CODE_DIM]."""
        random = torch.Generator().manual_seed(0)
        points = points[torch.randperm(len(points), generator=random)[:FITTED_POINTS]]
        self.mean.copy_(points.mean(0))
        centred = points - self.mean
        share, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
        dim = self.down.shape[1]
        axes, scale = axes.flip(1)[:, :dim], share.flip(0)[:dim].mean().clamp(min=1e-6).sqrt()
        self.down.copy_(axes / scale)
        self.up.copy_((axes * scale).T)
        yield from fit_codebooks(self.quantizer, centred @ self.down, FITTING_ROUNDS)


class Together(nn.Module):
    """Frames [..., frames, width] -> tokens [..., T, frames / T * width]."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-2, (-1, self.frames)).flatten(-2)


class Apart(Together):
    """And back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.frames, -1)).flatten(-3, -2)


def power_loss(log_magnitude: Tensor, target: Tensor) -> Tensor:
    """Itakura-Saito's distance, halved, of logarithms of magnitudes: least at the mean power, where
    squares would settle below it, at the mean logarithm. Straight where it would grow fast."""
    missing = 2 * (target - log_magnitude)
    curved = missing.clamp(max=STEEPEST)
    straight = (missing - curved) * (math.exp(STEEPEST) - 1)
    return (curved.exp() - curved - 1 + straight).mean() / 2


def zeroed(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
