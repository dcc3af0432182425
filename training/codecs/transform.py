"""The short-time Fourier transform of the spectral codec, which exports as matrix products."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
