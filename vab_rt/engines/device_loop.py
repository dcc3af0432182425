"""A bundle's graphs on a GPU, and decoding there: every step is enqueued, and nothing comes back
before the last.

Tokens, logits, the parameter block and the step counter lie in device memory. Where the backbone
can be captured, one step is one CUDA graph, replayed for each step; where it replays a graph of
its own, the sampling follows it on the same stream.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.contract import GraphContract
from vab_rt.decoding import remask_count
from vab_rt.engines import Engines
from vab_rt.engines.gpu import DeviceArray, Gpu, in_one_line
from vab_rt.engines.sampling_kernels import CudaSampler
from vab_rt.errors import BackendError, BundleError
from vab_rt.options import MAX_STEPS, TokenOptions
from vab_rt.sampling_arguments import Tokens

log = logging.getLogger(__name__)

MAX_CLIPS = 16
"""That a compiled engine takes at a time; the product decodes one, `bench gpu` more."""

_BEST_FIRST = ("fp16", "bf16", "fp32")

Enqueue = Callable[[], None]
"""Puts one run of a graph on the GPU's stream, and returns at once."""


class DeviceGraph(Protocol):
    """One graph on a GPU, whatever library runs it."""

    can_be_captured: bool

    def bind(self, tensors: dict[str, DeviceArray]) -> Enqueue:
        """A run that reads and writes these arrays, every input and output by name.

        The arrays fix the shapes; they must live as long as the run is used. What else it takes
        goes with it.
        """
        ...


class DeviceLoop:
    """The loop for one shape: B clips, in one branch or with both of guidance.

    launching_s: what putting all steps of the last request on the stream cost the host.
    is_captured: whether a step is one CUDA graph here, whatever the backbone does in its own.
    """

    launching_s = 0.0
    is_captured = False

    def __init__(
        self, gpu: Gpu, backbone: DeviceGraph, contract: GraphContract, clips: int, branches: int
    ) -> None:
        rows = clips * branches
        self._gpu, self.clips = gpu, clips
        self._arrays = arrays_of(gpu, contract, rows)
        _, k, t, v = self._arrays["logits"].shape
        self._enqueue_backbone = backbone.bind(self._arrays)
        self._sampler = CudaSampler(gpu, clips, k * t, v, max_steps=MAX_STEPS)
        self._branches: tuple[float, ...] = ()
        self.use((1.0, 0.0)[:branches])
        self._launch: Enqueue = self._step
        self._warm_up()
        if backbone.can_be_captured:
            self._launch = self._capture() or self._step
            self.is_captured = self._launch != self._step

    def use(self, branches: tuple[float, ...]) -> None:
        """What `conditional` is in each of them from here on."""
        if branches != self._branches:
            conditional = np.repeat(np.array(branches, np.float32), self.clips)
            self._gpu.upload(self._arrays["conditional"], conditional)
            self._branches = branches

    def run(
        self,
        given: Mapping[str, npt.NDArray[Any]],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: TokenOptions,
    ) -> Tokens:
        """Finished tokens [B, K, T]: what goes in is uploaded first, what comes out is last.

        given: the backbone's inputs beside tokens and branch, [B, ...].
        """
        branches = len(self._branches)
        for name, values in given.items():
            self._gpu.upload(self._arrays[name], np.concatenate([values] * branches))
        self._gpu.upload(self._arrays["tokens"].part(0, self.clips), tokens)
        mask_id = self._arrays["logits"].shape[3]
        mask_temperatures, num_remask = schedule(options, (tokens == mask_id).sum(axis=(1, 2)))
        self._sampler.begin(
            seeds,
            guidance=options.guidance if branches > 1 else 1.0,
            temperature=options.temperature,
            top_k=options.top_k,
            mask_temperatures=mask_temperatures,
            num_remask=num_remask,
        )
        begin_s = time.perf_counter()
        for _ in range(options.steps):
            self._launch()
        self.launching_s = time.perf_counter() - begin_s
        result: Tokens = self._gpu.download(self._arrays["tokens"].part(0, self.clips))
        self._sampler.check()
        return result

    def _step(self, stream: Any = None) -> None:
        clips, (rows, k, t, v) = self.clips, self._arrays["logits"].shape
        tokens = self._arrays["tokens"].part(0, clips)
        logits = self._arrays["logits"].reshaped(rows, k * t, v)
        if rows > clips:
            self._gpu.copy(self._arrays["tokens"].part(clips, rows), tokens)
        self._enqueue_backbone()
        self._sampler.launch(
            tokens.reshaped(clips, k * t),
            logits.part(0, clips),
            logits.part(clips, rows) if rows > clips else None,
            stream,
        )

    def _warm_up(self) -> None:
        """One step in which nothing is masked: libraries choose and allocate at the first run."""
        for name, array in self._arrays.items():
            if name not in ("conditional", "logits"):
                self._gpu.upload(array, np.zeros(array.shape, array.dtype))
        self._sampler.begin(
            np.zeros(self.clips, np.uint64),
            guidance=1.0,
            temperature=1.0,
            top_k=1,
            mask_temperatures=np.zeros(1, np.float32),
            num_remask=np.zeros((1, self.clips), np.int32),
        )
        self._step()
        self._gpu.wait()

    def _capture(self) -> Enqueue | None:
        """The step as one graph, or None, with a warning, where there can be none.

        What it holds the addresses of lives as long as this object.
        """
        stream = self._gpu.stream
        builder = stream.create_graph_builder()
        try:
            builder.begin_building(mode="relaxed")
            self._step(builder)
            graph = builder.end_building().complete()
        except Exception as error:  # noqa: BLE001 - of cuda-core, or of the backbone's library
            log.warning(
                "the decoding step of %d clips is no CUDA graph, which costs time (%s)",
                self.clips,
                in_one_line(error),
            )
            return None
        finally:
            with contextlib.suppress(Exception):  # of a capture that was broken off
                builder.close()  # nothing else runs on a stream that is still being captured

        def replay() -> None:
            try:
                graph.launch(stream)
            except Exception as error:  # cuda-core's errors share no other base
                raise BackendError(
                    f"the decoding step of {self.clips} clips fails on {self._gpu.name} "
                    f"({in_one_line(error)}), expected it to run; start the program again"
                ) from error

        return replay


