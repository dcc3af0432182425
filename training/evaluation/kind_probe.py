"""Which kind a sound is heard as: a linear probe on numbers that describe it.

A multinomial logistic regression, trained on recordings alone: it never hears what a codec or a
model made.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.evaluation.intervals import share
from vab_rt.errors import DataError

Floats = NDArray[np.float64]

FLOOR, RIDGE, ITERATIONS = 1e-3, 3e-4, 80


class Probe(NamedTuple):
    """kinds [C], weight [C, D] and bias [C]."""

    kinds: tuple[str, ...]
    weight: Floats
    bias: Floats

    def names(self, inputs: Floats) -> list[str]:
        """The likeliest kind of each of inputs [N, D]."""
        return [self.kinds[i] for i in (inputs @ self.weight.T + self.bias).argmax(1)]


def logs(scores: Floats) -> Floats:
    """The logarithms of mean scores, 0 to 1: the inputs of a probe."""
    return np.log(scores + FLOOR)


def train_probe(inputs: Floats, kinds: Sequence[str]) -> Probe:
    """A probe fitted to inputs [N, D] and their kinds; each input of a frequent kind weighs less.

    Raises DataError below two kinds.
    """
    known = tuple(sorted(set(kinds)))
    if len(known) < 2:
        raise DataError(
            f"sounds of {len(known)} kinds to tell apart, expected at least 2; add some"
        )
    numbers = np.array([known.index(kind) for kind in kinds])
    mean, spread = inputs.mean(0), inputs.std(0).mean() + 1e-9  # one: noise is to stay small
    shares = 1 / np.sqrt(np.bincount(numbers))[numbers]
    weight, bias = multinomial(
        torch.from_numpy((inputs - mean) / spread).float(),
        torch.from_numpy(numbers),
        torch.from_numpy(shares / shares.sum()).float(),
    )
    weight = weight.double().numpy() / spread
    return Probe(known, weight, bias.double().numpy() - weight @ mean)


def multinomial(inputs: Tensor, numbers: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [C, D] and biases [C] of inputs [N, D] of classes [N], with shares [N] of the loss
    that sum to 1."""
    layer = nn.Linear(inputs.shape[1], int(numbers.max()) + 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        each = F.cross_entropy(layer(inputs), numbers, reduction="none")
        found = (each * shares).sum() + RIDGE * (layer.weight**2).sum()
        found.backward()
        return found

    optimizer.step(loss)
    return layer.weight.detach(), layer.bias.detach()


def shares_right(found: Sequence[str], true: Sequence[str]) -> dict:
    """right_kind with its 95 % interval, the mean over kinds, how many kinds have more than half
    right, and all this `by_kind`."""
    by_kind = {}
    for kind in sorted(set(true)):
        own = [name for name, truth in zip(found, true, strict=True) if truth == kind]
        right = share("right_kind", [name == kind for name in own])
        by_kind[kind] = right | {"clips": len(own)}
        wrong = [name for name in own if name != kind]
        if wrong:
            by_kind[kind]["taken_for"] = max(sorted(set(wrong)), key=wrong.count)
    each = [row["right_kind"] for row in by_kind.values()]
    return {
        **share("right_kind", [a == b for a, b in zip(found, true, strict=True)]),
        "clips": len(true),
        "right_kind_mean": round(float(np.mean(each)), 4),
        "kinds": len(each),
        "kinds_above_half": sum(x > 0.5 for x in each),
        "by_kind": by_kind,
    }
