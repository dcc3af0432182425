"""What the spectral codec's networks are made of."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BAND_BINS, BAND_CHANNELS = 12, 48


class BandsOut(nn.Module):
    """[B, T, width] -> four values a bin [B, T, 4, bins]."""

    def __init__(self, width: int, bins: int) -> None:
        super().__init__()
        self.num_bands = bins // BAND_BINS
        self.bands = nn.Linear(width, BAND_CHANNELS * self.num_bands)
        self.over_frequency = nn.Sequential(
            nn.GELU(),
            nn.ConvTranspose1d(BAND_CHANNELS, 32, 7, stride=3, padding=2),
            nn.GELU(),
            nn.ConvTranspose1d(32, 24, 6, stride=2, padding=2),
            nn.GELU(),
            nn.ConvTranspose1d(24, 16, 6, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(16, 4, 5, padding=2),
        )

    def forward(self, x: Tensor) -> Tensor:
        bands = self.bands(x).flatten(0, 1).unflatten(1, (BAND_CHANNELS, self.num_bands))
        of_bins = self.over_frequency(bands)  # [B * T, 4, bins - 1]
        return torch.cat([of_bins, of_bins[..., -1:]], -1).unflatten(0, x.shape[:2])


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
