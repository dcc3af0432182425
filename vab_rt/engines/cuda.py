"""onnxruntime on an NVIDIA GPU: device buffers, our stream, and its own CUDA graph.

onnxruntime does not let a caller capture its run, so it captures and replays by itself, and the
sampling kernels follow on the same stream.
"""

import contextlib
import ctypes
import io
import itertools
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
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
)
from vab_rt.engines.gpu import INSTALL_CUDA, DeviceArray, Gpu
from vab_rt.engines.sessions import add_weights, check_session, has_cuda_provider
from vab_rt.errors import BackendError, BundleError, first_line
from vab_rt.telemetry import silence

PROVIDER = "CUDAExecutionProvider"
_WARNINGS, _ERRORS_ONLY, _NOTHING = 2, 3, 4
_NO_GRAPH = -1
_SIZES = frozenset(
    ("Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Cast", "Add", "Mul")
)
"""Arithmetic on shapes, which onnxruntime keeps on the CPU on purpose, and which a CUDA graph
does without: its shapes are fixed. It refuses to capture what would be copied."""


def open_cuda(bundle: Bundle, gpu_id: int = 0) -> DeviceEngines:
    """Verify and load every graph; one that runs step after step replays a graph of its own."""
    check_provider()
    # Not fp8, which onnxruntime widens before it multiplies.
    precisions = {name: gpu_precision(bundle, name) for name in bundle.needed_graphs}
    gpu = Gpu(gpu_id)
    check_room(gpu, bundle, precisions)
    contracts = bundle.contracts
    graphs: dict[str, DeviceGraph] = {
        name: OrtGraph(
            name,
            bundle.read_graph(name, precision),
            contracts[name],
            gpu,
            origin=str(bundle.folder),
            has_own_graph=name in bundle.manifest.stepped,
            weights=bundle.read_weights(name, precision),
        )
        for name, precision in precisions.items()
    }
    return device_engines(bundle, gpu, graphs, "cuda", precisions)


def check_provider() -> None:
    """Raises BackendError where the onnxruntime that is installed is the one without CUDA."""
    if not has_cuda_provider():
        raise BackendError(
            "device cuda needs onnxruntime with the CUDA provider, and the one installed has none; "
            f"install it with: {INSTALL_CUDA}"
        )


class OrtGraph:
    """One graph in an onnxruntime session on the GPU."""

    can_be_captured = False

    def __init__(
        self,
        name: str,
        graph: bytes,
        contract: GraphContract,
        gpu: Gpu,
        *,
        origin: str,
        has_own_graph: bool,
        weights: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self.name, self._contract, self._gpu = name, contract, gpu
        self._weights = weights or {}  # a session may go on reading them
        self._graph_ids = itertools.count() if has_own_graph else itertools.repeat(_NO_GRAPH)
        try:
            self._session = _open_session(graph, gpu, has_own_graph, self._weights)
        except Exception as error:  # onnxruntime's own exceptions share no other base
            raise BundleError(
                f"graph {name} of {origin} cannot be loaded by onnxruntime on {gpu.name} "
                f"({first_line(error)}; {gpu.room()}), expected a graph and libraries that run "
                "there; see vab-rt doctor, or export the model again"
            ) from error
        check_placement(self._session, name)
        check_session(self._session, name, contract, origin)

    def bind(self, tensors: dict[str, DeviceArray]) -> Enqueue:
        """Runs with these arrays; the first one captures, and later ones replay."""
        import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]  # it ships no types

        binding = self._session.io_binding()
        for tensor in self._contract.inputs:
            binding.bind_input(tensor.name, *self._place(tensors[tensor.name]))
        for tensor in self._contract.outputs:
            binding.bind_output(tensor.name, *self._place(tensors[tensor.name]))
        options, graph_id = ort.RunOptions(), next(self._graph_ids)
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")

        def enqueue() -> None:
            try:
                self._session.run_with_iobinding(binding, options)
            except Exception as error:  # onnxruntime's own exceptions share no other base
                raise BackendError(
                    f"graph {self.name} failed on {self._gpu.name} ({first_line(error)}; "
                    f"{self._gpu.room()}), expected it to run; close other programs that use the "
                    "GPU, or use the device cpu"
                ) from error

        release = getattr(self._session, "release_captured_graph", None)  # of newer versions
        if release is not None and graph_id != _NO_GRAPH:
            weakref.finalize(enqueue, release, graph_id).atexit = False
        return enqueue

    def _place(self, array: DeviceArray) -> tuple[Any, ...]:
        kind = np.dtype(array.dtype).type
        return "cuda", self._gpu.device_id, kind, array.shape, array.address


def check_placement(session: Any, name: str) -> None:
    """Raises BackendError for a node that runs on the CPU: it would copy back and forth."""
    if PROVIDER not in session.get_providers():
        reason = why_not_loaded() or "the GPU or its driver is too old"
        raise BackendError(
            f"onnxruntime could not start CUDA for graph {name} ({reason}) and would use the "
            f"CPU, expected the GPU; install what is missing with: {INSTALL_CUDA}"
        )
    elsewhere = {
        node.op_type
        for subgraph in session.get_provider_graph_assignment_info()
        if subgraph.ep_name != PROVIDER
        for node in subgraph.get_nodes()
    }
    if elsewhere := elsewhere - _SIZES:
        raise BackendError(
            f"graph {name} has {', '.join(sorted(elsewhere))} on the CPU, expected every "
            "node on the GPU; upgrade with: pip install --upgrade --no-deps onnxruntime-gpu"
        )


def why_not_loaded() -> str | None:
    """What the loader of libraries says of onnxruntime's CUDA provider; None where it loads."""
    import onnxruntime as ort

    _preload(ort)
    folder = Path(ort.__file__).parent / "capi"
    try:
        for name in ("shared", "cuda"):
            for library in folder.glob(f"*onnxruntime_providers_{name}.*"):
                ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        return first_line(error)
    return None


def _open_session(
    graph: bytes, gpu: Gpu, has_own_graph: bool, weights: Mapping[str, npt.NDArray[Any]]
) -> Any:
    import onnxruntime as ort

    silence(ort)
    _preload(ort)
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    add_weights(ort, options, weights)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    settings = {
        "device_id": str(gpu.device_id),
        "user_compute_stream": str(gpu.handle),
        "enable_cuda_graph": "1" if has_own_graph else "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",  # float32 in the graph is meant: the codec adds up phases
    }
    providers = [(PROVIDER, settings)]
    # What fails is an error here, in one line; onnxruntime would print a page and go on without.
    ort.set_default_logger_severity(_NOTHING)
    try:
        return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    finally:
        ort.set_default_logger_severity(_WARNINGS)


def _preload(ort: Any) -> None:
    """The libraries of CUDA that pip installs; it prints those that it does not find."""
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
