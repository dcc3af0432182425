"""The GPU's part of `bench sampling`: the shipped kernels beside the same step in torch.

Every way is timed twice: launched from Python step after step, and captured in a CUDA graph, whose
replay is the time of the GPU alone. The logits of successive steps lie in different memory, so that
they come from there and not from a cache. A way of torch that does not run here is left out, and
named with its reason.
"""

import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.report import Call, in_turn, summarise
from bench.torch_sampling import torch_steps
from vab_rt.engines.gpu import DeviceArray, Gpu
from vab_rt.engines.sampling_kernels import CudaSampler
from vab_rt.sampling import sample_step
from vab_rt.sampling_arguments import StepSettings

NUM_STEPS = 8  # of the default shape 262 MB of logits, past any cache
REFERENCE_NOISE = ("torch", "torch_compile")
WARM_UPS = 3


class Clock:
    """The first GPU's clock and graphs, on the stream that the kernels are launched on."""

    device = "cuda"

    def __init__(self, stream: Any) -> None:
        self.name = torch.cuda.get_device_name()
        self.stream = torch.cuda.ExternalStream(int(stream.handle))
        torch.cuda.set_stream(self.stream)

    def elapsed_ms(self, call: Call) -> float:
        """Time on the GPU from the first kernel of a call to the end of its last."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    def capture(self, call: Call) -> Call:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            call()
        return graph.replay


class Steps:
    """`NUM_STEPS` all-masked steps [1, N, V] on logits of their own, by any of several ways."""

    def __init__(self, settings: StepSettings, sampler: CudaSampler, device: str) -> None:
        self.settings, self.sampler = settings, sampler
        _, positions, self.size = sampler.shape
        shape = (NUM_STEPS, 2, 1, positions, self.size)
        self.logits = torch.randn(shape, device=device)
        self.tokens = torch.empty(NUM_STEPS, 1, positions, dtype=torch.int32, device=device)
        self.ways = {"kernels": self._launch} | torch_steps(settings, device)

    def begin(self) -> None:
        """Mask every token and set the kernels' schedule back to its first step."""
        s = self.settings
        self.tokens.fill_(self.size)
        self.sampler.begin(
            s.seeds,
            guidance=s.guidance,
            temperature=s.temperature,
            top_k=s.top_k,
            mask_temperatures=np.full(NUM_STEPS, s.mask_temperature, np.float32),
            num_remask=np.tile(s.num_remask, (NUM_STEPS, 1)),
            first_step=s.step,
        )

    def run(self, way: str) -> list[Tensor]:
        """The tokens after each step; the kernels change them in place."""
        results = []
        for tokens, (conditional, unconditional) in zip(self.tokens, self.logits, strict=True):
            result = self.ways[way](tokens, conditional, unconditional)
            results.append(tokens if result is None else result)
        return results

    def _launch(self, tokens: Tensor, conditional: Tensor, unconditional: Tensor) -> None:
        self.sampler.launch(*map(array_of, (tokens, conditional, unconditional)))

    def share_equal(self, way: str) -> float:
        """Tokens of the first step that are the reference's."""
        self.begin()
        found = self.run(way)[0].cpu().numpy()
        conditional, unconditional = self.logits[0].cpu().numpy()
        expected = np.full_like(found, self.size)
        sample_step(expected, conditional, unconditional, self.settings)
        return float((found == expected).mean())


def array_of(tensor: Tensor) -> DeviceArray:
    """The same memory, as the kernels' launcher takes it."""
    assert tensor.is_contiguous(), (tensor.shape, tensor.stride())
    kind = {torch.int32: np.int32, torch.float32: np.float32}[tensor.dtype]
    return DeviceArray(tensor.data_ptr(), kind, tuple(tensor.shape), owner=tensor)


def why_not() -> str | None:
    """Why there is nothing to measure here, or None."""
    return None if torch.cuda.is_available() else "not measured: no GPU"


def measure_gpu(settings: StepSettings, positions: int, size: int, num_runs: int) -> dict[str, Any]:
    """Figures of one step on the first GPU; exits unless the kernels equal the reference."""
    gpu = Gpu()
    clock = Clock(gpu.stream)
    sampler = CudaSampler(gpu, len(settings.seeds), positions, size, max_steps=NUM_STEPS)
    return measure_steps(clock, Steps(settings, sampler, clock.device), num_runs)


def measure_steps(gpu: Clock, steps: Steps, num_runs: int) -> dict[str, Any]:
    """Parity first, then the ceiling and every way in turn; the best of each, per step."""
    if (share := steps.share_equal("kernels")) != 1:
        sys.exit(f"parity is red on {gpu.name}: {share:.2%} of the tokens equal; nothing was timed")
    steps.sampler.check()
    calls, failed = _calls(gpu, steps)
    comparable = [way for way in REFERENCE_NOISE if way in calls]
    figures: dict[str, Any] = {f"gpu_{w}_equal_tokens": steps.share_equal(w) for w in comparable}

    def step_ms(call: Call) -> float:
        steps.begin()
        return gpu.elapsed_ms(call) / NUM_STEPS

    times = summarise(in_turn(calls, num_runs, step_ms, WARM_UPS))
    steps.sampler.check()
    best = {f"gpu_{name}_ms": round(each.best, 5) for name, each in times.items()}
    best["gpu_ceiling_ms"] = min(best.pop("gpu_sum_ms"), best.pop("gpu_max_ms"))
    share = best["gpu_ceiling_ms"] / best["gpu_kernels_graph_ms"]
    figures |= best | {"gpu_share_of_memory_ceiling": round(share, 3), "gpu_failed": failed}
    return {"gpu": gpu.name} | figures


def _calls(gpu: Clock, steps: Steps) -> tuple[dict[str, Call], dict[str, str]]:
    """What is timed, by name: plain reads of the logits, and each way launched and captured; and
    why a way is not. The kernels must run."""
    words = steps.logits.flatten().view(torch.int32)
    calls: dict[str, Call] = {"sum": steps.logits.sum, "max": words.amax}
    failed: dict[str, str] = {}
    for way in steps.ways:
        call = partial(steps.run, way)
        try:
            steps.begin()
            call()  # compiled and warm before it is captured
            calls[way] = call
            steps.begin()
            calls[f"{way}_graph"] = gpu.capture(call)
        except Exception as error:
            if way == "kernels":
                raise
            failed[way] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return calls, failed
