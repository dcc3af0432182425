"""Loudness and headroom of sound that arrives in pieces: a meter, and a limiter that looks ahead.

The limiter's gain of a sample depends on what lies within `num_held` samples of it and on nothing
else, so pieces of any length give the sound that the whole would give.
"""

import numpy as np
import numpy.typing as npt
from av.filter.graph import Graph

from vab_rt.resampling import frame_of, ready_frames, source_of

Samples = npt.NDArray[np.float32]
CEILING = 10 ** (-1.9 / 20)
"""The largest estimated true peak. The estimate misses up to 0.8 dB of noise that reaches Nyquist,
so that true peaks stay below -1 dBTP, as EBU R 128 asks."""
OVERSAMPLED_CEILING = 10 ** (-1.2 / 20)
"""The same of sound that has nothing above half of Nyquist, of which the estimate misses at most
0.17 dB."""
_SILENT_LUFS = -70.0  # the absolute gate
_REACH_S = (
    0.02  # gain falls before a peak and rises after it within this time: no click, no pumping
)
_OVERSAMPLING = 4
_HALF_TAPS = 24
_KAISER_BETA = 4.0
_MOST_BETWEEN = 2.9  # the taps' magnitudes add up to 2.87: no peak between samples is higher


class Limiter:
    """Sound [S] or [C, S] in, sound with true peaks below `ceiling` out, `num_held` samples later.
    All channels get the same gain."""

    def __init__(self, sample_rate_hz: int, ceiling: float = CEILING) -> None:
        self._reach = round(_REACH_S * sample_rate_hz)
        self._ceiling = ceiling
        self.num_held = 2 * (self._reach + _HALF_TAPS)
        self._kept: Samples | None = None

    def add(self, samples: Samples, *, is_last: bool) -> Samples:
        """What is ready of the sound so far; everything that is left where this is the last."""
        silence = np.zeros((*samples.shape[:-1], self.num_held), np.float32)
        kept = silence if self._kept is None else self._kept
        after = silence[..., : self.num_held if is_last else 0]
        whole = np.concatenate([kept, samples, after], -1)
        num_ready = max(0, whole.shape[-1] - 2 * self.num_held)
        ready = slice(self.num_held, self.num_held + num_ready)
        self._kept = whole[..., num_ready:]
        out: Samples = whole[..., ready] * self._gain(whole)[ready]
        return out

    def _gain(self, samples: Samples) -> Samples:
        """The gain [S] of each sample; right where num_held samples lie on both sides."""
        num, ceiling = samples.shape[-1], self._ceiling
        if np.abs(samples).max(initial=0) < ceiling / _MOST_BETWEEN:
            return np.ones(num, np.float32)
        peaks = np.max([true_peaks(channel) for channel in np.atleast_2d(samples)], 0)
        needed = ceiling / np.maximum(peaks, ceiling)
        if needed.min() == 1:
            return np.ones(num, np.float32)
        held = _moving_minimum(needed, self._reach + _HALF_TAPS)
        window = np.hanning(2 * self._reach + 3)[1:-1]
        gain = 1 - np.convolve(1 - held, window / window.sum(), "same")[:num]
        return gain.astype(np.float32)


class Meter:
    """Integrated loudness of sound [C, S] that arrives in pieces, in LUFS, by FFmpeg's ebur128
    filter (ITU-R BS.1770, EBU R 128)."""

    def __init__(self, sample_rate_hz: int, num_channels: int) -> None:
        self._rate_hz, self._num = sample_rate_hz, 0
        self._graph = Graph()
        self._into = source_of(self._graph, sample_rate_hz, num_channels)
        meter = self._graph.add("ebur128", "metadata=1:framelog=quiet")
        self._out = self._graph.add("abuffersink")
        self._graph.link_nodes(self._into, meter, self._out).configure()
        self._lufs = _SILENT_LUFS

    def add(self, samples: Samples) -> None:
        if not samples.shape[-1]:
            return
        self._into.push(frame_of(samples, self._rate_hz, self._num))
        self._num += samples.shape[-1]
        self._read()

    def lufs(self) -> float | None:
        """The loudness of all that was added; None where no block of 0.4 s is above -70 LUFS. Ends
        the meter."""
        self._into.push(None)
        self._read()
        return self._lufs if self._lufs > _SILENT_LUFS else None

    def _read(self) -> None:
        for frame in ready_frames(self._out):
            # What is left at the end, less than 0.1 s, tells nothing.
            self._lufs = float(frame.metadata.get("lavfi.r128.I", self._lufs))


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
