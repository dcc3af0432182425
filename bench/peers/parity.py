"""What has to hold before anything is timed: every peer computes what it says it computes."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.peers.autoregressive import Autoregressive
from bench.peers.foleygen import GrowingCache
from bench.peers.parallel import Parallel
from bench.torch_sampling import philox_gumbel, torch_step
from export.tolerances import TOLERANCES as EXPORTED
from vab_rt.decoding import remask_count
from vab_rt.errors import VabError
from vab_rt.options import TokenOptions
from vab_rt.sampling_arguments import StepSettings

Steps = list[npt.NDArray[np.int32]]
CACHED_COLUMNS = 24  # of the beginning, and all of them in the uncached pass


@dataclass(frozen=True)
class Tolerance:
    """logits: largest difference over the largest logit. tokens: share that may differ, as where
    two candidates are so near that rounding decides."""

    logits: float
    tokens: float


TOLERANCES = {
    "fp32": Tolerance(EXPORTED["backbone"].relative, 1e-3),  # float32 sums in another order
    "fp16": Tolerance(2e-2, 5e-2),  # 10 bits of mantissa through every layer
    "bf16": Tolerance(1e-1, 2e-1),  # 7 bits
}


class Differs(VabError):
    """A peer does not compute what it should: it is not timed."""


def require(name: str, found: float, limit: float) -> float:
    """`found`, where it is within the limit. Raises Differs, also when it is NaN."""
    if not found <= limit:
        raise Differs(f"not timed: {name} differ by {found:.1e}, expected at most {limit:g}")
    return found


@torch.inference_mode()
def cached_error(way: Autoregressive, features: Tensor, columns: Tensor) -> float:
    """The error of the logits after each of the first columns [B, K, P], cached, against no cache
    at all."""
    model, branches = way.model, way.branches
    pair = features.to(branches).repeat(2, 1, 1)
    first = columns[..., :-1][..., :CACHED_COLUMNS]  # nothing follows the last
    numbers = torch.arange(first.shape[2], device=first.device)
    uncached, cached = GrowingCache(way.config), way.static or GrowingCache(way.config)
    for cache in (uncached, cached):
        model.see(pair, branches, cache)
    expected = way.logits(first, numbers, uncached)  # [B, P, K, V]
    one_by_one = zip(first.split(1, 2), numbers.split(1), strict=True)
    found = torch.cat([way.logits(*column, cached) for column in one_by_one], 1)
    return relative_error(expected, found)


@torch.inference_mode()
def share_unequal_columns(
    way: Autoregressive, features: Tensor, seed: int, columns: Tensor
) -> float:
    """Tokens that differ from columns [B, K, T + K], each pass fed the columns before."""
    one_pass, noise = way.begin(features), way.noise(seed)
    unequal = 0
    for i, number in enumerate(way.numbers):
        torch.compiler.cudagraph_mark_step_begin()
        found = one_pass(columns[..., i].contiguous(), number, noise[i])
        unequal += int((found != columns[..., i + 1]).sum())
    return unequal / columns[..., 1:].numel()


@torch.inference_mode()
def share_unequal_steps(
    way: Parallel, features: Tensor, ours: Callable[[int, TokenOptions], Steps]
) -> float:
    """The share of our tokens [1, K, T] after each step, against torch's from the same tokens and
    noise.

    Where only the last of many steps is seen, as on a GPU, a loop of a single step is compared.
    """
    options = way.options
    shown = ours(options.seed, options)
    if len(shown) < options.steps:
        options = msgspec.structs.replace(options, steps=1)
        shown = ours(options.seed, options)
    pair = features.to(way.branches).repeat(2, 1, 1)
    before, unequal = way.masked(), 0
    for step, tokens in enumerate(shown):
        settings = settings_of(options, step, before.numel())
        one_step = torch_step(settings, philox_gumbel(settings, way.device), way.device)
        logits = [branch.flatten(1, 2) for branch in way.branch_logits(before, pair)]
        found = one_step(before.flatten(1), *logits).view_as(before)
        after = torch.from_numpy(tokens).to(way.device)
        unequal += int((found != after).sum())
        before = after
    return unequal / (len(shown) * before.numel())


def settings_of(options: TokenOptions, step: int, num_masked: int) -> StepSettings:
    """What `decode_masked` asks of one step of one clip that begins with [MASK] alone."""
    o = options
    return StepSettings(
        seeds=np.array([o.seed], np.uint64),
        step=step,
        guidance=o.guidance,
        temperature=o.temperature,
        top_k=o.top_k,
        mask_temperature=o.mask_temperature * (1 - (step + 1) / o.steps),
        num_remask=np.array([remask_count(step, o.steps, num_masked)], np.int32),
    )


def relative_error(expected: Tensor, found: Tensor) -> float:
    """The largest difference over the largest value."""
    return float((expected - found).abs().max() / expected.abs().max())


@torch.inference_mode()
def logits_error(
    way: Parallel, features: Tensor, backbone: Callable[..., npt.NDArray[np.float32]]
) -> float:
    """The error of the runtime's backbone, against torch's, on one guided step from [MASK]
    alone."""
    pair = features.repeat(2, 1, 1)
    tokens = way.masked().repeat(2, 1, 1)
    expected = torch.cat(way.branch_logits(way.masked(), pair.to(way.branches)))
    found = backbone(
        tokens=tokens.cpu().numpy(),
        features=pair.float().cpu().numpy(),
        conditional=way.branches.float().cpu().numpy(),
    )
    return relative_error(expected, torch.from_numpy(found).to(way.device))
