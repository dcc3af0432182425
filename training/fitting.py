"""One training loop for every stage: a time budget, checkpoints, and resuming from them."""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

SAVE_EVERY_S = 120.0
REPORT_EVERY = 50


def fit(
    checkpoint: Path,
    parts: dict[str, Any],
    step: Callable[[int, float], dict[str, float]],
    minutes: float,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Call `step(i, progress)` until `minutes` of training are spent, over all runs together.

    parts: whatever has a state_dict and must survive an interruption. progress runs from 0 to 1
    over the budget and drives the learning rate. Yields (i, progress, mean of the losses) every
    REPORT_EVERY steps and at the end.
    """
    first, spent_s = _resume(checkpoint, parts)
    i = first
    started = saved = time.monotonic()
    sums: dict[str, float] = {}
    count = 0
    while spent_s + time.monotonic() - started < 60 * minutes:
        progress = (spent_s + time.monotonic() - started) / (60 * minutes)
        for name, value in step(i, progress).items():
            sums[name] = sums.get(name, 0.0) + value
        i, count = i + 1, count + 1
        if count == REPORT_EVERY:
            yield i, progress, {name: value / count for name, value in sums.items()}
            sums, count = {}, 0
        if time.monotonic() - saved > SAVE_EVERY_S:
            _save(checkpoint, parts, i, spent_s + time.monotonic() - started)
            saved = time.monotonic()
    if i == first and checkpoint.exists():
        return  # the budget was spent before
    _save(checkpoint, parts, i, spent_s + time.monotonic() - started)
    yield i, 1.0, {name: value / max(1, count) for name, value in sums.items()}


def half_cosine(progress: float, peak: float, warm_up: float = 0.03) -> float:
    """The learning rate at `progress` in [0, 1]: linear warm-up, then half a cosine to 0."""
    if progress < warm_up:
        return peak * progress / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class Average:
    """Exponential moving average of a module's weights, which is what ships."""

    def __init__(self, module: nn.Module, decay: float = 0.998) -> None:
        self.decay, self.count = decay, 0
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, self.count / (10 + self.count))  # forgets the beginning sooner
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1 - decay)
            else:
                self.weights[name].copy_(value)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights

    def load_state_dict(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights


def _resume(checkpoint: Path, parts: dict[str, Any]) -> tuple[int, float]:
    if not checkpoint.exists():
        return 0, 0.0
    saved = torch.load(checkpoint, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["step"], saved["spent_s"]


def _save(checkpoint: Path, parts: dict[str, Any], step: int, spent_s: float) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    beside = checkpoint.with_suffix(".tmp")
    states = {name: part.state_dict() for name, part in parts.items()}
    torch.save({**states, "step": step, "spent_s": spent_s}, beside)
    beside.replace(checkpoint)
