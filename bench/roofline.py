"""The ceiling: what this machine's arithmetic and memory allow, and what a model asks of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vab_rt.config import ModelConfig

FEED_FORWARD_FACTOR = 4
ALIGNED_FRAMES = 3  # that a token step sees with aligned_visual
GUIDED = 2  # branches of classifier-free guidance
REPEATS = 12


@dataclass(frozen=True)
class Work:
    """What a stage asks of the machine: matrix products, and memory read and written at least."""

    flops: float
    size_bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.size_bytes + other.size_bytes)

    def times(self, count: int) -> "Work":
        return Work(count * self.flops, count * self.size_bytes)


@dataclass(frozen=True)
class Roofline:
    """Peaks measured in this process: a matrix product, and a large copy (read and write)."""

    flops_per_s: float
    bytes_per_s: float

    def seconds(self, flops: float, size_bytes: float = 0.0) -> float:
        """The least time for this much arithmetic beside this much memory traffic."""
        return max(flops / self.flops_per_s, size_bytes / self.bytes_per_s)

    def least_ms(self, work: Work) -> float:
        return 1e3 * self.seconds(work.flops, work.size_bytes)


def measure_roofline(size: int = 2048, copied_bytes: int = 256_000_000) -> Roofline:
    """The ceilings of the CPU, in float32."""
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    product = np.empty_like(a)
    source = np.ones(copied_bytes, np.uint8)
    target = np.empty_like(source)
    return Roofline(
        flops_per_s=2 * size**3 / _best_s(lambda: np.matmul(a, b, out=product)),
        bytes_per_s=2 * copied_bytes / _best_s(lambda: np.copyto(target, source)),
    )


def _best_s(call: Callable[[], object]) -> float:
    def once() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return min(once() for _ in range(REPEATS))


def backbone_flops(config: ModelConfig, batch: int) -> int:
    """Multiplications and additions of the matrix products in one pass; a guided step has batch 2.

    Attention counts in full, the rest (norms, GELU, softmax) not at all, and neither do the codes'
    projections: runtimes fold them at load.
    """
    c = config
    positions = c.num_visual + c.num_token_steps
    layer = positions * layer_weights(c) + 2 * positions**2 * c.width
    inputs = c.num_visual * c.visual_dim
    outputs = c.num_token_steps * num_logits(c)
    beside = ALIGNED_FRAMES * c.num_frames * c.visual_dim if c.aligned_visual else 0
    return 2 * batch * (c.layers * layer + c.width * (inputs + outputs + beside))


def backbone_weights(config: ModelConfig) -> int:
    """Numbers that one pass reads: every layer, the feed-forwards of experts twice, and the ends.

    Codebooks count as the rows that are looked up, not as the whole table.
    """
    c = config
    experts = c.expert_layers * 2 * FEED_FORWARD_FACTOR * c.width**2
    beside = ALIGNED_FRAMES * c.visual_dim if c.aligned_visual else 0
    ends = c.visual_dim + num_logits(c) + beside
    return c.layers * layer_weights(c) + experts + c.width * ends


def backbone_work(config: ModelConfig, batch: int, number_bytes: int = 4) -> Work:
    """One pass. Beside the weights, logits are written and read again by the sampling."""
    c = config
    features = batch * c.num_frames * c.visual_dim
    logits = batch * c.num_token_steps * num_logits(c)
    numbers = backbone_weights(c) + features + 2 * logits
    return Work(backbone_flops(c, batch), number_bytes * numbers)


def autoregressive_work(config: ModelConfig, batch: int, number_bytes: int = 4) -> Work:
    """All steps of a cached autoregressive decoder of the same sizes, guided.

    One pass over the F visual positions, then one position of both branches in each of the
    T + K - 1 steps of the delay pattern. Every step reads the weights, and the cache so far.
    """
    c = config
    rows, steps = GUIDED * batch, c.num_token_steps + c.num_codebooks - 1
    weights = c.layers * layer_weights(c) + c.width * num_logits(c)
    positions = c.num_visual + steps
    attended = positions * (positions + 1) // 2  # pairs of a position and one it sees
    flops = 2 * rows * (
        positions * c.layers * layer_weights(c)
        + 2 * c.layers * attended * c.width
        + c.width * (steps * num_logits(c) + c.num_visual * c.visual_dim)
    )  # fmt: skip
    cache = 2 * c.layers * c.width * rows * attended  # keys and values
    return Work(flops, number_bytes * (steps * weights + cache))


def layer_weights(config: ModelConfig) -> int:
    """The weights of the matrices that one position passes in one layer: q, k, v, out; expand,
    contract."""
    return (4 + 2 * FEED_FORWARD_FACTOR) * config.width**2


def num_logits(config: ModelConfig) -> int:
    """At one token step."""
    return (config.num_codebooks - config.given_codebooks) * config.codebook_size
