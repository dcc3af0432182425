"""The measures of sound, retrieval and classes, each a function of arrays (no models, no files)."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.ndimage import maximum_filter1d, uniform_filter1d

Floats = NDArray[np.float64]
Interval = tuple[float, float]

ONSET_HOP = 80  # samples: 5 ms at 16 kHz
Z_95 = 1.959964
BOOTSTRAPS = 1000


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


def kl_divergence(true: Floats, generated: Floats) -> float:
    """Mean KL(true || generated) over clips, of class probabilities [N, C]; in nats."""
    p, q = np.clip(true, 1e-7, 1), np.clip(generated, 1e-7, 1)
    return float((p * np.log(p / q)).sum(1).mean())


def frechet_distance(true: Floats, generated: Floats) -> float:
    """Fréchet distance of two sets of embeddings [N, D], [M, D] (arXiv:1812.08466)."""
    gap = true.mean(0) - generated.mean(0)
    a, b = (np.cov(x, rowvar=False) + 1e-6 * np.eye(x.shape[1]) for x in (true, generated))
    root = sqrtm(a @ b)
    return max(0.0, float(gap @ gap + np.trace(a + b - 2 * np.real(root))))  # rounding aside


def onset_times(audio: NDArray[np.float32], sample_rate_hz: int) -> Floats:
    """Times of sudden rises of energy in s: peaks of the log-energy flux, 150 ms apart."""
    energy = uniform_filter1d(audio.astype(np.float64) ** 2, 2 * ONSET_HOP)[::ONSET_HOP]
    level = np.log(energy + 1e-3 * energy.max() + 1e-9)
    rise = np.maximum(0, level[4:] - level[:-4])  # over 20 ms
    spacing = round(0.15 * sample_rate_hz / ONSET_HOP)
    peaks = (rise == maximum_filter1d(rise, 2 * spacing + 1)) & (rise > 1.2)
    indices = np.flatnonzero(peaks)
    if len(indices):
        indices = indices[np.diff(indices, prepend=-spacing) >= spacing]
    return (indices + 2) * ONSET_HOP / sample_rate_hz


def onset_counts(
    found: Sequence[Floats], true: Sequence[Floats], tolerance_s: float
) -> NDArray[np.int64]:
    """Per clip [N, 2]: onsets matched one to one within `tolerance_s`, and all of both."""
    rows = [
        (_matches(f, t, tolerance_s), len(f) + len(t)) for f, t in zip(found, true, strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 2)


def onset_f1(counts: NDArray[np.int64]) -> float:
    """F1 over all clips, of what `onset_counts` returns; 1 where there was nothing to find."""
    hits, total = counts.sum(0)
    return float(2 * hits / total) if total else 1.0


def _matches(found: Floats, true: Floats, tolerance_s: float) -> int:
    """Both sorted: the greedy walk is the largest one-to-one matching."""
    i = j = hits = 0
    while i < len(found) and j < len(true):
        if abs(found[i] - true[j]) <= tolerance_s:
            i, j, hits = i + 1, j + 1, hits + 1
        elif found[i] < true[j]:
            i += 1
        else:
            j += 1
    return hits


def ranks(similarity: Floats) -> NDArray[np.int64]:
    """Of each query's own partner, the diagonal of [queries, candidates]: 1 is the best.

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
