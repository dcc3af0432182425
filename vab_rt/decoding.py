"""Masked parallel decoding: the schedule, and the loop around a model given as a function.

Paper section 3.4; the schedule is MaskGIT's cosine (arXiv:2202.04200, section 3.2).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.options import TokenOptions
from vab_rt.sampling import Sampler
from vab_rt.sampling_arguments import Logits, StepSettings, Tokens

TokensToLogits = Callable[[Tokens], tuple[Logits, Logits | None]]


def remask_count(step: int, steps: int, num_masked_at_start: int) -> int:
    """Positions that are [MASK] again after `step` (0 to steps - 1) of a clip.

    The floor of cos(pi/2 * r) * num_masked_at_start, r = (step + 1) / steps. Before the last step
    at least one position is left and at least one more than before is known; the last leaves none.
    """
    if step == steps - 1 or num_masked_at_start == 0:
        return 0
    cosine = math.floor(math.cos(math.pi / 2 * (step + 1) / steps) * num_masked_at_start)
    # The cosine is concave: where it falls by less than one a step, it has done so from the start.
    return max(1, min(cosine, num_masked_at_start - step - 1))


def decode_masked(
    tokens_to_logits: TokensToLogits,
    tokens: Tokens,
    seeds: npt.NDArray[np.uint64],
    options: TokenOptions,
    sample_step: Sampler,
) -> Iterator[tuple[int, Tokens]]:
    """Fill the [MASK] positions of tokens [B, K, T]; yields (step, tokens), finished in the last.

    tokens_to_logits: tokens [B, K, T], where V is [MASK], -> conditional logits [B, K, T, V] and
    unconditional ones, or None where one pass is all. seeds [B]. Given tokens never change, and a
    clip's result does not depend on the others in the batch. Every array yielded is a new one.
    """
    batch, steps = len(tokens), options.steps
    tokens = np.array(tokens, np.int32)
    num_masked: npt.NDArray[np.intp] | None = None
    for step in range(steps):
        conditional, unconditional = tokens_to_logits(tokens)  # [B, K, T, V]
        size = conditional.shape[3]
        if num_masked is None:
            num_masked = (tokens == size).sum(axis=(1, 2))  # [B]
        settings = StepSettings(
            seeds=seeds,
            step=step,
            guidance=1.0 if unconditional is None else options.guidance,
            temperature=options.temperature,
            top_k=options.top_k,
            mask_temperature=options.mask_temperature * (1 - (step + 1) / steps),
            num_remask=np.array([remask_count(step, steps, int(n)) for n in num_masked], np.int32),
        )
        sample_step(
            tokens.reshape(batch, -1),
            conditional.reshape(batch, -1, size),
            None if unconditional is None else unconditional.reshape(batch, -1, size),
            settings,
        )
        yield step, tokens.copy()


def guided(
    backbone: Callable[..., Logits],
    given: Mapping[str, npt.NDArray[Any]],
    branches: tuple[float, ...],
) -> TokensToLogits:
    """A backbone (see `contract.py`) as `decode_masked` wants it: all branches of a clip in one
    call.

    given: its inputs beside tokens and branch, [B, ...]. branches: see `ModelConfig`. Each clip
    has its own call, so that neither the rounding of a larger batch nor int8 scales, which a whole
    call shares, can carry anything from one clip to another.
    """
    conditional = np.array(branches, np.float32)  # [G]

    def run_clip(clip: int, tokens: Tokens) -> Logits:  # [K, T] -> [G, K, T, V]
        inputs = {"tokens": tokens, **{name: x[clip] for name, x in given.items()}}
        twice = {name: np.stack([x] * len(conditional)) for name, x in inputs.items()}
        return backbone(**twice, conditional=conditional)

    def tokens_to_logits(tokens: Tokens) -> tuple[Logits, Logits | None]:
        logits = np.stack([run_clip(i, clip) for i, clip in enumerate(tokens)], axis=1)
        return logits[0], (logits[1] if len(branches) > 1 else None)  # [B, K, T, V]

    return tokens_to_logits
