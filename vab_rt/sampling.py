"""Guidance, sampling, confidence and re-masking between two backbone steps.

`sample_step` is the reference: the shortest correct version, which every kernel must equal token
for token. Letters: B clips, N = K * T positions, V codebook size and id of [MASK], R masked rows.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from vab_rt.errors import BackendError
from vab_rt.options import check_threads
from vab_rt.philox import CONFIDENCE_STREAM, TOKEN_STREAM, gumbel, log_poly
from vab_rt.sampling_arguments import Logits, StepSettings, Tokens, check_arguments, not_finite
from vab_rt.threads import allowed_cores

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


class Sampler(Protocol):
    """One sampling step on a whole batch; `sample_step` documents the arguments."""

    @property
    def name(self) -> str: ...

    def __call__(
        self,
        tokens: Tokens,
        conditional: Logits,
        unconditional: Logits | None,
        settings: StepSettings,
    ) -> None: ...


def sample_step(
    tokens: Tokens, conditional: Logits, unconditional: Logits | None, settings: StepSettings
) -> None:
    """Fill the masked tokens [B, N] in place and mask the `num_remask` least confident again.

    conditional, unconditional: logits [B, N, V]; None stands for guidance 1. Only rows whose token
    is V are read. Ties of confidence go by position. All arrays are C-contiguous.

    Raises OptionError for an argument that does not fit, VabError for logits that are NaN or
    infinite (-inf too: guidance would make NaN of it). After an error the tokens are unchanged.
    """
    check_arguments(tokens, conditional, unconditional, settings)
    mask_id, s = conditional.shape[2], settings
    result = tokens.copy()
    for b, seed in enumerate(s.seeds):
        rows = np.flatnonzero(tokens[b] == mask_id)  # [R]
        scaled = _scaled_logits(
            conditional[b, rows],
            None if unconditional is None else unconditional[b, rows],
            s.guidance,
            s.temperature,
        )  # [R, V]
        if not np.isfinite(scaled).all():
            raise not_finite(tokens, conditional, unconditional)
        sampled, log_p = _sample_rows(scaled, rows, int(seed), s.step, s.top_k)  # [R]
        noise = gumbel(int(seed), s.step, CONFIDENCE_STREAM, rows.astype(np.uint32))
        confidence = log_p + np.float32(s.mask_temperature) * noise
        sampled[np.argsort(confidence, kind="stable")[: s.num_remask[b]]] = mask_id
        result[b, rows] = sampled
    tokens[...] = result


def _scaled_logits(
    conditional: Logits, unconditional: Logits | None, guidance: float, temperature: float
) -> Logits:
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


class NumpySampler:
    """`sample_step` as an object with a name."""

    name = "numpy"
    __call__ = staticmethod(sample_step)


class NativeSampler:
    """The compiled kernel, token for token `sample_step`; memory and threads stay between steps.

    threads: None takes the cores this process may use, at most 8. Like an onnxruntime session, it
    does not survive a fork. Raises BackendError where the kernel is not built.
    """

    name = "native"

    def __init__(self, threads: int | None = None) -> None:
        try:
            from vab_rt import _sampling
        except ImportError as error:
            raise BackendError(
                f"the native sampling kernel is not installed ({error}): install a C++ compiler "
                "and run pip install --force-reinstall --no-deps vab-rt"
            ) from error
        self._kernel = _sampling.Sampler(check_threads(threads) or min(8, len(allowed_cores())))

    @property
    def num_threads(self) -> int:
        return self._kernel.num_threads

    def __call__(
        self,
        tokens: Tokens,
        conditional: Logits,
        unconditional: Logits | None,
        settings: StepSettings,
    ) -> None:
        check_arguments(tokens, conditional, unconditional, settings)
        s = settings
        finite = self._kernel.sample_step(
            tokens, conditional, unconditional, s.seeds, s.step, s.guidance, 1 / s.temperature,
            s.top_k, s.mask_temperature, s.num_remask,
        )  # fmt: skip
        if not finite:
            raise not_finite(tokens, conditional, unconditional)


def fastest_sampler(threads: int | None = None) -> Sampler:
    """The fastest kernel that this installation holds; its `name` says which."""
    try:
        return NativeSampler(threads)
    except BackendError:
        return NumpySampler()
