"""When something is struck, by ear: onset times, and how well they fit those of the video."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d, uniform_filter1d

Floats = NDArray[np.float64]

ONSET_HOP = 80  # samples: 5 ms at 16 kHz
SPACING_S = 0.15
"""Heel and sole are one step; what follows sooner is not told apart."""
PERIODS_S = (0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0)
"""The periods of the metronomes that are tried."""


def onset_times(audio: NDArray[np.float32], sample_rate_hz: int) -> Floats:
    """Times of sudden rises of energy in s: peaks of the log-energy flux, SPACING_S apart."""
    energy = uniform_filter1d(audio.astype(np.float64) ** 2, 2 * ONSET_HOP)[::ONSET_HOP]
    level = np.log(energy + 1e-3 * energy.max() + 1e-9)
    rise = np.maximum(0, level[4:] - level[:-4])  # over 20 ms
    spacing = round(SPACING_S * sample_rate_hz / ONSET_HOP)
    peaks = (rise == maximum_filter1d(rise, 2 * spacing + 1)) & (rise > 1.2)
    indices = np.flatnonzero(peaks)
    if len(indices):
        indices = indices[np.diff(indices, prepend=-spacing) >= spacing]
    return (indices + 2) * ONSET_HOP / sample_rate_hz


def matches(found: Floats, true: Floats, tolerance_s: float) -> NDArray[np.int64]:
    """Pairs [M, 2] of indices into both, one to one; as both are sorted, the greedy walk gives as
    many as can be."""
    pairs = []
    i = j = 0
    while i < len(found) and j < len(true):
        if abs(found[i] - true[j]) <= tolerance_s:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif found[i] < true[j]:
            i += 1
        else:
            j += 1
    return np.array(pairs, np.int64).reshape(-1, 2)


def onset_counts(
    found: Sequence[Floats], true: Sequence[Floats], tolerance_s: float
) -> NDArray[np.int64]:
    """Per clip [N, 3]: onsets matched one to one within `tolerance_s`, found, and true."""
    rows = [
        (len(matches(f, t, tolerance_s)), len(f), len(t)) for f, t in zip(found, true, strict=True)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


def onset_f1(counts: NDArray[np.int64]) -> float:
    """Over all clips, of what `onset_counts` returns; 1 where there was nothing to find."""
    hits, found, true = counts.sum(0)
    return float(2 * hits / (found + true)) if found + true else 1.0


def onset_precision(counts: NDArray[np.int64]) -> float:
    """Where nothing was found: 0, or 1 if there was nothing to find."""
    hits, found, true = counts.sum(0)
    return float(hits / found) if found else float(true == 0)


def onset_recall(counts: NDArray[np.int64]) -> float:
    """1 where there was nothing to find."""
    hits, _, true = counts.sum(0)
    return float(hits / true) if true else 1.0


ONSET_MEASURES = (
    ("onset_f1", onset_f1),
    ("onset_precision", onset_precision),
    ("onset_recall", onset_recall),
)


def metronome(period_s: float, clip_s: float) -> Floats:
    """Onsets at a regular rate, the first after half a period."""
    return np.arange(period_s / 2, clip_s, period_s)


def best_metronome(true: Sequence[Floats], clip_s: float, tolerance_s: float) -> float:
    """The period in s of the metronome with the best F1 against onsets of clips [N]."""

    def score(period_s: float) -> float:
        ticks = [metronome(period_s, clip_s)] * len(true)
        return onset_f1(onset_counts(ticks, true, tolerance_s))

    return max(PERIODS_S, key=score)
