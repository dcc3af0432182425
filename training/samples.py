"""Sound as clips on disk hold it, in 16 bits, and as networks read it."""

import numpy as np
from numpy.typing import NDArray

FULL_SCALE = 32767


def as_floats(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """The same in [-1, 1]."""
    return samples.astype(np.float32) / FULL_SCALE


def as_int16(samples: NDArray[np.floating]) -> NDArray[np.int16]:
    """The other way, to the nearest."""
    return np.round(samples * FULL_SCALE).astype("<i2")
