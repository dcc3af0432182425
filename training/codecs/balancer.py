"""Losses on the codec's output weighed by their gradients there (arXiv:2210.13438 section 3.4).

The encodec package has one in its repository, and none in its release (0.1.1).
"""

import torch
from torch import Tensor

DECAY = 0.999
TINY = 1e-12


class Balancer:
    """Makes each loss contribute the share of the gradient that its weight says.

    g = sum_i weight_i / sum(weights) * g_i / mean(|g_i|), g_i the gradient of loss i at the output,
    |g_i| its norm averaged over the batch and, with `DECAY`, over the steps.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def gradient(self, losses: dict[str, Tensor], output: Tensor) -> Tensor:
        """The balanced gradient at `output` [B, S], of losses that depend on nothing else."""
        total_weight = sum(self.weights[name] for name in losses)
        result = torch.zeros_like(output)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
            norm = self._average(name, gradient.norm(dim=1).mean().item())
            result += gradient * (self.weights[name] / total_weight / (norm + TINY))
        return result

    def _average(self, name: str, norm: float) -> float:
        self.sums[name] = DECAY * self.sums.get(name, 0.0) + norm
        self.counts[name] = DECAY * self.counts.get(name, 0.0) + 1
        return self.sums[name] / self.counts[name]

    def state_dict(self) -> dict[str, dict[str, float]]:
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict[str, dict[str, float]]) -> None:
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])


class WeightedSum:
    """The same call without balancing: the gradient of the weighted sum. It has no state."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights

    def gradient(self, losses: dict[str, Tensor], output: Tensor) -> Tensor:
        """At `output` [B, S]."""
        total = sum(self.weights[name] * loss for name, loss in losses.items())
        return torch.autograd.grad(total, output)[0]

    def state_dict(self) -> dict[str, float]:
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        pass
