"""Figures beside their 95 % intervals: NAME and NAME_95, None where there are no clips."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.evaluation.measures import Floats, Interval, bootstrap, bootstrap_mean, wilson


def means_of(values: dict[str, Floats]) -> dict:
    """The means, with intervals, of what `Reference.per_clip` returns."""
    return {key: x for name, each in values.items() for key, x in mean_of(name, each).items()}


def mean_of(name: str, values: Floats | Sequence[float]) -> dict:
    """The mean of what clips have, without NaN."""
    found = np.asarray(values, float)
    found = found[~np.isnan(found)]
    if not len(found):
        return _figure(name, None)
    return _figure(name, float(found.mean()), bootstrap_mean(found, np.random.default_rng(0)))


def share(name: str, hits: ArrayLike) -> dict:
    """The share of true ones among hits [N], with its interval."""
    found = np.asarray(hits, bool)
    if not len(found):
        return _figure(name, None)
    return _figure(name, float(found.mean()), wilson(int(found.sum()), len(found)))


def ratio(name: str, measure: Callable[[NDArray], float], counts: NDArray[np.int64]) -> dict:
    """A ratio of the counts [N, 3] of all clips together, with its interval."""
    if not len(counts):
        return _figure(name, None)
    return _figure(name, measure(counts), bootstrap(measure, counts, np.random.default_rng(0)))


def _figure(name: str, value: float | None, interval: Interval = (0.0, 0.0)) -> dict:
    if value is None:
        return {name: None, f"{name}_95": None}
    return {name: round(value, 4), f"{name}_95": [round(x, 4) for x in interval]}
