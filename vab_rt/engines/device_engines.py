"""A bundle's graphs on a GPU, as a system takes them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.config import TokenOptions
from vab_rt.contract import GraphContract
from vab_rt.decoding import Tokens
from vab_rt.engines import Engines
from vab_rt.engines.device_arrays import DeviceArray
from vab_rt.engines.device_loop import DeviceGraph, DeviceLoop, Enqueue, arrays_of
from vab_rt.engines.gpu import Gpu
from vab_rt.errors import BackendError, BundleError

MAX_CLIPS = 16
MAX_SHAPES = 4
"""Shapes of the loop that memory is held for at a time."""

_BEST_FIRST = ("fp16", "bf16", "fp32")


def gpu_precision(bundle: Bundle, name: str, *, has_fp8: bool = False) -> str:
    """What a GPU computes this graph of a bundle in: fp8 where it can and the graph is there, or
    else the first that the bundle has of fp16, bf16 and fp32.

    Raises BundleError where there is none, as of int8 graphs, which are for processors.
    """
    variants = bundle.manifest.variants
    if has_fp8 and name in variants.get("fp8", {}):
        return "fp8"
    held = {*variants, bundle.manifest.precision}
    for precision in _BEST_FIRST:
        if precision in held:
            return precision
    raise BundleError(
        f"{bundle.folder} has graphs in {', '.join(sorted(held))}, expected "
        f"{' or '.join(_BEST_FIRST)} for this device; export the model again with: "
        "python -m export.build_engines CHECKPOINT --precision fp32,fp16"
    )


def check_room(gpu: Gpu, bundle: Bundle, precisions: Mapping[str, str]) -> None:
    """Raises BackendError where the graphs, in these precisions, are more than the GPU has free."""
    files = {bundle.file_of(name, precision) for name, precision in precisions.items()}
    needed = sum(bundle.manifest.files[file].size_bytes for file in files)
    free, _ = gpu.memory_bytes()
    if needed > free:
        half = "" if {*precisions.values()} - {"fp32"} else ", export it with --precision fp32,fp16"
        raise BackendError(
            f"the graphs of {bundle.folder} take {needed / 1e6:.0f} MB, but {gpu.room()} on "
            f"{gpu.name}; a model of {free / 1e6:.0f} MB would fit: close other programs{half}, or "
            "use --device cpu"
        )


def max_rows(contract: GraphContract) -> int:
    """Of a graph's free dimension; larger calls are cut. Guidance runs both branches at once."""
    is_guided = any(tensor.name == "conditional" for tensor in contract.inputs)
    return 2 * MAX_CLIPS if is_guided else MAX_CLIPS


class HostCalls:
    """A graph called with host arrays: they are copied there and back, on the same stream."""

    def __init__(self, gpu: Gpu, graph: DeviceGraph, contract: GraphContract, limit: int) -> None:
        self._gpu, self._graph, self._contract, self._limit = gpu, graph, contract, limit
        self._bound: dict[int, tuple[dict[str, DeviceArray], Enqueue]] = {}

    def __call__(self, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        count = len(next(iter(inputs.values())))
        parts = [
            self._run({name: x[i : i + self._limit] for name, x in inputs.items()})
            for i in range(0, count, self._limit)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        self._gpu.make_current()
        rows = len(next(iter(inputs.values())))
        if rows not in self._bound:
            self._bound[rows] = self._bind(rows)
        arrays, enqueue = self._bound[rows]
        for name, values in inputs.items():
            if values.shape != arrays[name].shape or values.dtype != arrays[name].dtype:
                raise BackendError(
                    f"{name} is {values.dtype} {values.shape}, expected "
                    f"{np.dtype(arrays[name].dtype)} {arrays[name].shape}"
                )
            self._gpu.upload(arrays[name], values)
        enqueue()
        return self._gpu.download(arrays[self._contract.outputs[0].name])

    def _bind(self, rows: int) -> tuple[dict[str, DeviceArray], Enqueue]:
        arrays = arrays_of(self._gpu, self._contract, rows)
        try:
            return arrays, self._graph.bind(arrays)
        except Exception:
            for array in arrays.values():
                self._gpu.free(array)
            raise


@dataclass(frozen=True, kw_only=True)
class DeviceEngines(Engines):
    """Engines that decode on a GPU; `decode_tokens` yields the last step alone."""

    gpu: Gpu
    device_graphs: dict[str, DeviceGraph]
    contracts: dict[str, GraphContract]
    loops: dict[tuple[str, int, bool], DeviceLoop] = field(default_factory=dict)

    def decode_tokens(
        self,
        backbone: str,
        given: Mapping[str, npt.NDArray[Any]],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: TokenOptions,
    ) -> Iterator[tuple[int, Tokens]]:
        self.gpu.make_current()
        parts = []
        for i in range(0, len(tokens), MAX_CLIPS):
            part = slice(i, i + MAX_CLIPS)
            some = {name: x[part] for name, x in given.items()}
            loop = self.loop_for(backbone, len(tokens[part]), options.guidance != 1)
            parts.append(loop.run(some, tokens[part], seeds[part], options))
        yield options.steps - 1, np.concatenate(parts)

    def warm_up(self, backbone: str) -> None:
        self.loop_for(backbone, 1, True)

    def loop_for(self, backbone: str, clips: int, is_guided: bool) -> DeviceLoop:
        """The loop of a shape; the one longest made gives its memory to a new one."""
        key = backbone, clips, is_guided
        if key not in self.loops:
            if len(self.loops) >= MAX_SHAPES:
                self.loops.pop(next(iter(self.loops))).close()
            graph, contract = self.device_graphs[backbone], self.contracts[backbone]
            self._check_memory(contract, clips, is_guided)
            self.loops[key] = DeviceLoop(self.gpu, graph, contract, clips, is_guided)
        return self.loops[key]

    def _check_memory(self, contract: GraphContract, clips: int, is_guided: bool) -> None:
        per_clip = logits_bytes(contract) * (2 if is_guided else 1)
        free, _ = self.gpu.memory_bytes()
        if per_clip * clips > free:
            fits = free // per_clip
            raise BackendError(
                f"{clips} clips at a time need {clips * per_clip / 1e6:.0f} MB for their logits, "
                f"but {free / 1e6:.0f} MB of {self.gpu.name} are free, expected room for all; "
                f"{fits} would fit: generate fewer at a time, or close other programs"
            )


def logits_bytes(contract: GraphContract) -> int:
    """Of one clip and one branch of guidance."""
    return 4 * math.prod(size for size in contract.outputs[0].shape if isinstance(size, int))


def device_engines(
    bundle: Bundle, gpu: Gpu, graphs: dict[str, DeviceGraph], device: str
) -> DeviceEngines:
    """The graphs of a bundle on a GPU, as host calls and for the decoding loop."""
    contracts = bundle.contracts
    calls = {
        name: HostCalls(gpu, graph, contracts[name], max_rows(contracts[name]))
        for name, graph in graphs.items()
    }
    return DeviceEngines(calls, device, gpu=gpu, device_graphs=graphs, contracts=contracts)
