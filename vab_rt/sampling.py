"""Guidance, sampling, confidence and re-masking between two backbone steps.

`sample_step` is the reference: the shortest correct version, which every kernel must equal token
for token. Letters: B clips, N = K * T positions, V codebook size and id of [MASK], R masked rows.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from vab_rt.errors import OptionError, VabError
from vab_rt.philox import CONFIDENCE_STREAM, TOKEN_STREAM, gumbel, log_poly

# Cephes expf (Moshier 1989), highest power first.
_EXP_COEFFICIENTS = tuple(
    np.float32(c)
    for c in (
        1.9875691500e-4,
        1.3981999507e-3,
        8.3334519073e-3,
        4.1665795894e-2,
        1.6666665459e-1,
        5.0000001201e-1,
    )
)
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)


class SampleStep(Protocol):
    """One sampling step on a whole batch; `sample_step` documents the arguments."""

    def __call__(
        self,
        tokens: npt.NDArray[np.int32],
        conditional: npt.NDArray[np.float32],
        unconditional: npt.NDArray[np.float32] | None,
        *,
        seeds: npt.NDArray[np.uint64],
        step: int,
        guidance: float,
        temperature: float,
        top_k: int,
        mask_temperature: float,
        num_remask: npt.NDArray[np.int32],
    ) -> None: ...


def sample_step(
    tokens: npt.NDArray[np.int32],
    conditional: npt.NDArray[np.float32],
    unconditional: npt.NDArray[np.float32] | None,
    *,
    seeds: npt.NDArray[np.uint64],
    step: int,
    guidance: float,
    temperature: float,
    top_k: int,
    mask_temperature: float,
    num_remask: npt.NDArray[np.int32],
) -> None:
    """Fill the masked tokens [B, N] in place and mask the `num_remask` least confident again.

    conditional, unconditional: logits [B, N, V]; None stands for guidance 1. Only rows whose token
    is V are read. seeds [B]; step numbers the noise; top_k 0 keeps all, ties at the threshold stay;
    mask_temperature is already annealed; num_remask [B] is at most the masked count of its clip.
    Ties of confidence go by position. All arrays are C-contiguous.

    Raises OptionError for an argument that does not fit, VabError for logits that are NaN or
    infinite (-inf too: guidance would make NaN of it). After an error the tokens are unchanged.
    """
    check_arguments(
        tokens, conditional, unconditional, seeds, step, guidance, temperature, top_k,
        mask_temperature, num_remask,
    )  # fmt: skip
    mask_id = conditional.shape[2]
    result = tokens.copy()
    for b, seed in enumerate(seeds):
        rows = np.flatnonzero(tokens[b] == mask_id)  # [R]
        scaled = _scaled_logits(
            conditional[b, rows],
            None if unconditional is None else unconditional[b, rows],
            guidance,
            temperature,
        )  # [R, V]
        if not np.isfinite(scaled).all():
            raise not_finite(tokens, conditional, unconditional)
        sampled, log_p = _sample_rows(scaled, rows, int(seed), step, top_k)  # [R]
        noise = gumbel(int(seed), step, CONFIDENCE_STREAM, rows.astype(np.uint32))
        confidence = log_p + np.float32(mask_temperature) * noise
        sampled[np.argsort(confidence, kind="stable")[: num_remask[b]]] = mask_id
        result[b, rows] = sampled
    tokens[...] = result


def _scaled_logits(
    conditional: npt.NDArray[np.float32],
    unconditional: npt.NDArray[np.float32] | None,
    guidance: float,
    temperature: float,
) -> npt.NDArray[np.float32]:
    guided = conditional
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for inf and NaN
        if unconditional is not None:
            guided = unconditional + np.float32(guidance) * (conditional - unconditional)
        return guided * np.float32(1 / temperature)


def _sample_rows(
    scaled: npt.NDArray[np.float32], rows: npt.NDArray[np.intp], seed: int, step: int, top_k: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Tokens [R] drawn from the top-k softmax of scaled [R, V], and log p of each."""
    size = scaled.shape[1]
    keep = np.ones(scaled.shape, bool)
    if 0 < top_k < size:
        keep = scaled >= np.partition(scaled, size - top_k, axis=1)[:, size - top_k, None]
    row, v = np.nonzero(keep)
    score = np.full_like(scaled, -np.inf)
    counter = (rows[row] * size + v).astype(np.uint32)
    score[keep] = scaled[keep] + gumbel(seed, step, TOKEN_STREAM, counter)
    token = score.argmax(axis=1)  # [R], the lowest of equals
    top = scaled.max(axis=1)  # [R]
    # Summed in integers, so that no backend's order of addition can matter.
    weight = np.zeros(scaled.shape, np.int64)
    weight[keep] = exp_poly(scaled[keep] - top[row]) * np.float32(2**24)
    total = weight.sum(axis=1).astype(np.float32) * np.float32(2**-24)
    log_p = (scaled[np.arange(len(token)), token] - top) - log_poly(total)
    return token.astype(np.int32), log_p


