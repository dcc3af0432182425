"""The spectral codec: a residual quantiser between two frame-rate ConvNeXt stacks.

Encoder: STFT -> compressed complex spectrum -> ConvNeXt blocks -> RVQ. Decoder: ConvNeXt blocks ->
magnitude and phase -> inverse STFT (the head of Vocos, arXiv:2306.00814). Everything runs at the
token rate, so it trains on a CPU and decodes ten seconds in milliseconds.
"""

import math

import msgspec
import torch
from encodec.quantization import ResidualVectorQuantizer
from torch import Tensor, nn
from torch.nn import functional as F

from vab_rt.config import ModelConfig

COMPRESSION = 0.3
MAX_LOG_MAGNITUDE = 6.0


class SpectralSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the codec that the tensor contract does not fix."""

    n_fft: int = 1280
    encoder_width: int = 192
    encoder_blocks: int = 4
    decoder_width: int = 256
    decoder_blocks: int = 6
    expansion: int = 3


class SpectralCodec(nn.Module):
    """audio [B, S] in [-1, 1] <-> tokens [B, K, T], S = T * hop."""

    def __init__(self, config: ModelConfig, settings: SpectralSettings) -> None:
        super().__init__()
        s = settings
        bins = s.n_fft // 2 + 1
        self.transform = Transform(s.n_fft, config.hop_samples)
        self.encoder = nn.Sequential(
            nn.Linear(2 * bins, s.encoder_width),
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
            nn.Linear(s.decoder_width, 2 * bins),
        )

    @property
    def codebooks(self) -> Tensor:
        """[K, V, code_dim]"""
        return torch.stack([layer.codebook for layer in self.quantizer.vq.layers])

    def latents(self, audio: Tensor) -> Tensor:
        real, imaginary = self.transform.analyse(audio)  # [B, T, bins]
        scale = (real.square() + imaginary.square() + 1e-6).pow((COMPRESSION - 1) / 2)
        spectrum = torch.cat([real * scale, imaginary * scale], -1)  # [B, T, 2 * bins]
        return self.encoder(spectrum)  # [B, T, code_dim]

    def waveform(self, latents: Tensor) -> Tensor:
        log_magnitude, phase = self.decoder(latents).chunk(2, -1)  # [B, T, bins]
        magnitude = log_magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp()
        return self.transform.synthesise(magnitude * phase.cos(), magnitude * phase.sin())

    def encode(self, audio: Tensor) -> Tensor:
        latents = self.latents(audio).transpose(1, 2)  # [B, code_dim, T]
        codes = self.quantizer.vq.encode(latents)  # [K, B, T]
        return codes.transpose(0, 1).to(torch.int32)

    def decode(self, tokens: Tensor) -> Tensor:
        latents = sum(
            F.embedding(tokens[:, k], self.quantizer.vq.layers[k].codebook)
            for k in range(tokens.shape[1])
        )
        return self.waveform(latents)

    def forward(self, audio: Tensor, quantise: bool = True) -> tuple[Tensor, Tensor]:
        """Training pass: reconstruction [B, S] and the commitment loss."""
        latents = self.latents(audio)
        if not quantise:
            return self.waveform(latents), audio.new_zeros(())
        quantised, _, losses = self.quantizer.vq(latents.transpose(1, 2))
        return self.waveform(quantised.transpose(1, 2)), losses.mean()


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
