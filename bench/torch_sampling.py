"""The sampling step in torch operations: the peer of the kernels, and part of that of the loop.

It is written as one would write it in torch: `topk`, `log_softmax`, `argsort`, and noise for the
kept logits alone. It does what `vab_rt.sampling.sample_step` does, but that it rounds `log` and
`exp` as torch does, keeps k logits where several tie at the k-th largest, and looks for no NaN.
"""

from collections.abc import Callable
from itertools import cycle

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.report import in_turn, summarise
from vab_rt.options import TokenOptions
from vab_rt.philox import CONFIDENCE_STREAM, TOKEN_STREAM
from vab_rt.sampling_arguments import StepSettings

# Gumbel noise of a stream at the counters [B, N, ...].
Gumbel = Callable[[int, Tensor], Tensor]
Number = Tensor | float
TorchStep = Callable[[Tensor, Tensor, Tensor], Tensor]

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_LOW_32 = 0xFFFFFFFF


def torch_step(
    settings: StepSettings, gumbel: Gumbel, device: torch.device | str = "cpu"
) -> TorchStep:
    """A function of tokens [B, N] and both logits [B, N, V]; it returns the tokens after a step."""
    s, mask_temperature = settings, float(np.float32(settings.mask_temperature))
    num_remask = torch.as_tensor(s.num_remask, device=device)[:, None]  # [B, 1]

    def step(tokens: Tensor, conditional: Tensor, unconditional: Tensor) -> Tensor:
        guided = unconditional + s.guidance * (conditional - unconditional)
        return sample(tokens, guided, s, mask_temperature, num_remask, gumbel)

    return step


def sample(
    tokens: Tensor,
    logits: Tensor,
    options: StepSettings | TokenOptions,
    mask_temperature: Number,
    num_remask: Number,
    gumbel: Gumbel,
) -> Tensor:
    """tokens [B, N] after a step on guided logits [B, N, V], with the options' temperature and
    top-k. What changes from step to step may be tensors: all steps then share a compiled graph."""
    _, positions, size = logits.shape
    inverse_temperature = float(np.float32(1 / options.temperature))
    kept, v = _largest(logits * inverse_temperature, options.top_k)  # [B, N, k]
    n = torch.arange(positions, device=tokens.device)
    score = kept + gumbel(TOKEN_STREAM, n[:, None] * size + v)  # [B, N, k]
    winner = score.argmax(-1, keepdim=True)
    token = v.gather(-1, winner)[..., 0]  # [B, N]
    log_p = kept.log_softmax(-1).gather(-1, winner)[..., 0]
    confidence = log_p + mask_temperature * gumbel(CONFIDENCE_STREAM, n.expand_as(tokens))
    is_masked = tokens == size
    confidence = confidence.masked_fill(~is_masked, torch.inf)
    place = confidence.argsort(dim=-1, stable=True).argsort()  # [B, N]
    filled = torch.where(place < num_remask, size, token)
    return torch.where(is_masked, filled, tokens).to(torch.int32)


def _largest(scaled: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k largest logits of each row and their indices, or all."""
    size = scaled.shape[-1]
    if 0 < top_k < size:
        return scaled.topk(top_k, sorted=False)
    return scaled, torch.arange(size, device=scaled.device).expand_as(scaled)


def philox_gumbel(settings: StepSettings, device: torch.device | str = "cpu") -> Gumbel:
    """The noise of `vab_rt.philox`, in int64: torch has no 32-bit unsigned product."""
    keys = torch.as_tensor(settings.seeds.astype("<u8").view("<u4").astype(np.int64), device=device)
    keys = keys.reshape(-1, 2)  # [B, 2]

    def gumbel(stream: int, counter: Tensor) -> Tensor:
        shape = (-1, *(1,) * (counter.dim() - 1))
        key = keys[:, 0].reshape(shape), keys[:, 1].reshape(shape)
        word = _philox_word(counter, settings.step, stream, key)
        u = ((word >> 9).to(torch.float32) + 0.5) * 2.0**-23
        return -torch.log(-torch.log(u))

    return gumbel


def _philox_word(c0: Tensor, step: int, stream: int, key: tuple[Tensor, Tensor]) -> Tensor:
    """The first word of Philox4x32-10 at (c0, step, stream, 0). Products may wrap: bits stay."""
    x0, x1, x2, x3 = c0, step, stream, 0
    k0, k1 = key
    for _ in range(10):
        p0, p1 = x0 * _MULTIPLIERS[0], x2 * _MULTIPLIERS[1]
        x0, x1 = ((p1 >> 32) & _LOW_32) ^ x1 ^ k0, p1 & _LOW_32
        x2, x3 = ((p0 >> 32) & _LOW_32) ^ x3 ^ k1, p0 & _LOW_32
        k0, k1 = (k0 + _KEY_INCREMENTS[0]) & _LOW_32, (k1 + _KEY_INCREMENTS[1]) & _LOW_32
    return x0


def torch_gumbel(stream: int, counter: Tensor) -> Tensor:
    """Noise of torch's own generator: what one would use who need not repeat it elsewhere."""
    return -torch.empty(counter.shape, device=counter.device).exponential_().log()


def torch_steps(settings: StepSettings, device: torch.device | str = "cpu") -> dict[str, TorchStep]:
    """Ways to run the step in torch, by the name of their figures.

    With the noise of the reference, which makes their tokens comparable, and with torch's own,
    which is cheaper.
    """
    same = torch_step(settings, philox_gumbel(settings, device), device)
    own = torch_step(settings, torch_gumbel, device)
    return {
        "torch": same,
        "torch_compile": torch.compile(same, dynamic=False),
        "torch_own_noise": own,
        "torch_compile_own_noise": torch.compile(own, dynamic=False),
    }


def measure_torch(
    settings: StepSettings, buffers: npt.NDArray[np.float32], threads: int, num_runs: int
) -> dict[str, float]:
    """The best time of each way on this CPU; buffers: logits [buffer, 2, 1, N, V] in turn."""
    torch.set_num_threads(threads)
    *_, positions, size = buffers.shape
    tokens = torch.full((1, positions), size, dtype=torch.int32)
    logits = cycle(torch.from_numpy(buffers))
    ways = torch_steps(settings)
    calls = {name: lambda step=step: step(tokens, *next(logits)) for name, step in ways.items()}
    with torch.inference_mode():
        times = in_turn(calls, num_runs, warm_ups=1)  # the first compiles
    return {f"{name}_ms": round(each.best, 3) for name, each in summarise(times).items()}
