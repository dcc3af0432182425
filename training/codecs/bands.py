"""The bands in which the spectral codec sees sound: fine ones of colour, wide ones of level."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FINE_BANDS, LEVEL_BANDS = 256, 24


def masked(power: Tensor, floor: float, share: float) -> Tensor:
    """Power [B, T, bands] over a floor of what cannot be heard beside the loudest band."""
    return power + floor**2 + share * power.amax(2, keepdim=True)


def smoothed(power: Tensor) -> Tensor:
    """Power [B, points, ...] over each point and half of its neighbours; at both ends its own."""
    before = torch.cat([power[:, :1], power[:, :-1]], 1)
    after = torch.cat([power[:, 1:], power[:, -1:]], 1)
    return power / 2 + (before + after) / 4


def fine_bands(bins: int) -> Tensor:
    """Overlapping triangles [bins, FINE_BANDS]: a bin each to a quarter of the spectrum, wider and
    wider above. They add up to 1 at every bin."""
    single = bins // 4
    rest = torch.linspace(0, 1, FINE_BANDS - single + 1, dtype=torch.float64)[1:]
    growth = bins - 1 - (single - 1) - (FINE_BANDS - single)
    centres = torch.arange(single, bins, dtype=torch.float64)[: FINE_BANDS - single]
    centres = torch.cat([torch.arange(single, dtype=torch.float64), centres + growth * rest**2])
    k = torch.arange(bins, dtype=torch.float64)[:, None]
    gaps = centres.diff()
    left = torch.cat([gaps.new_ones(1), gaps])
    right = torch.cat([gaps, gaps.new_ones(1)])
    rising, falling = 1 + (k - centres) / left, 1 - (k - centres) / right
    return torch.minimum(rising, falling).clamp(min=0).float()


def level_bands(bins: int) -> Tensor:
    """Which bins share a level [bins, LEVEL_BANDS], 0 or 1: of equal width on the ERB scale
    (Glasberg and Moore 1990), at 16 kHz, as ever wider as the ear's."""
    low, high = (21.4 * math.log10(1 + 0.00437 * hz) for hz in (40.0, 8000.0))
    erbs = torch.linspace(low, high, LEVEL_BANDS + 1, dtype=torch.float64)
    edges = (10 ** (erbs / 21.4) - 1) / 0.00437 * (bins - 1) / 8000.0
    band = torch.bucketize(torch.arange(bins, dtype=torch.float64), edges[1:-1])
    return F.one_hot(band, LEVEL_BANDS).float()
