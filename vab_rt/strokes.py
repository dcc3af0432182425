"""When a sound strikes: levels of 10 ms, and the samples at which they rise at once."""

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]

_FLOOR = 1e-5
_RISE_DB, _BEFORE = 9.0, 5  # above the quietest of the 50 ms before
_LOUD_DB = 35.0  # below the loudest
_APART = 8  # levels: 80 ms
_STRUCK_SHARE, _STRUCK_DB = 0.5, 20.0


def levels_of(samples: Samples, rate_hz: int) -> npt.NDArray[np.float64]:
    """dB of each 10 ms [ceil(S / 10 ms)]."""
    size = rate_hz // 100
    padded = np.pad(samples.astype(np.float64), (0, -len(samples) % size))
    power: npt.NDArray[np.float64] = (padded.reshape(-1, size) ** 2).mean(1)
    return 10 * np.log10(power + _FLOOR**2)


def strokes_of(samples: Samples, rate_hz: int) -> npt.NDArray[np.int64]:
    """The samples at which a stroke begins, 80 ms apart or more."""
    return rises_of(levels_of(samples, rate_hz)) * (rate_hz // 100)


def rises_of(levels: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The same, as numbers of levels [levels]."""
    before = np.pad(levels, (_BEFORE, 0), constant_values=20 * np.log10(_FLOOR))
    quietest = np.lib.stride_tricks.sliding_window_view(before, _BEFORE)[: len(levels)].min(1)
    rise = levels - quietest
    is_loud = levels > levels.max() - _LOUD_DB
    strokes: list[int] = []
    for i in np.flatnonzero((rise > _RISE_DB) & is_loud):
        if not strokes or i - strokes[-1] >= _APART:
            strokes.append(int(i))
    return np.array(strokes, np.int64)


def is_struck(samples: Samples, rate_hz: int) -> bool:
    """Whether a recording is loud for less than half of its time: single sounds, not a stretch."""
    levels = levels_of(samples, rate_hz)
    return float((levels > levels.max() - _STRUCK_DB).mean()) < _STRUCK_SHARE
