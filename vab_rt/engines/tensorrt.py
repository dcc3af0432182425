"""TensorRT and TensorRT-RTX: ONNX to an engine, and an engine as a graph on a GPU.

TensorRT, for data centres, builds on the machine, for its GPU alone; TensorRT-RTX, for desktops,
without a GPU, for every RTX GPU from Ampere on. Both have the calls used here, from 10.14 and 1.7
on. Networks are strongly typed: what is computed in which precision is decided in the ONNX file and
nowhere else.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.contract import GraphContract
from vab_rt.engines.device_loop import (
    DeviceEngines,
    DeviceGraph,
    Enqueue,
    check_room,
    device_engines,
    gpu_precision,
    max_rows,
)
from vab_rt.engines.engine_cache import EngineKey, cached_engine, forget_engine
from vab_rt.engines.gpu import DeviceArray, Gpu
from vab_rt.errors import BackendError, BundleError, not_installed
from vab_rt.quantisation import in_float32

log = logging.getLogger(__name__)

LEAST_FP8 = (8, 9)
"""Compute capability of the first GPUs that multiply 8-bit floats."""

_LEAST_TENSORRT = (10, 14)  # the first that reads ONNX Attention
_RTX_GPUS = ((8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""Compute capabilities that RTX engines run on; data-centre Hopper and Blackwell are not."""

_RTX_WITH_FP8 = ("SM89", "SM120", "SM121")
_TYPICAL_ROWS = 2  # one clip and its two branches of guidance


@dataclass(frozen=True)
class Library:
    """One of the two libraries: its module, and what differs between them.

    device: as users name it. target: the GPUs its engines run on, as far as they depend on them.
    configure: a builder's configuration for a graph of that precision. open_context: of an engine,
    without memory. has_fp8: whether what it builds for multiplies 8-bit floats.
    """

    device: str
    api: Any
    target: str
    configure: Callable[[Any, str], None]
    open_context: Callable[[Any], Any]
    has_fp8: bool = False

    @property
    def version(self) -> str:
        return f"{self.device} {self.api.__version__}"


def open_tensorrt(bundle: Bundle, device: str, gpu_id: int = 0) -> DeviceEngines:
    """The engines of a bundle on tensorrt or tensorrt-rtx, built where this user has built none."""
    import_api(device)
    gpu = Gpu(gpu_id)
    return open_compiled(bundle, tensorrt(gpu) if device == "tensorrt" else tensorrt_rtx(gpu), gpu)


def tensorrt(gpu: Gpu) -> Library:
    """TensorRT, which builds for this GPU. Raises BackendError where it is missing or too old."""
    api = import_api("tensorrt")
    return Library(
        device="tensorrt",
        api=api,
        target=f"{gpu.name}, {'.'.join(map(str, gpu.capability))}",
        configure=lambda config, precision: None,
        open_context=lambda engine: engine.create_execution_context(
            api.ExecutionContextAllocationStrategy.USER_MANAGED
        ),
        has_fp8=gpu.capability >= LEAST_FP8,
    )


