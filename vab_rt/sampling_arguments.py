"""What one sampling step accepts, and the errors for what it does not."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vab_rt.errors import OptionError, VabError

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StepSettings:
    """What one step on B clips is asked for, beside its tokens and logits.

    seeds [B]; step numbers the noise; top_k 0 keeps all, ties at the threshold stay;
    mask_temperature is already annealed; num_remask [B] is at most the masked count of its clip.
    """

    seeds: npt.NDArray[np.uint64]
    step: int
    guidance: float
    temperature: float
    top_k: int
    mask_temperature: float
    num_remask: npt.NDArray[np.int32]


def check_arguments(
    tokens: Tokens, conditional: Logits, unconditional: Logits | None, settings: StepSettings
) -> None:
    """Raise OptionError unless every argument of a sampling step fits the others."""
    s = settings
    check_array("tokens", tokens, np.int32, (None, None), "[B, N]")
    check_array("conditional", conditional, np.float32, (*tokens.shape, None), "[B, N, V]")
    if unconditional is not None:
        check_array("unconditional", unconditional, np.float32, conditional.shape, "[B, N, V]")
    check_array("seeds", s.seeds, np.uint64, (len(tokens),), "[B]")
    check_array("num_remask", s.num_remask, np.int32, (len(tokens),), "[B]")
    if not tokens.flags.writeable:
        raise OptionError("tokens is read-only, expected an array that can be changed in place")
    size = conditional.shape[2]
    _require(0 < tokens.shape[1] * size <= 2**32, "N * V", tokens.shape[1] * size, "1 to 2**32")
    _require(size < 2**31, "V", size, "under 2**31, as tokens are int32")
    _require(0 <= s.step < 2**32, "step", s.step, "0 to 2**32 - 1")
    check_options(s.guidance, s.temperature, s.top_k)
    if unconditional is None:
        _require(s.guidance == 1, "guidance", s.guidance, "1 when unconditional is None")
    _require(
        s.mask_temperature >= 0 and _fits_float32(s.mask_temperature),
        "mask_temperature", s.mask_temperature, "0 or more",
    )  # fmt: skip
    _check_counts(tokens, s.num_remask, size)


def check_options(guidance: float, temperature: float, top_k: int) -> None:
    """Raise OptionError unless the numbers of a request are in range."""
    _require(_fits_float32(guidance), "guidance", guidance, "a finite float32")
    _require(
        temperature > 0 and _fits_float32(1 / temperature) and bool(np.float32(1 / temperature)),
        "temperature", temperature, "over 0, with an inverse that fits float32",
    )  # fmt: skip
    _require(0 <= top_k < 2**31, "top_k", top_k, "0 (keep all) to 2**31 - 1")


def check_array(
    name: str,
    array: npt.NDArray[np.generic],
    dtype: type[np.generic],
    shape: tuple[int | None, ...],
    letters: str,
) -> None:
    """Raise OptionError unless this is a C-contiguous NumPy array; a size of None may be any."""
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    expected = f"{np.dtype(dtype)} ({sizes}), {letters}"
    if not isinstance(array, np.ndarray):
        raise OptionError(f"{name} is a {type(array).__name__}, expected a NumPy array {expected}")
    fits = array.ndim == len(shape) and all(
        want in (None, have) for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise OptionError(f"{name} is {array.dtype} {array.shape}, expected {expected}")
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


def not_finite(tokens: Tokens, conditional: Logits, unconditional: Logits | None) -> VabError:
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
