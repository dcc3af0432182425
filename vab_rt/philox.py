"""Counter-based random numbers: the same on every backend, whatever the order they are drawn in.

Philox4x32-10 of Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3". Every float
operation is one float32 addition or multiplication, so C++ and Triton kernels without FMA
contraction repeat it bit for bit.
"""

import numpy as np
import numpy.typing as npt

from vab_rt.errors import OptionError

TOKEN_STREAM = 0
CONFIDENCE_STREAM = 1
LATENT_STREAM = 2
EMBEDDING_STREAM = 3
FRAME_STREAM = 4

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)

# Cephes logf (Moshier 1989), highest power first.
_LOG_COEFFICIENTS = tuple(
    np.float32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
# Giles 2010, "Approximating the erfinv function", single precision, highest power first: near 0,
# then of its tails.
_ERFINV_CENTRE, _ERFINV_TAIL = (
    tuple(np.float32(c) for c in coefficients)
    for coefficients in (
        (
            2.81022636e-08,
            3.43273939e-07,
            -3.5233877e-06,
            -4.39150654e-06,
            0.00021858087,
            -0.00125372503,
            -0.00417768164,
            0.246640727,
            1.50140941,
        ),
        (
            -0.000200214257,
            0.000100950558,
            0.00134934322,
            -0.00367342844,
            0.00573950773,
            -0.0076224613,
            0.00943887047,
            1.00167406,
            2.83297682,
        ),
    )
)
_SQRT_TWO = np.float32(1.41421356)
_SQRT_HALF = np.float32(0.707106781186547524)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)


def philox4x32(
    counter: npt.NDArray[np.uint32], key: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint32]:
    """Ten rounds of Philox on each counter: uint32 [..., 4] under one key [2] -> [..., 4]."""
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    k0, k1 = (int(word) for word in key)
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (p1 >> _SHIFT_32) ^ c1 ^ np.uint64(k0), p1 & _LOW_32
        c2, c3 = (p0 >> _SHIFT_32) ^ c3 ^ np.uint64(k1), p0 & _LOW_32
        k0 = (k0 + _KEY_INCREMENTS[0]) & 0xFFFFFFFF
        k1 = (k1 + _KEY_INCREMENTS[1]) & 0xFFFFFFFF
    return np.stack((c0, c1, c2, c3), axis=-1).astype(np.uint32)


def log_poly(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Natural logarithm of positive normal float32, within 1e-7 relative (Cephes logf)."""
    bits = x.view(np.int32)
    exponent = (bits >> 23) - 126
    mantissa = ((bits & 0x7FFFFF) | 0x3F000000).view(np.float32)  # [0.5, 1)
    small = mantissa < _SQRT_HALF
    e = (exponent - small).astype(np.float32)
    f = np.where(small, mantissa + mantissa, mantissa) - np.float32(1)
    z = f * f
    y = _horner(_LOG_COEFFICIENTS, f)
    y = f * z * y + e * _LN2_LOW + z * np.float32(-0.5)
    log: npt.NDArray[np.float32] = (f + y) + e * _LN2_HIGH
    return log


def uniform(
    seed: int, step: int, stream: int, c0: npt.NDArray[np.uint32]
) -> npt.NDArray[np.float32]:
    """One number in (0, 1) per counter, never 0 or 1, exact in float32.

    seed: the clip's 64-bit key; step and stream: 32-bit; c0: uint32 of any shape.
    """
    if not 0 <= seed < 2**64:
        raise OptionError(f"seed is {seed}, expected 0 to 2**64 - 1")
    counter = np.zeros((*c0.shape, 4), np.uint32)
    counter[..., 0], counter[..., 1], counter[..., 2] = c0, step, stream
    key = np.array([seed & 0xFFFFFFFF, seed >> 32], np.uint32)
    word: npt.NDArray[np.uint32] = philox4x32(counter, key)[..., 0]
    mantissa = (word >> np.uint32(9)).astype(np.float32)
    return (mantissa + np.float32(0.5)) * np.float32(2**-23)


def gumbel(
    seed: int, step: int, stream: int, c0: npt.NDArray[np.uint32]
) -> npt.NDArray[np.float32]:
    """Standard Gumbel noise in [-2.82, 16.64], one number per counter; arguments as `uniform`."""
    return -log_poly(-log_poly(uniform(seed, step, stream, c0)))


def normal(
    seed: int, step: int, stream: int, c0: npt.NDArray[np.uint32]
) -> npt.NDArray[np.float32]:
    """Standard normal noise in [-5.3, 5.3], one number per counter; arguments as `uniform`."""
    return _normal_of(uniform(seed, step, stream, c0))


def _normal_of(u: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The normal quantile sqrt(2) * erfinv(2u - 1); x, 1 - x and 1 + x are exact."""
    one = np.float32(1)
    x = (u + u) - one
    w = -log_poly((one - x) * (one + x))
    is_central = w < 5
    centre = w - np.float32(2.5)
    tail = np.sqrt(np.maximum(w, np.float32(0))) - np.float32(3)
    z: npt.NDArray[np.float32] = _SQRT_TWO * (
        np.where(is_central, _horner(_ERFINV_CENTRE, centre), _horner(_ERFINV_TAIL, tail)) * x
    )
    return z


def _horner(
    coefficients: tuple[np.float32, ...], x: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    y = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        y = y * x + coefficient
    return y