def exp_poly(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """e to the power of x <= 0 in float32, within 1e-7 relative above -80 (Cephes expf)."""
    x = np.maximum(x, np.float32(-80))
    n = (x * _LOG2_E - np.float32(0.5)).astype(np.int32)  # to nearest, as x <= 0
    f = n.astype(np.float32)
    x = x - f * _LN2_HIGH - f * _LN2_LOW
    y = np.full_like(x, _EXP_COEFFICIENTS[0])
    for coefficient in _EXP_COEFFICIENTS[1:]:
        y = y * x + coefficient
    y = y * (x * x) + x + np.float32(1)
    return y * ((n + 127) << 23).astype(np.int32).view(np.float32)


def check_arguments(
    tokens: npt.NDArray[np.int32],
    conditional: npt.NDArray[np.float32],
    unconditional: npt.NDArray[np.float32] | None,
    seeds: npt.NDArray[np.uint64],
    step: int,
    guidance: float,
    temperature: float,
    top_k: int,
    mask_temperature: float,
    num_remask: npt.NDArray[np.int32],
) -> None:
    """Raise OptionError unless every argument of a sampling step fits the others."""
    _check_array("tokens", tokens, np.int32, (None, None), "[B, N]")
    _check_array("conditional", conditional, np.float32, (*tokens.shape, None), "[B, N, V]")
    if unconditional is not None:
        _check_array("unconditional", unconditional, np.float32, conditional.shape, "[B, N, V]")
    _check_array("seeds", seeds, np.uint64, (len(tokens),), "[B]")
    _check_array("num_remask", num_remask, np.int32, (len(tokens),), "[B]")
    if not tokens.flags.writeable:
        raise OptionError("tokens is read-only, expected an array that can be changed in place")
    size = conditional.shape[2]
    _require(0 < tokens.shape[1] * size <= 2**32, "N * V", tokens.shape[1] * size, "1 to 2**32")
    _require(0 <= step < 2**32, "step", step, "0 to 2**32 - 1")
    _require(_fits_float32(guidance), "guidance", guidance, "a finite float32")
    if unconditional is None:
        _require(guidance == 1, "guidance", guidance, "1 when unconditional is None")
    _require(
        temperature > 0 and _fits_float32(1 / temperature) and bool(np.float32(1 / temperature)),
        "temperature", temperature, "over 0, with an inverse that fits float32",
    )  # fmt: skip
    _require(0 <= top_k < 2**31, "top_k", top_k, "0 (keep all) to 2**31 - 1")
    _require(
        mask_temperature >= 0 and _fits_float32(mask_temperature),
        "mask_temperature", mask_temperature, "0 or more",
    )  # fmt: skip
    _check_counts(tokens, num_remask, size)


def _check_array(
    name: str,
    array: npt.NDArray[np.generic],
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
    letters: str,
) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        found = getattr(array, "dtype", type(array).__name__)
        raise OptionError(f"{name} is {found}, expected a {np.dtype(dtype)} array {letters}")
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise OptionError(f"{name} has shape {array.shape}, expected ({expected}), {letters}")
    if not array.flags.c_contiguous:
        raise OptionError(
            f"{name} of shape {array.shape} has strides {array.strides}, expected a C-contiguous "
            "array: use np.ascontiguousarray"
        )


def _check_counts(
    tokens: npt.NDArray[np.int32], num_remask: npt.NDArray[np.int32], size: int
) -> None:
    if tokens.size and not (0 <= tokens.min() and tokens.max() <= size):
        raise OptionError(
            f"tokens hold {tokens.min()} to {tokens.max()}, expected 0 to {size} ([MASK])"
        )
    masked = (tokens == size).sum(axis=1)
    for b in np.flatnonzero((num_remask < 0) | (num_remask > masked)):
        raise OptionError(
            f"num_remask[{b}] is {num_remask[b]}, expected 0 to {masked[b]}, the masked positions"
        )


def not_finite(
    tokens: npt.NDArray[np.int32],
    conditional: npt.NDArray[np.float32],
    unconditional: npt.NDArray[np.float32] | None,
) -> VabError:
    """The error for logits that are not finite, with the argument and place that caused it."""
    masked = tokens == conditional.shape[2]  # [B, N]
    for name, logits in (("conditional", conditional), ("unconditional", unconditional)):
        if logits is None:
            continue
        for b, n, v in np.argwhere(~np.isfinite(logits) & masked[..., None])[:1]:
            return VabError(
                f"{name}[{b}, {n}, {v}] of shape {logits.shape} is {logits[b, n, v]}, "
                "expected finite logits: the model or its input is damaged"
            )
    return VabError(
        f"guidance makes logits of shape {conditional.shape} overflow float32, expected finite "
        "values: use a smaller guidance, a larger temperature, or check the model"
    )


def _fits_float32(value: float) -> bool:
    return abs(value) <= float(np.finfo(np.float32).max)


def _require(holds: bool, name: str, found: object, expected: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {found}, expected {expected}")


class NumpySampler:
    """The reference as an object with a name."""

    name = "numpy"
    __call__ = staticmethod(sample_step)


def fastest_sampler() -> NumpySampler:
    """The fastest kernel that this installation holds; its `name` says which."""
    return NumpySampler()
