"""The spectral codec: a residual quantiser between two frame-rate ConvNeXt stacks.

Encoder: log-magnitude spectrum and fine envelope -> ConvNeXt blocks -> RVQ. Decoder: ConvNeXt
blocks -> magnitude, frequency, coherence and envelope -> phase by accumulation -> inverse STFT.
Tokens at 50 Hz cannot carry phase, and a network that treats all times alike cannot invent one
that runs on, so each bin sums up its own frequency, as a phase vocoder does, and noise turns the
phase where the sound is not tonal. Everything runs at the token rate: it trains on a CPU and
decodes ten seconds in milliseconds.
"""

import math

import msgspec
import torch
from encodec.quantization import ResidualVectorQuantizer
from torch import Tensor, nn
from torch.nn import functional as F

from vab_rt.config import ModelConfig

FLOOR = 1e-3
MAX_LOG_MAGNITUDE = 6.0
ENVELOPE_POINTS = 8  # per hop
MAX_LOG_GAIN = 3.0
NUM_TURNS = 4093  # a prime, so that rows of the table do not line up


class SpectralSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the codec that the tensor contract does not fix."""

    n_fft: int = 960
    encoder_width: int = 192
    encoder_blocks: int = 4
    decoder_width: int = 256
    decoder_blocks: int = 6
    expansion: int = 3


class Spectrum(msgspec.Struct, frozen=True):
    """What the decoder says of each frame.

    log_magnitude, advance (radians from the frame before), offset (radians), coherence (1 tonal,
    0 noise): [B, T, bins]; log_gain [B, T, ENVELOPE_POINTS].
    """

    log_magnitude: Tensor
    advance: Tensor
    offset: Tensor
    coherence: Tensor
    log_gain: Tensor


class SpectralCodec(nn.Module):
    """audio [B, S] in [-1, 1] <-> tokens [B, K, T], S = T * hop."""

    def __init__(self, config: ModelConfig, settings: SpectralSettings) -> None:
        super().__init__()
        s = settings
        self.hop, self.bins = config.hop_samples, s.n_fft // 2 + 1
        self.transform = Transform(s.n_fft, config.hop_samples)
        self.encoder = nn.Sequential(
            nn.Linear(self.bins + ENVELOPE_POINTS, s.encoder_width),
            *[ConvNeXtBlock(s.encoder_width, s.expansion) for _ in range(s.encoder_blocks)],
            nn.LayerNorm(s.encoder_width),
            nn.Linear(s.encoder_width, config.code_dim),
        )
        self.quantizer = ResidualVectorQuantizer(
            dimension=config.code_dim, n_q=config.num_codebooks, bins=config.codebook_size
        )
        self.decoder = nn.Sequential(
            nn.Linear(config.code_dim, s.decoder_width),
            *[ConvNeXtBlock(s.decoder_width, s.expansion) for _ in range(s.decoder_blocks)],
            nn.LayerNorm(s.decoder_width),
            nn.Linear(s.decoder_width, 4 * self.bins + ENVELOPE_POINTS),
        )
        turns = torch.rand(NUM_TURNS, generator=torch.Generator().manual_seed(0))
        self.register_buffer("turns", (2 * turns - 1) * math.pi, persistent=False)

    @property
    def codebooks(self) -> Tensor:
        """[K, V, code_dim]"""
        return torch.stack([layer.codebook for layer in self.quantizer.vq.layers])

    def latents(self, audio: Tensor) -> Tensor:
        real, imaginary = self.transform.analyse(audio)  # [B, T, bins]
        log_power = (real.square() + imaginary.square() + FLOOR**2).log() / 2
        energy = audio.unflatten(1, (-1, ENVELOPE_POINTS, self.hop // ENVELOPE_POINTS))
        log_energy = (energy.square().mean(3) + FLOOR**2).log() / 2  # [B, T, ENVELOPE_POINTS]
        return self.encoder(torch.cat([log_power, log_energy], -1) / 3)  # [B, T, code_dim]

    def spectrum(self, latents: Tensor) -> Spectrum:
        out = self.decoder(latents)
        *of_bins, log_gain = out.split([*4 * [self.bins], ENVELOPE_POINTS], -1)
        log_magnitude, deviation, offset, coherence = of_bins
        k = torch.arange(self.bins, device=out.device)
        centre = (k * self.hop % self.transform.n_fft) * (2 * math.pi / self.transform.n_fft)
        return Spectrum(
            log_magnitude=log_magnitude.clamp(max=MAX_LOG_MAGNITUDE),
            advance=centre + deviation,
            offset=offset + math.pi * (k % 2),  # zero is a pulse in the middle of the frame
            coherence=coherence.sigmoid(),
            log_gain=MAX_LOG_GAIN * (log_gain / MAX_LOG_GAIN).tanh(),
        )

    def render(self, spectrum: Spectrum) -> Tensor:
        """[B, S]"""
        s = spectrum
        t = torch.arange(s.advance.shape[1], device=s.advance.device)[:, None]
        k = torch.arange(self.bins, device=s.advance.device)
        noise = self.turns[(t * 769 + k) % NUM_TURNS]  # [T, bins]
        phase = s.advance.cumsum(1) + s.offset + (1 - s.coherence) * noise
        magnitude = s.log_magnitude.exp()
        audio = self.transform.synthesise(magnitude * phase.cos(), magnitude * phase.sin())
        return audio * self._gain(s.log_gain)

    def _gain(self, log_gain: Tensor) -> Tensor:  # [B, T, ENVELOPE_POINTS] -> [B, S], by lines
        points = log_gain.exp().flatten(1)[..., None]  # [B, T * ENVELOPE_POINTS, 1]
        following = torch.cat([points[:, 1:], points[:, -1:]], 1)
        length = self.hop // ENVELOPE_POINTS
        ramp = torch.arange(length, device=points.device) / length
        return (points + (following - points) * ramp).flatten(1)

    def encode(self, audio: Tensor) -> Tensor:
        latents = self.latents(audio).transpose(1, 2)  # [B, code_dim, T]
        codes = self.quantizer.vq.encode(latents)  # [K, B, T]
        return codes.transpose(0, 1).to(torch.int32)

    def decode(self, tokens: Tensor) -> Tensor:
        latents = sum(
            F.embedding(tokens[:, k], self.quantizer.vq.layers[k].codebook)
            for k in range(tokens.shape[1])
        )
        return self.render(self.spectrum(latents))

    def forward(self, audio: Tensor, quantise: bool = True) -> tuple[Spectrum, Tensor]:
        """Training pass: the spectrum to render, and the commitment loss."""
        latents = self.latents(audio)
        if not quantise:
            return self.spectrum(latents), audio.new_zeros(())
        quantised, _, losses = self.quantizer.vq(latents.transpose(1, 2))
        return self.spectrum(quantised.transpose(1, 2)), losses.mean()


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise feed-forward (arXiv:2201.03545)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:  # [B, T, width]
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.contract(F.gelu(self.expand(self.norm(y))))


class Transform(nn.Module):
    """STFT and its inverse, one frame a hop, frame t centred on hop t. Hann window both ways."""

    def __init__(self, n_fft: int, hop: int) -> None:
        super().__init__()
        if n_fft % hop:
            raise ValueError(f"n_fft {n_fft} is not a multiple of the hop {hop}")
        self.n_fft, self.hop = n_fft, hop
        self.pad = (n_fft - hop) // 2
        angles = torch.arange(n_fft, dtype=torch.float64) * (2 * math.pi / n_fft)
        self.register_buffer("cosine", angles.cos().float(), persistent=False)
        self.register_buffer("sine", angles.sin().float(), persistent=False)
        self.register_buffer("window", (0.5 - 0.5 * angles.cos()).float(), persistent=False)

    def analyse(self, audio: Tensor) -> tuple[Tensor, Tensor]:  # [B, S] -> two [B, T, bins]
        frames = self._frames(F.pad(audio, (self.pad, self.pad))) * self.window
        if not torch.compiler.is_exporting():
            spectrum = torch.fft.rfft(frames)
            return spectrum.real, spectrum.imag
        cosine, sine = self._basis()
        return frames @ cosine, -(frames @ sine)

    def synthesise(self, real: Tensor, imaginary: Tensor) -> Tensor:  # two [B, T, bins] -> [B, S]
        if not torch.compiler.is_exporting():
            frames = torch.fft.irfft(torch.complex(real, imaginary), n=self.n_fft)
        else:
            cosine, sine = self._basis()
            bins = torch.arange(real.shape[-1], device=real.device)
            both_sides = torch.where((bins == 0) | (bins == self.n_fft // 2), 1.0, 2.0)
            weight = both_sides / self.n_fft
            sine = sine * ((bins != 0) & (bins != self.n_fft // 2))
            frames = (real * weight) @ cosine.T - (imaginary * weight) @ sine.T
        overlapped = self._overlap_add(frames * self.window)
        envelope = self._overlap_add(self.window.square().expand(1, real.shape[1], -1))
        return overlapped / envelope

    def _frames(self, padded: Tensor) -> Tensor:  # [B, S + 2 * pad] -> [B, T, n_fft]
        blocks = padded.unflatten(1, (-1, self.hop // 2))  # half hops: the padding is 1.5 hops
        per_frame, count = 2 * self.n_fft // self.hop, blocks.shape[1]
        last = count - per_frame + 1
        return torch.cat([blocks[:, i : last + i : 2] for i in range(per_frame)], -1)

    def _overlap_add(self, frames: Tensor) -> Tensor:  # [B, T, n_fft] -> [B, T * hop]
        parts = frames.unflatten(2, (-1, self.hop))  # [B, T, n_fft / hop, hop]
        num_parts = parts.shape[2]
        summed = sum(
            F.pad(parts[:, :, i], (0, 0, i, num_parts - 1 - i)) for i in range(num_parts)
        ).flatten(1)
        return summed[:, self.pad : summed.shape[1] - self.pad]

    def _basis(self) -> tuple[Tensor, Tensor]:  # two [n_fft, bins]; made in the graph, not stored
        n = torch.arange(self.n_fft, device=self.cosine.device)
        k = torch.arange(self.n_fft // 2 + 1, device=self.cosine.device)
        turns = (n[:, None] * k[None]) % self.n_fft
        return self.cosine[turns], self.sine[turns]
