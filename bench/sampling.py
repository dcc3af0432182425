"""`python -m bench sampling`: one sampling step, NumPy and native, against a read of both logits.

Every figure is the best of its runs, which alternate; medians stand beside them. The logits of
successive runs lie in different memory, so that they come from there and not from a cache. Beside
them the same step in torch, and on a GPU, where there is one, the compiled kernels.
"""

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.options import at_least_one, parser_of
from bench.report import console, elapsed_ms, in_turn, print_facts, print_figures, summarise
from vab_rt.bundle import open_bundle
from vab_rt.engines import open_engines
from vab_rt.errors import BackendError, BundleError
from vab_rt.options import TokenOptions
from vab_rt.sampling import NativeSampler, Sampler, sample_step
from vab_rt.sampling_arguments import StepSettings

POSITIONS, SIZE = 2000, 2048  # vab-encodec: 4 codebooks x 500 steps, 2048 codes
NUM_BUFFERS = 8  # 262 MB of logits, past any cache
PARITY_SIZES = ((1, 1), (7, 2), (63, 63), (64, 781), (33, 1823), (40, 2048))
DEFAULTS = TokenOptions()

Logits = npt.NDArray[np.float32]


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    facts = print_facts()
    figures = measure_on_gpu(options.runs)
    print_figures(figures)  # at once: a run may be cut short
    try:
        native = NativeSampler(options.threads)
    except BackendError as error:
        console.print(f"{error}; on the CPU nothing was timed", markup=False)
        figures |= {"native_ms": None, "native_reason": str(error)}
    else:
        check_parity(native)
        figures |= measure_kernels(native, options.runs) | measure_share_of_step(native)
        figures |= measure_in_torch(native.num_threads, options.runs)
    print_figures(figures)
    if options.json:
        print(json.dumps(figures | facts))


def check_parity(native: Sampler) -> None:
    """Exits before anything is timed unless both kernels give the same tokens."""
    rng = np.random.default_rng(0)
    for positions, size in PARITY_SIZES:
        for top_k in (0, 5, DEFAULTS.top_k):
            logits = rng.standard_normal((2, 1, positions, size), np.float32) * 2
            expected, found = (step_once(f, logits, top_k) for f in (sample_step, native))
            if not np.array_equal(expected, found):
                sys.exit(
                    f"parity is red at {positions} x {size}, top-k {top_k}: "
                    f"{(expected != found).sum()} tokens differ; nothing was timed"
                )
    console.print("parity: native tokens equal the reference's")


def step_once(
    step: Callable[..., None], logits: Logits, top_k: int = DEFAULTS.top_k
) -> npt.NDArray[np.int32]:
    """Tokens [1, N] after the first of the default steps on logits [2, 1, N, V], all masked."""
    positions, size = logits.shape[2:]
    tokens = np.full((1, positions), size, np.int32)
    step(
        tokens,
        logits[0],
        logits[1],
        first_step(positions, top_k),
    )
    return tokens