def schedule(
    options: TokenOptions, num_masked: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Mask temperatures [S] and positions masked again [S, B], as `decode_masked` has them."""
    steps = options.steps
    ratios = (np.arange(steps) + 1) / steps
    counts = [[remask_count(step, steps, int(n)) for n in num_masked] for step in range(steps)]
    temperatures = (options.mask_temperature * (1 - ratios)).astype(np.float32)
    return temperatures, np.array(counts, np.int32)


class HostCalls:
    """A graph called with host arrays: they are copied there and back, on the same stream."""

    def __init__(self, gpu: Gpu, graph: DeviceGraph, contract: GraphContract) -> None:
        self._gpu, self._graph, self._contract = gpu, graph, contract
        self._limit = max_rows(contract)
        self._bound: dict[int, tuple[dict[str, DeviceArray], Enqueue]] = {}

    def __call__(self, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        count = len(next(iter(inputs.values())))
        with self._gpu.lock:
            parts = [
                self._run({name: x[i : i + self._limit] for name, x in inputs.items()})
                for i in range(0, count, self._limit)
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        self._gpu.make_current()
        rows = len(next(iter(inputs.values())))
        if rows not in self._bound:
            arrays = arrays_of(self._gpu, self._contract, rows)
            self._bound[rows] = arrays, self._graph.bind(arrays)
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


@dataclass(frozen=True, kw_only=True)
class DeviceEngines(Engines):
    """Engines that decode on a GPU; `decode_tokens` yields the last step alone."""

    gpu: Gpu
    device_graphs: dict[str, DeviceGraph]
    contracts: dict[str, GraphContract]
    loops: dict[tuple[str, int, int], DeviceLoop] = field(default_factory=dict)

    def decode_tokens(
        self,
        backbone: str,
        given: Mapping[str, npt.NDArray[Any]],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: TokenOptions,
        branches: tuple[float, ...],
    ) -> Iterator[tuple[int, Tokens]]:
        with self.gpu.lock:
            self.gpu.make_current()
            loop = self.loop_for(backbone, len(tokens), branches)
            finished = loop.run(given, tokens, seeds, options)
        yield options.steps - 1, finished

    def warm_up(self, backbone: str, branches: tuple[float, ...]) -> None:
        self.loop_for(backbone, 1, branches)

    def loop_for(self, backbone: str, clips: int, branches: tuple[float, ...]) -> DeviceLoop:
        """The loop of a shape, made once, for whatever is in its branches."""
        key = backbone, clips, len(branches)
        if key not in self.loops:
            graph, contract = self.device_graphs[backbone], self.contracts[backbone]
            self.loops[key] = DeviceLoop(self.gpu, graph, contract, clips, len(branches))
        self.loops[key].use(branches)
        return self.loops[key]


def device_engines(
    bundle: Bundle,
    gpu: Gpu,
    graphs: dict[str, DeviceGraph],
    device: str,
    precisions: Mapping[str, str],
) -> DeviceEngines:
    """The graphs of a bundle on a GPU, in these precisions, as host calls and for the decoding
    loop."""
    contracts = bundle.contracts
    calls = {name: HostCalls(gpu, graph, contracts[name]) for name, graph in graphs.items()}
    name = f"{device}:{gpu.device_id}" if gpu.device_id else device
    precision = precisions.get("backbone") or next(iter(precisions.values()))
    return DeviceEngines(
        calls, name, precision=precision, gpu=gpu, device_graphs=graphs, contracts=contracts
    )


def gpu_precision(bundle: Bundle, name: str, *, has_fp8: bool = False) -> str:
    """What a GPU computes this graph of a bundle in: fp8 where it can and the graph is there, or
    else the first that the bundle has of fp16, bf16 and fp32.

    Raises BundleError where there is none, as of int8 graphs, which are for CPUs.
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
    """The most rows of one call of a graph; larger calls are cut. Guidance runs both branches at
    once."""
    is_guided = any(tensor.name == "conditional" for tensor in contract.inputs)
    return 2 * MAX_CLIPS if is_guided else MAX_CLIPS


def arrays_of(gpu: Gpu, contract: GraphContract, rows: int) -> dict[str, DeviceArray]:
    """Memory for the inputs and outputs of a graph, by name."""
    return {
        tensor.name: gpu.array(
            tensor.dtype, tuple(rows if isinstance(size, str) else size for size in tensor.shape)
        )
        for tensor in (*contract.inputs, *contract.outputs)
    }
