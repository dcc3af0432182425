"""Headroom: a limiter that looks ahead, over sound that arrives in pieces.

The gain of a sample depends on what lies within `num_held` samples of it and on nothing else, so
pieces of any length give the sound that the whole would give.
"""

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
CEILING = 10 ** (-1.9 / 20)
"""Of estimated true peaks. The estimate misses up to 0.8 dB of noise that reaches Nyquist, so that
true peaks stay below -1 dBTP, as EBU R 128 asks."""
_REACH_S = (
    0.02  # gain falls before a peak and rises after it within this time: no click, no pumping
)
_OVERSAMPLING = 4
_HALF_TAPS = 24
_KAISER_BETA = 4.0
_MOST_BETWEEN = 2.9  # the taps' magnitudes add up to 2.87: no peak between samples is higher


class Limiter:
    """Sound [S] in, sound with true peaks below `CEILING` out, `num_held` samples later."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._reach = round(_REACH_S * sample_rate_hz)
        self.num_held = 2 * (self._reach + _HALF_TAPS)
        self._before: Samples = np.zeros(self.num_held, np.float32)
        self._held: Samples = np.empty(0, np.float32)

    def add(self, samples: Samples, *, is_last: bool) -> Samples:
        """What is ready of the sound so far; everything that is left where this is the last."""
        after = np.zeros(self.num_held if is_last else 0, np.float32)
        whole = np.concatenate([self._before, self._held, samples, after])
        num_ready = max(0, len(whole) - 2 * self.num_held)
        end = self.num_held + num_ready
        ready = whole[self.num_held : end] * self._gain(whole)[self.num_held : end]
        self._before, self._held = whole[end - self.num_held : end], whole[end:]
        return ready

    def _gain(self, samples: Samples) -> Samples:
        """The gain [S] of each sample; right where num_held samples lie on both sides."""
        if np.abs(samples).max(initial=0) < CEILING / _MOST_BETWEEN:
            return np.ones(len(samples), np.float32)
        needed = CEILING / np.maximum(true_peaks(samples), CEILING)
        if needed.min() == 1:
            return np.ones(len(samples), np.float32)
        held = _moving_minimum(needed, self._reach + _HALF_TAPS)
        window = np.hanning(2 * self._reach + 3)[1:-1]
        gain = 1 - np.convolve(1 - held, window / window.sum(), "same")[: len(samples)]
        return gain.astype(np.float32)


def true_peaks(samples: Samples) -> npt.NDArray[np.float64]:
    """The largest magnitude [S] between each sample and the next, as 4x oversampling finds it
    (ITU-R BS.1770, annex 2)."""
    sound = samples.astype(np.float64)
    peaks = np.abs(sound)
    taps = np.arange(-_HALF_TAPS + 1, _HALF_TAPS + 1)
    padded = np.pad(sound, (_HALF_TAPS - 1, _HALF_TAPS))
    for phase in range(1, _OVERSAMPLING):
        at = phase / _OVERSAMPLING - taps
        weights = np.sinc(at) * np.i0(_KAISER_BETA * np.sqrt(1 - (at / _HALF_TAPS) ** 2))
        between = np.convolve(padded, weights[::-1] / np.i0(_KAISER_BETA), "valid")
        peaks = np.maximum(peaks, np.abs(between))
    return peaks


def _moving_minimum(values: npt.NDArray[np.float64], reach: int) -> npt.NDArray[np.float64]:
    """The least value within `reach` of each, by doubling; 1 counts beyond the ends."""
    least = np.pad(values, reach, constant_values=1.0)
    width = 1
    while width < 2 * reach + 1:
        step = min(width, 2 * reach + 1 - width)
        least = np.minimum(least[:-step], least[step:])
        width += step
    return least
