"""The ceiling: what this machine's arithmetic and memory allow, and what a model asks of them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vab_rt.config import ModelConfig

FEED_FORWARD_FACTOR = 4
REPEATS = 12


@dataclass(frozen=True)
class Roofline:
    """Peaks measured in this process: float32 matrix product, and a large copy (read and write)."""

    flops_per_s: float
    bytes_per_s: float

    def seconds(self, flops: float, size_bytes: float = 0.0) -> float:
        """The least time for this much arithmetic beside this much memory traffic."""
        return max(flops / self.flops_per_s, size_bytes / self.bytes_per_s)


def measure_roofline(size: int = 2048, copied_bytes: int = 256_000_000) -> Roofline:
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

    Attention counts in full, the rest (norms, GELU, softmax) not at all.
    """
    c = config
    positions = c.num_frames + c.num_token_steps
    projections = (4 + 2 * FEED_FORWARD_FACTOR) * c.width**2  # q, k, v, out; expand, contract
    layer = positions * projections + 2 * positions**2 * c.width
    inputs = c.num_token_steps * c.code_dim + c.num_frames * c.visual_dim
    outputs = c.num_token_steps * c.num_codebooks * c.codebook_size
    return 2 * batch * (c.layers * layer + c.width * (inputs + outputs))