def first_step(positions: int, top_k: int = DEFAULTS.top_k) -> StepSettings:
    """The first of the default steps, of one clip."""
    return StepSettings(
        seeds=np.array([1], np.uint64),
        step=0,
        guidance=DEFAULTS.guidance,
        temperature=DEFAULTS.temperature,
        top_k=top_k,
        mask_temperature=DEFAULTS.mask_temperature * (1 - 1 / DEFAULTS.steps),
        num_remask=np.array([positions * 99 // 100], np.int32),
    )


def measure_kernels(native: NativeSampler, num_runs: int) -> dict[str, Any]:
    """The ceiling first, then both kernels beside it, in turn."""
    buffers = random_logits()
    num_bytes, threads, logits = buffers[0].nbytes, native.num_threads, cycle(buffers)
    with ThreadPoolExecutor(threads) as pool:
        readers = [lambda f=f: read_once(pool, threads, next(logits), f) for f in (_largest, _dot)]
        first_ms = min(_time_ms(reader) for _ in range(20) for reader in readers)
        console.print(
            f"ceiling: {threads} threads read {num_bytes / 1e6:.1f} MB of logits in "
            f"{first_ms:.2f} ms, {num_bytes / first_ms / 1e6:.1f} GB/s"
        )
        times: dict[str, list[float]] = {"ceiling": [], "native": [], "numpy": []}
        for run in range(num_runs):
            times["ceiling"] += [_time_ms(reader) for reader in readers]
            times["native"].append(_time_ms(lambda: step_once(native, next(logits))))
            if run % 10 == 0:
                times["numpy"].append(_time_ms(lambda: step_once(sample_step, next(logits))))
    return figures_of(times) | {"bytes": num_bytes, "threads": threads, "runs": num_runs}


def random_logits() -> Logits:
    """Both logits of an unconfident model, [buffer, 2, 1, N, V]."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((NUM_BUFFERS, 2, 1, POSITIONS, SIZE), np.float32)


def figures_of(times: dict[str, list[float]]) -> dict[str, Any]:
    summary = summarise(times)
    best = {name: each.best for name, each in summary.items()}
    return {
        "native_ms": best["native"],
        "numpy_ms": best["numpy"],
        "native_speedup": round(best["numpy"] / best["native"], 2),
        "ceiling_ms": best["ceiling"],
        "share_of_memory_ceiling": round(best["ceiling"] / best["native"], 3),
    } | {f"{name}_median_ms": each.median for name, each in summary.items()}


def read_once(
    pool: ThreadPoolExecutor, threads: int, logits: Logits, read: Callable[[Logits], object]
) -> None:
    """Each thread reads its part of both logits, once."""
    for _ in pool.map(read, np.array_split(logits.reshape(-1), threads)):
        pass


def _largest(part: Logits) -> object:
    return np.maximum.reduce(part.view(np.int32))


def _dot(part: Logits) -> object:
    return np.dot(part, part)


def measure_share_of_step(native: Sampler) -> dict[str, Any]:
    """Sampling over a guided backbone step of the default bundle, on the backbone's own logits."""
    try:
        bundle = open_bundle()
        engines = open_engines(bundle, "cpu")
    except (BundleError, BackendError) as error:
        return {"share_of_step": None, "share_of_step_reason": str(error)}
    c = bundle.config
    inputs = {
        "tokens": np.full((2, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32),
        "features": np.random.default_rng(0).standard_normal(
            (2, c.num_frames, c.visual_dim), np.float32
        ),
        "conditional": np.array([1, 0], np.float32),
    }
    logits = engines["backbone"](**inputs).reshape(2, 1, -1, c.codebook_size)
    calls = {
        "backbone": lambda: engines["backbone"](**inputs),
        "sampling": lambda: step_once(native, logits),
    }
    best = {n: each.best for n, each in summarise(in_turn(calls, 10, _time_ms)).items()}
    return {
        "share_of_step": round(best["sampling"] / best["backbone"], 4),
        "default_sampling_ms": best["sampling"],
        "default_backbone_ms": best["backbone"],
    }


def measure_on_gpu(num_runs: int) -> dict[str, Any]:
    """The compiled kernels beside the same step in torch; or why there is nothing to measure."""
    try:
        from bench.gpu_sampling import measure_gpu, why_not
    except ImportError as error:
        return {"gpu": None, "gpu_reason": f"not measured: {error}"}
    if reason := why_not():
        return {"gpu": None, "gpu_reason": reason}
    try:
        return measure_gpu(first_step(POSITIONS), POSITIONS, SIZE, num_runs)
    except BackendError as error:
        return {"gpu": None, "gpu_reason": f"not measured: {error}"}


def measure_in_torch(threads: int, num_runs: int) -> dict[str, Any]:
    """The same step in torch on the CPU."""
    num_runs = max(1, num_runs // 10)
    try:
        from bench.torch_sampling import measure_torch

        return measure_torch(first_step(POSITIONS), random_logits(), threads, num_runs)
    except Exception as error:  # noqa: BLE001 - of torch's compiler; the other figures stand
        return {"torch_ms": None, "torch_reason": f"not measured: {' '.join(str(error).split())}"}


def _time_ms(call: Callable[[], object]) -> float:
    return round(elapsed_ms(call), 4)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("sampling", __doc__)
    parser.add_argument("--threads", type=at_least_one, default=2)
    parser.add_argument("--runs", type=at_least_one, default=100, help="of the native kernel")
    return parser
