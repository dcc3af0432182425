"""One training loop for every stage: a budget, checkpoints, and resuming from them exactly."""

import math
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from training import distributed
from training.curves import Curves
from training.saving import DAMAGE, save_whole
from vab_rt.errors import DataError, OptionError, first_line
from vab_rt.output import writing

SAVE_EVERY_S = 120.0
REPORT_EVERY = 50


def fit(
    checkpoint: Path,
    parts: dict[str, Any],
    step: Callable[[int, float], Mapping[str, float | torch.Tensor]],
    minutes: float | None,
    steps: int | None = None,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Call `step(i, progress)` until a budget is spent, over all runs together.

    parts: whatever has a state_dict and must survive an interruption. The budget is `steps` where
    they are given, else `minutes` of training; progress runs from 0 to 1 over it and drives the
    learning rate. What a step draws from torch's generator follows from i alone, so a run of
    `steps` that was stopped ends as one that was not. Yields (i, progress, mean of the losses)
    every REPORT_EVERY steps and at the end, and keeps them as `Curves` does. A signal to stop is
    obeyed after the step, with everything saved. Raises OptionError for minutes of no length,
    DataError for a checkpoint of something else, OutputError.
    """
    if steps is None and not minutes > 0:
        raise OptionError(f"minutes is {minutes:g}, expected more than 0; give the stage some")
    with writing(checkpoint.parent):  # before any work
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
    first, spent_s = _resume(checkpoint, parts)
    i, curves = first, Curves(checkpoint)
    started = saved = time.monotonic()
    seen: dict[str, list[float | torch.Tensor]] = {}  # since the last report
    with _stop_signals() as stopped:
        while True:
            elapsed_s = distributed.broadcast(spent_s + time.monotonic() - started)
            progress = i / max(1, steps) if steps is not None else elapsed_s / (60 * minutes)
            interrupted = distributed.broadcast(len(stopped)) > 0
            if progress >= 1 or interrupted:
                break
            torch.manual_seed(
                i * distributed.world_size() + distributed.rank()
            )  # dropout takes no generator
            for name, value in step(i, progress).items():
                seen.setdefault(name, []).append(value)
            i += 1
            if i % REPORT_EVERY == 0:
                yield i, progress, _told(curves, i, seen)
                seen = {}
            if time.monotonic() - saved > SAVE_EVERY_S:
                _save(checkpoint, parts, i, elapsed_s)
                saved = time.monotonic()
    if i == first and checkpoint.exists():
        return  # the budget was spent before
    _save(checkpoint, parts, i, elapsed_s)
    if interrupted:
        raise KeyboardInterrupt
    yield i, 1.0, _told(curves, i, seen)


def _told(
    curves: Curves, step: int, seen: dict[str, list[float | torch.Tensor]]
) -> dict[str, float]:
    """Means since the last report, which the first process also adds to the curves.

    Only here are losses read from a GPU, which would make every step wait for it.
    """
    means = {name: sum(map(float, values)) / len(values) for name, values in seen.items()}
    if means and distributed.rank() == 0:
        curves.add(step, means)
    return means


def cosine_lr(progress: float, peak: float, warm_up: float = 0.03) -> float:
    """The learning rate at `progress` in [0, 1]: linear warm-up, then half a cosine to 0."""
    if progress < warm_up:
        return peak * progress / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def warm_up_share(warm_up: float, steps: int | None, stage: str) -> float:
    """The share of a run in which rates rise: `warm_up` itself below 1, from 1 on so many of its
    steps. steps None: their number is not known, as minutes are the budget. Raises OptionError."""
    if 0 <= warm_up < 1:
        return warm_up
    if steps is not None and 1 <= warm_up < steps:
        return warm_up / steps
    run = "minutes are its budget" if steps is None else f"the run has {steps} steps"
    most = "" if steps is None or steps < 2 else f", or at most {steps - 1} steps"
    raise OptionError(
        f"{stage} warm_up is {warm_up:g} and {run}, expected a share of the run, such as 0.03{most}"
    )


def set_lr(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """A group of weights that has a `share` learns at that share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


class EMA:
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

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])


def averaged_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights that ship, of a stage that `fit` has finished. Raises DataError."""
    saved = _load(checkpoint)
    if "average" not in saved:
        raise DataError(
            f"{checkpoint} holds {', '.join(map(str, saved)) or 'nothing'}, expected the average "
            "that a stage of training leaves; name the file of that stage"
        )
    return saved["average"]["weights"]


def steps_made(checkpoint: Path) -> int:
    return int(_load(checkpoint)["step"])


def minutes_spent(checkpoint: Path) -> float:
    return float(_load(checkpoint)["spent_s"]) / 60


def wants_bfloat16(precision: str, device: torch.device) -> bool:
    """auto: where this device computes it faster."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that is filled when SIGINT or SIGTERM arrives; a second one stops at once."""
    received: list[int] = []
    before = {}

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, remember)
    except ValueError:  # not the main thread: whoever runs this one handles signals
        pass
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _load(checkpoint: Path) -> dict[str, Any]:
    try:
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, *DAMAGE) as error:
        raise DataError(
            f"{checkpoint} cannot be read ({first_line(error)}), expected a stage's checkpoint; "
            "delete it to begin that stage again"
        ) from error
    if not isinstance(saved, dict):
        raise DataError(
            f"{checkpoint} holds a {type(saved).__name__}, expected a stage's checkpoint; delete "
            "it to begin that stage again"
        )
    return saved


def _resume(checkpoint: Path, parts: dict[str, Any]) -> tuple[int, float]:
    if not checkpoint.exists():
        return 0, 0.0
    saved = _load(checkpoint)
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        return int(saved["step"]), float(saved["spent_s"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"{checkpoint} is of another model or stage ({first_line(error)}); give this run "
            "another folder, or delete the file to begin again"
        ) from error


def _save(checkpoint: Path, parts: dict[str, Any], step: int, spent_s: float) -> None:
    """Only the first process writes; what was saved before stays until the new file is whole."""
    if distributed.rank() == 0:
        states = {name: part.state_dict() for name, part in parts.items()}
        save_whole(checkpoint, {**states, "step": step, "spent_s": spent_s})
