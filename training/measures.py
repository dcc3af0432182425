"""The measures of generated sound, each a function of arrays (no models, no files)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.ndimage import maximum_filter1d, uniform_filter1d

ONSET_HOP = 80  # samples: 5 ms at 16 kHz


def agreement(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> tuple[float, float]:
    """Share of clips [N, C] whose most likely class is the label [N], and its 95 % half-width."""
    share = float((probabilities.argmax(1) == labels).mean())
    return share, float(1.96 * np.sqrt(share * (1 - share) / len(labels)))


def kl_divergence(true: NDArray[np.float64], generated: NDArray[np.float64]) -> float:
    """Mean KL(true || generated) over clips, of class probabilities [N, C]; in nats."""
    p, q = np.clip(true, 1e-7, 1), np.clip(generated, 1e-7, 1)
    return float((p * np.log(p / q)).sum(1).mean())


def frechet_distance(true: NDArray[np.float64], generated: NDArray[np.float64]) -> float:
    """Fréchet distance of two sets of embeddings [N, D], [M, D] (arXiv:1812.08466)."""
    gap = true.mean(0) - generated.mean(0)
    a, b = (np.cov(x, rowvar=False) + 1e-6 * np.eye(x.shape[1]) for x in (true, generated))
    root = sqrtm(a @ b)
    return float(gap @ gap + np.trace(a + b - 2 * np.real(root)))


def onset_times(audio: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.float64]:
    """Times of sudden rises of energy in s: peaks of the log-energy flux, at least 60 ms apart."""
    energy = uniform_filter1d(audio.astype(np.float64) ** 2, 2 * ONSET_HOP)[::ONSET_HOP]
    level = np.log(energy + 1e-3 * energy.max() + 1e-9)
    rise = np.maximum(0, level[4:] - level[:-4])  # over 20 ms
    spacing = round(0.06 * sample_rate_hz / ONSET_HOP)
    peaks = (rise == maximum_filter1d(rise, 2 * spacing + 1)) & (rise > 1.2)
    indices = np.flatnonzero(peaks)
    if len(indices):
        indices = indices[np.diff(indices, prepend=-spacing) >= spacing]
    return (indices + 2) * ONSET_HOP / sample_rate_hz


def onset_f1(
    found: Sequence[NDArray[np.float64]], true: Sequence[NDArray[np.float64]], tolerance_s: float
) -> float:
    """F1 over all clips of onsets matched one to one, each within `tolerance_s`."""
    hits = sum(_matches(f, t, tolerance_s) for f, t in zip(found, true, strict=True))
    total = sum(map(len, found)) + sum(map(len, true))
    return 2 * hits / total if total else 1.0


def _matches(found: NDArray[np.float64], true: NDArray[np.float64], tolerance_s: float) -> int:
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
