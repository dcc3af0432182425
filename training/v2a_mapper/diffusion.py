"""Noise for training; the schedules and the loops that take it out are the runtime's."""

from torch import Tensor


def noised(clean: Tensor, noise: Tensor, left: Tensor) -> Tensor:
    """clean and noise [B, ...] -> what the network is given; left [B]: the share of signal."""
    left = left.view(-1, *[1] * (clean.dim() - 1))
    return left.sqrt() * clean + (1 - left).sqrt() * noise