def tensorrt_rtx(gpu: Gpu | None = None) -> Library:
    """TensorRT-RTX, which builds for all its GPUs at once, or for those that have fp8.

    gpu: which of them it is to run on; None where it only builds. Raises BackendError where it is
    missing or does not run on that GPU.
    """
    api = import_api("tensorrt-rtx")
    if gpu is not None and not runs_rtx(gpu.capability):
        known = ", ".join(f"{major}.{minor}" for major, minor in _RTX_GPUS)
        raise BackendError(
            f"{gpu.name} has compute capability {'.'.join(map(str, gpu.capability))}, expected one "
            f"that TensorRT-RTX supports ({known}); use --device tensorrt or --device cuda"
        )

    def configure(config: Any, precision: str) -> None:
        # Without it an engine allocates while it runs, which a CUDA graph cannot hold.
        config.set_flag(api.BuilderFlag.REQUIRE_USER_ALLOCATION)
        if precision == "fp8":
            config.num_compute_capabilities = len(_RTX_WITH_FP8)
            for index, name in enumerate(_RTX_WITH_FP8):
                config.set_compute_capability(getattr(api.ComputeCapability, name), index)

    def open_context(engine: Any) -> Any:
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(
            api.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        # Compiled in the background, the kernels for these shapes would come too late: a captured
        # graph keeps those it was made with.
        eager = api.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
        return engine.create_execution_context(config)

    has_fp8 = gpu is None or gpu.capability >= LEAST_FP8
    return Library("tensorrt-rtx", api, "Ampere and later", configure, open_context, has_fp8)


def runs_rtx(capability: tuple[int, ...]) -> bool:
    """Whether TensorRT-RTX's engines run on a GPU of that compute capability."""
    return capability in _RTX_GPUS


def import_api(device: str) -> Any:
    """The module of tensorrt or tensorrt-rtx. Raises BackendError where it is missing or old."""
    name = device.replace("-", "_")
    extra = {"tensorrt": "vab-rt[trt]", "tensorrt_rtx": "vab-rt[rtx]"}[name]
    try:
        api = import_module(name)
    except ImportError as error:
        raise not_installed(f"device {device} needs {name}", f'"{extra}"', error) from error
    version = tuple(int(part) for part in api.__version__.split(".")[:2])
    if device == "tensorrt" and version < _LEAST_TENSORRT:
        raise BackendError(
            f"tensorrt {api.__version__} is installed, expected "
            f"{'.'.join(map(str, _LEAST_TENSORRT))} or newer; upgrade with: "
            f'pip install --upgrade "{extra}"'
        )
    return api


@dataclass(frozen=True)
class Compiled:
    """An engine of a bundle's graph, or why it has to be built first."""

    key: EngineKey
    engine: bytes
    build_s: float | None
    """None where it was kept from before"""


def compile_bundle(
    bundle: Bundle, library: Library, folder: Path | None = None
) -> Iterator[tuple[str, Compiled]]:
    """The engines of every graph by name, built where the cache has none; one at a time."""
    for name in bundle.needed_graphs:
        precision = gpu_precision(bundle, name, has_fp8=library.has_fp8)
        yield name, compile_graph(bundle, name, precision, library, folder)


def compile_graph(
    bundle: Bundle, name: str, precision: str, library: Library, folder: Path | None = None
) -> Compiled:
    """The engine of one graph. Raises BundleError for a graph that the library cannot build."""
    graph, contract = bundle.read_graph(name, precision), bundle.contracts[name]
    digests = [hashlib.sha256(graph).hexdigest(), *bundle.weights_sha256(name, precision)]
    key = EngineKey(
        graph=name,
        graph_sha256=" ".join(digests),
        library=library.version,
        gpu=library.target,
        precision=precision,
        settings=f"rows 1 to {max_rows(contract)}, float32 is exact",
    )
    seconds: list[float] = []

    def build() -> bytes:
        log.info("building the %s engine of %s (%s), once", library.device, name, precision)
        begin = time.perf_counter()
        weights = bundle.read_weights(name, precision)
        rows = max_rows(contract)
        engine = build_engine(library, name, graph, contract, rows, precision, weights=weights)
        seconds.append(time.perf_counter() - begin)
        log.info("built in %.0f s, %.1f MB", seconds[0], len(engine) / 1e6)
        return engine

    engine = cached_engine(key, build, folder)
    return Compiled(key, engine, seconds[0] if seconds else None)


def build_engine(
    library: Library,
    name: str,
    graph: bytes,
    contract: GraphContract,
    max_rows: int,
    precision: str = "fp32",
    *,
    weights: Mapping[str, npt.NDArray[Any]] | None = None,
) -> bytes:
    """Compile ONNX to an engine for 1 to `max_rows` rows. Raises BundleError when it cannot be.

    weights: what the graph lacks, by name; the engine has them inside.
    """
    api = library.api
    builder = api.Builder(_logger(api))
    flags = 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = api.OnnxParser(network, _logger(api))
    if not _parse(parser, in_float32(graph), weights or {}):
        errors = (parser.get_error(i).desc() for i in range(parser.num_errors))
        reasons = "; ".join(" ".join(error.split()) for error in errors)
        raise _cannot_build(library, name, reasons)
    _let_attention_decompose(api, network)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for tensor in contract.inputs:
        sizes = (
            tuple(rows if isinstance(size, str) else size for size in tensor.shape)
            for rows in (1, min(_TYPICAL_ROWS, max_rows), max_rows)
        )
        profile.set_shape(tensor.name, *sizes)
    config.add_optimization_profile(profile)
    if hasattr(api.BuilderFlag, "TF32"):
        config.clear_flag(api.BuilderFlag.TF32)  # float32 in the graph is meant
    library.configure(config, precision)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _cannot_build(library, name, "see the lines above")
    return bytes(engine)


def _parse(parser: Any, graph: bytes, weights: Mapping[str, npt.NDArray[Any]]) -> bool:
    """weights are to live until the engine is built."""
    if not weights:
        return bool(parser.parse(graph))
    return (
        parser.load_model_proto(graph)
        and all(parser.load_initializer(n, w.ctypes.data, w.nbytes) for n, w in weights.items())
        and bool(parser.parse_model_proto())
    )


def _let_attention_decompose(api: Any, network: Any) -> None:
    """Where there is no kernel for an attention as a whole, such as in float32, from its parts."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == api.LayerType.ATTENTION_INPUT:
            layer.__class__ = api.IAttentionInputLayer  # the bindings return the base class
            layer.attention.decomposable = True


def open_compiled(bundle: Bundle, library: Library, gpu: Gpu) -> DeviceEngines:
    """Engines from the cache or built now, on a GPU."""
    contracts = bundle.contracts
    precisions = {
        name: gpu_precision(bundle, name, has_fp8=library.has_fp8) for name in bundle.needed_graphs
    }
    check_room(gpu, bundle, precisions)
    runtime = library.api.Runtime(_logger(library.api))
    graphs: dict[str, DeviceGraph] = {}
    for name, precision in precisions.items():
        engine = _deserialise(runtime, bundle, name, precision, library)
        if engine is None:
            raise BackendError(
                f"{library.version} refuses the engine of {name} that it has built for {gpu.name}, "
                "expected to run it; use --device cuda"
            )
        check_tensors(library, engine, name, contracts[name])
        graphs[name] = CompiledGraph(library, engine, name, contracts[name], gpu)
    return device_engines(bundle, gpu, graphs, library.device, precisions)


def _deserialise(
    runtime: Any, bundle: Bundle, name: str, precision: str, library: Library
) -> Any | None:
    """The engine, built once more where the library refuses the one that was kept."""
    for _ in range(2):
        compiled = compile_graph(bundle, name, precision, library)
        engine = runtime.deserialize_cuda_engine(compiled.engine)
        if engine is not None:
            return engine
        forget_engine(compiled.key)
        if compiled.build_s is not None:
            return None
        log.warning("%s refuses the engine kept for %s: it is built again", library.version, name)
    return None


def check_tensors(library: Library, engine: Any, name: str, contract: GraphContract) -> None:
    """Raises BundleError unless an engine has the tensors of the contract."""
    found = {engine.get_tensor_name(i) for i in range(engine.num_io_tensors)}
    expected = {tensor.name for tensor in (*contract.inputs, *contract.outputs)}
    if found != expected:
        raise BundleError(
            f"the {library.device} engine of {name} has the tensors {', '.join(sorted(found))}, "
            f"expected {', '.join(sorted(expected))}; export the model again"
        )


class CompiledGraph:
    """One engine on a GPU. Each `bind` makes a context with memory of its own, as a captured
    graph needs; `can_be_captured` is what the context made last says of itself."""

    can_be_captured = True

    def __init__(
        self, library: Library, engine: Any, name: str, contract: GraphContract, gpu: Gpu
    ) -> None:
        self._library, self._engine, self.name = library, engine, name
        self._contract, self._gpu = contract, gpu

    def bind(self, tensors: dict[str, DeviceArray]) -> Enqueue:
        context = self._library.open_context(self._engine)
        if context is None:
            raise self._failed("has no room for a context")
        for tensor in self._contract.inputs:
            if not context.set_input_shape(tensor.name, tensors[tensor.name].shape):
                raise self._failed(f"refuses {tensor.name} of shape {tensors[tensor.name].shape}")
        for name, array in tensors.items():
            if not context.set_tensor_address(name, array.address):
                raise self._failed(f"refuses the memory of {name}")
        memory = self._gpu.array(
            "uint8", (max(1, int(context.update_device_memory_size_for_shapes())),)
        )
        context.set_device_memory(memory.address, memory.size_bytes)
        if hasattr(context, "is_stream_capturable"):  # of TensorRT-RTX alone
            self.can_be_captured = bool(context.is_stream_capturable(self._gpu.handle))
        return partial(self._run, context, memory)

    def _run(self, context: Any, memory: DeviceArray) -> None:
        """memory: what the context works in; it lives as long as the run that `bind` gave out."""
        if not context.execute_async_v3(self._gpu.handle):
            raise self._failed(f"does not run in {memory.size_bytes / 1e6:.0f} MB")

    def _failed(self, what: str) -> BackendError:
        return BackendError(
            f"graph {self.name} {what} on {self._gpu.name} with {self._library.version} "
            f"({self._gpu.room()}), expected it to run; close other programs that use the GPU, "
            "or use --device cuda"
        )


def _cannot_build(library: Library, name: str, reasons: str) -> BundleError:
    return BundleError(
        f"graph {name} cannot be built by {library.version} ({reasons}), expected an ONNX graph "
        "that it supports; use --device cuda"
    )


@cache
def _logger(api: Any) -> Any:
    """The only one of the process: the libraries keep the first that they are given, and its
    address, for what is built later."""
    return api.Logger(api.Logger.ERROR)
