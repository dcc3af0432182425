"""Several sounds of one video: what is seen is seen once, each sound has a seed of its own, and the
model says how well each fits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import tee
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vab_rt.audio import Audio
from vab_rt.errors import OptionError
from vab_rt.options import GenerateOptions
from vab_rt.steps import Step, of_one_window
from vab_rt.stopwatch import Stopwatch
from vab_rt.systems import System
from vab_rt.systems.vab import Vab, mean_gains
from vab_rt.windows import Window, heard_hops

SCORING = "score"
"""Its stage in timings."""


def require_score(system: System[Any]) -> Vab:
    """Raises OptionError for a model that cannot tell how well a sound fits."""
    if not isinstance(system, Vab):
        raise OptionError(
            f"model {system.config.name} cannot tell how well a sound fits what is seen, expected "
            "one that decodes tokens; choose another model, or make one sound at a time"
        )
    return system


def sharing_first_step(system: Vab) -> Vab:
    """The same model, whose backbone runs once for all that begin from nothing but [MASK] with what
    is seen of one window: the first step of each candidate, and the score."""
    backbone, mask_id = system.engines["backbone"], system.config.mask_id
    said: dict[bytes, tuple[bytes, npt.NDArray[np.float32]]] = {}  # by branches, of the last window

    def run(**inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if (inputs["tokens"] != mask_id).any():
            return backbone(**inputs)
        branches, seen = inputs["conditional"].tobytes(), inputs["features"].tobytes()
        if branches not in said or said[branches][0] != seen:
            said[branches] = seen, backbone(**inputs)
        return said[branches][1]

    return replace(system, engines=system.engines.with_graphs(backbone=run))


def seed_of(seed: int, candidate: int) -> int:
    """That of a candidate, counted from 0; seed: of the first."""
    return (seed + candidate) % 2**64


def candidate_steps(
    windows: Iterator[Window],
    decode: Callable[[Iterator[Window], GenerateOptions], Iterator[Step]],
    system: Vab,
    options: GenerateOptions,
    count: int,
    clock: Stopwatch,
) -> Iterator[Step]:
    """The steps of all candidates, window by window, so that none is held longer than it is used.

    decode: windows, with the options of one candidate, to its steps.
    """
    shared, *own = tee(windows, count + 1)
    each = [decode(own[i], options.but(seed=seed_of(options.seed, i))) for i in range(count)]
    for window in shared:
        heard = heard_hops(window, system.config)
        with clock.time(SCORING):
            gains = system.said(window.features, options.kinds).gains[:, heard]
        for i, steps in enumerate(each):
            for step in of_one_window(steps):
                score = None
                if step.audio is not None:
                    score = float(mean_gains(gains, step.state[None, :, heard])[0])
                timings_s = dict(clock.seconds)
                yield replace(step, candidate=i, score=score, timings_s=timings_s)


class Ranked(NamedTuple):
    """A candidate, counted from 0, with its steps that have sound."""

    candidate: int
    score: float
    steps: list[Step]


def ranked_steps(steps: Iterable[Step]) -> list[Ranked]:
    """The results of `candidate_steps`, best first. A score is the mean of those of its windows,
    each by how much of it is heard."""
    finished: dict[int, list[Step]] = {}
    for step in steps:
        if step.audio is not None:
            finished.setdefault(step.candidate, []).append(step)
    found = [Ranked(i, _mean_score(of), of) for i, of in finished.items()]
    return sorted(found, key=lambda one: -one.score)


def ranked(steps: Iterable[Step], options: GenerateOptions, rate_hz: int) -> list[Audio]:
    """Their sounds."""
    return [
        Audio(
            np.concatenate([step.audio for step in one.steps if step.audio is not None]),
            rate_hz,
            seed=seed_of(options.seed, one.candidate),
            score=one.score,
            take=one.steps[-1].take,
        )
        for one in ranked_steps(steps)
    ]


def _mean_score(steps: list[Step]) -> float:
    heard = [0 if step.audio is None else len(step.audio) for step in steps]
    return float(np.average([step.score or 0.0 for step in steps], weights=heard))
