"""Log mel spectrograms as AudioLDM and its vocoder read them: 16 kHz, 64 bands, hop 160."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.functional import melscale_fbanks

from vab_rt.v2a_mapper.config import V2AConfig

N_FFT = 1024
FLOOR = 1e-5
MEAN, SPREAD = -5.0, 2.0
"""About the mean and spread of FoleyWorld's log mels; what networks are first shown is of this
scale."""


class LogMel(nn.Module):
    """audio [B, S] -> log mel magnitudes [B, S / hop, mels]; frame t is centred on hop t."""

    def __init__(self, config: V2AConfig) -> None:
        super().__init__()
        self.hop = config.hop_samples // config.latent_factor
        filters = melscale_fbanks(
            N_FFT // 2 + 1,
            0.0,
            config.sample_rate_hz / 2,
            config.num_mels,
            config.sample_rate_hz,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", filters, persistent=False)  # [bins, mels]
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        side = (N_FFT - self.hop) // 2
        padded = F.pad(audio[:, None], (side, side), mode="reflect")[:, 0]
        spectrum = torch.stft(
            padded, N_FFT, self.hop, window=self.window, center=False, return_complex=True
        )
        mels = spectrum.abs().transpose(1, 2) @ self.filters  # [B, frames, mels]
        return mels.clamp(min=FLOOR).log()


def standardised(log_mels: Tensor) -> Tensor:
    """About zero mean and unit spread."""
    return (log_mels - MEAN) / SPREAD
