"""The measures of sound, retrieval and classes, each a function of arrays (no models, no files)."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm

Floats = NDArray[np.float64]
Interval = tuple[float, float]

Z_95 = 1.959964
BOOTSTRAPS = 1000
UNDECIDED = "not told apart"
"""Two figures that differ by less than `half_width`, or have no interval: over clips, or over at
least three trainings that differ in their seed alone."""


def agreement(scores: Floats, truth: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which clips [N] have one of their true classes [N, C] as the highest of their scores."""
    return truth[np.arange(len(truth)), scores.argmax(1)]


def wilson(hits: int, count: int) -> Interval:
    """The 95 % interval of a share of independent trials (Wilson 1927)."""
    share, spread = hits / count, Z_95**2 / count
    centre = share + spread / 2
    half = Z_95 * np.sqrt(share * (1 - share) / count + spread / (4 * count))
    low, high = (centre - half) / (1 + spread), (centre + half) / (1 + spread)
    return max(0.0, float(low)), min(1.0, float(high))


def bootstrap(
    measure: Callable[[NDArray], float], clips: NDArray, random: np.random.Generator
) -> Interval:
    """The 95 % interval of a measure of clips [N, ...], from clips drawn with replacement."""
    draws = random.integers(len(clips), size=(BOOTSTRAPS, len(clips)))
    low, high = np.percentile([measure(clips[rows]) for rows in draws], (2.5, 97.5))
    return float(low), float(high)


def bootstrap_mean(values: Floats, random: np.random.Generator) -> Interval:
    """The same of the mean of values [N]."""
    draws = random.integers(len(values), size=(BOOTSTRAPS, len(values)))
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return float(low), float(high)


def half_width(one: Sequence[float] | None, other: Sequence[float] | None) -> float | None:
    """Half of the 95 % interval of the difference of two figures, from their own (low, high), as if
    they were independent: wide where they are of the same clips. None where one has none."""
    if one is None or other is None:
        return None
    squares = [((high - low) / 2) ** 2 for low, high in (one, other)]
    return float(sum(squares) ** 0.5)


def kl_divergences(true: Floats, generated: Floats) -> Floats:
    """KL(true || generated) of each clip [N], of class probabilities [N, C]; in nats."""
    p, q = np.clip(true, 1e-7, 1), np.clip(generated, 1e-7, 1)
    return (p * np.log(p / q)).sum(1)


def frechet_distance(true: Floats, generated: Floats) -> float:
    """Fréchet distance of two sets of embeddings [N, D], [M, D] (arXiv:1812.08466)."""
    gap = true.mean(0) - generated.mean(0)
    a, b = (np.cov(x, rowvar=False) + 1e-6 * np.eye(x.shape[1]) for x in (true, generated))
    root = sqrtm(a @ b)
    return max(0.0, float(gap @ gap + np.trace(a + b - 2 * np.real(root))))  # rounding aside


def ranks(similarity: Floats) -> NDArray[np.int64]:
    """The rank of each query's own partner, the diagonal of [queries, candidates]: 1 is the best.

    Equals stand before it, so that a model that tells nothing apart finds nothing.
    """
    own = np.diagonal(similarity)[:, None]
    return (similarity >= own).sum(1)


def average_precision(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Mean precision at each true clip, of scores [N] against truth [N] with at least one true.

    Clips of equal score are taken together, as in `sklearn.metrics.average_precision_score`.
    """
    thresholds = np.sort(scores[truth])
    precisions = [truth[scores >= threshold].mean() for threshold in thresholds]
    return float(np.mean(precisions))


def mean_average_precision(scores: Floats, truth: NDArray[np.bool_]) -> float:
    """Over the classes that occur, of scores [N, C] against truth [N, C]."""
    classes = np.flatnonzero(truth.any(0))
    return float(np.mean([average_precision(scores[:, c], truth[:, c]) for c in classes]))
