"""onnxruntime's sessions: on the CPU, and on other devices through its execution providers."""

import ctypes
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.contract import BACKBONES, GraphContract, Tensor
from vab_rt.engines import Engine, Engines
from vab_rt.engines.precision import reader_in
from vab_rt.engines.providers import CPU, ON_CPU, Placement, Target, find_target, tell_placement
from vab_rt.errors import BackendError, BundleError, first_line, is_out_of_memory, not_installed
from vab_rt.sampling import fastest_sampler
from vab_rt.telemetry import silence
from vab_rt.threads import Helpers, is_memory_limited, num_physical_cores

try:
    import onnxruntime as ort  # type: ignore[import-untyped]  # it ships no types
    from onnxruntime.capi import onnxruntime_pybind11_state as own  # type: ignore[import-untyped]
except ImportError as error:
    if is_out_of_memory(error):
        raise
    if isinstance(error.__cause__, KeyboardInterrupt | SystemExit):  # pybind11 has wrapped it
        raise error.__cause__ from None
    raise not_installed("device cpu needs onnxruntime", "onnxruntime", error) from error

_FAULTS: tuple[type[Exception], ...] = (
    *(MemoryError, RuntimeError, ValueError),
    *(x for x in vars(own).values() if isinstance(x, type) and issubclass(x, Exception)),
)
"""What a run may raise; all else comes of a host's handler of signals, such as a limit of time."""
_WARNINGS, _NOTHING = 2, 4  # what fails raises, and is reported in one line


def open_sessions(
    bundle: Bundle,
    device: str = "cpu",
    part: str = "",
    threads: int | None = None,
    *,
    precision: str | None = None,
    wait: bool = True,
) -> Engines:
    """Verify and load every graph on the CPU, or on a device of `providers` and a part of it.

    part: the number of a GPU, or OpenVINO's name of what it runs on. precision, wait: see
    `open_engines`. What a provider leaves to the CPU is told. Raises BackendError where the device
    is not there, or takes nothing at all.
    """
    silence(ort)
    threads = threads or num_physical_cores()
    target = ON_CPU if device == "cpu" else find_target(device, part, threads)
    names, contracts = bundle.needed_graphs, bundle.contracts
    # Not all providers can be asked from several threads.
    helpers = Helpers(threads if device == "cpu" else 1)
    precision = precision or bundle.manifest.precision
    read = reader_in(bundle, precision)

    def open_one(name: str) -> SessionEngine:
        return SessionEngine(
            name,
            read(name),
            contracts[name],
            threads,
            str(bundle.folder),
            weights=bundle.read_weights(name),
            target=target,
        )

    def as_engine(session: SessionEngine) -> Engine:
        is_of_rows = session.name in BACKBONES or session.is_of_rows
        return SideBySide(session, helpers) if is_of_rows else session

    is_idle = device == "cpu" and threads > 1 and not is_memory_limited()
    opened = partial(
        Engines,
        device=target.device,
        sample_step=fastest_sampler(threads),
        meanwhile=helpers if is_idle else None,
        precision=precision,
    )
    if is_idle and not wait:
        opening = Opening(lambda name: as_engine(open_one(name)), names, threads)
        return opened(opening.graphs, loaded=opening.seconds)
    sessions = dict(zip(names, helpers.map(open_one, names), strict=True))
    _give_back_memory()
    if device != "cpu":
        tell_placement(target, {name: session.placement() for name, session in sessions.items()})
    return opened({name: as_engine(session) for name, session in sessions.items()})


def open_graph(
    bundle: Bundle, name: str, threads: int | None = None, precision: str | None = None
) -> "SessionEngine":
    """One alone, on the CPU, such as codec_encoder, which generating does without."""
    silence(ort)
    threads = threads or num_physical_cores()
    graph = reader_in(bundle, precision or bundle.manifest.precision)(name)
    contract = bundle.contracts[name]
    return SessionEngine(name, graph, contract, threads, str(bundle.folder))


def _give_back_memory() -> None:
    """Gives back the memory of the files that were read and the weights that were converted: glibc
    keeps 125 MB of the default model's for the threads that loaded it."""
    with suppress(OSError, AttributeError, TypeError):  # another C library, and its own ways
        ctypes.CDLL(None).malloc_trim(0)


class Opening:
    """Graphs that are opened in threads of their own, in the order in which they run: the first
    call of each waits for it, and raises what is wrong with it."""

    def __init__(self, open_one: Callable[[str], Engine], names: list[str], threads: int) -> None:
        self._begin_s, self._ends_s = time.perf_counter(), [0.0]
        self._helpers = Helpers(threads)
        self._begun = {name: self._helpers.begin(partial(open_one, name)) for name in names}
        self.graphs = {name: partial(self._call, name) for name in names}
        self._helpers.begin(self._end)

    def _call(self, name: str, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return self._begun[name].result()(**inputs)

    def _end(self) -> None:
        for begun in self._begun.values():
            begun.wait()
        self._ends_s.append(time.perf_counter())
        _give_back_memory()
        del self._helpers  # their threads end

    def seconds(self) -> float:
        """That it took; 0 before it has ended."""
        return max(0.0, self._ends_s[-1] - self._begin_s)


class SessionEngine:
    """One graph in an onnxruntime session; called with its named inputs, returns its output.

    weights: what the graph lacks, by name. is_of_rows: whether it takes one row at a time, as other
    devices want shapes that are known.
    """

    def __init__(
        self,
        name: str,
        graph: bytes,
        contract: GraphContract,
        threads: int,
        origin: str,
        *,
        weights: Mapping[str, npt.NDArray[Any]] | None = None,
        target: Target = ON_CPU,
    ) -> None:
        self.name, self._weights = name, weights or {}  # a session may go on reading them
        self._target, is_cpu = target, target is ON_CPU
        self.is_of_rows = not is_cpu and all(t.shape[0] == "B" for t in contract.inputs)
        options = _session_options(threads)
        if self.is_of_rows:
            options.add_free_dimension_override_by_name("B", 1)
            contract = _of_one_row(contract)
        try:
            add_weights(ort, options, self._weights)
            self._session = _open_session(graph, options, target)
        except Exception as error:  # onnxruntime's own exceptions share no other base
            raise_out_of_memory(error, f"graph {name} was loaded")
            raise _not_loaded(f"graph {name} of {origin}", error, target) from error
        check_session(self._session, name, contract, origin)

    def placement(self) -> Placement:
        return Counter(
            (part.ep_name, node.op_type)
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        )

    def __call__(self, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        try:
            output: npt.NDArray[Any] = self._session.run(None, inputs)[0]
        except _FAULTS as error:
            raise_out_of_memory(error, f"graph {self.name} ran")
            shapes = ", ".join(f"{key} {x.dtype} {x.shape}" for key, x in inputs.items())
            raise BackendError(
                f"graph {self.name} failed on {self._target.device} with {shapes} "
                f"({first_line(error)}), expected it to run; export the model again"
            ) from error
        return output


class SideBySide:
    """A graph whose rows are runs of their own, as many at a time as there are threads.

    Two runs of one row wait for each other less than two threads inside one run of two do: on two
    cores a guided step takes three quarters of the time. No row can depend on another.
    """

    def __init__(self, engine: Engine, threads: Helpers) -> None:
        self._engine, self._threads = engine, threads

    def __call__(self, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        num_rows = len(next(iter(inputs.values())))
        if num_rows == 1:
            return self._engine(**inputs)
        rows = ({name: x[i : i + 1] for name, x in inputs.items()} for i in range(num_rows))
        return np.concatenate(self._threads.map(lambda row: self._engine(**row), rows))


def _not_loaded(graph: str, error: Exception, target: Target) -> BundleError | BackendError:
    told = f"{graph} cannot be loaded by onnxruntime {ort.__version__}"
    if target is ON_CPU:
        return BundleError(
            f"{told} ({first_line(error)}), expected an ONNX graph; export the model again"
        )
    return BackendError(
        f"{told} on {target.device} ({first_line(error)}), expected a device that takes it; use "
        "--device cpu"
    )


def raise_out_of_memory(error: Exception, when: str) -> None:
    """Raises BackendError when that is what the error means."""
    if is_out_of_memory(error):
        raise BackendError(
            f"memory ran out while {when} on cpu, expected more of it to be free (about 400 MB in "
            "all for the default model); close other programs, or raise the limit that ulimit -v "
            "shows"
        ) from error


def _open_session(graph: bytes, options: ort.SessionOptions, target: Target) -> Any:
    """Without onnxruntime's own fallback, which would print to stdout."""
    if target is ON_CPU:
        return ort.InferenceSession(graph, options, providers=[CPU], enable_fallback=0)
    from vab_rt.attention import spelled_out

    graph = spelled_out(graph)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    ort.set_default_logger_severity(_NOTHING)
    try:
        if target.plugged is not None:
            options.add_provider_for_devices([target.plugged], dict(target.settings))
            return ort.InferenceSession(graph, options, enable_fallback=0)
        providers = [(target.provider, dict(target.settings))]
        return ort.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    finally:
        ort.set_default_logger_severity(_WARNINGS)


def _of_one_row(contract: GraphContract) -> GraphContract:
    def of_one(tensor: Tensor) -> Tensor:
        return msgspec.structs.replace(tensor, shape=(1, *tensor.shape[1:]))

    return GraphContract(tuple(map(of_one, contract.inputs)), tuple(map(of_one, contract.outputs)))


def add_weights(ort: Any, options: Any, weights: Mapping[str, npt.NDArray[Any]]) -> None:
    """Give a session what its graph lacks. The arrays must live as long as the session."""
    if weights:
        values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)


def has_cuda_provider() -> bool:
    """Whether the onnxruntime that is installed is the one for GPUs."""
    return "CUDAExecutionProvider" in ort.get_available_providers()


def check_session(
    session: ort.InferenceSession, name: str, contract: GraphContract, origin: str
) -> None:
    """Raises BundleError unless the session has the inputs and outputs of the contract."""
    for kind, values, tensors in (
        ("inputs", session.get_inputs(), contract.inputs),
        ("outputs", session.get_outputs(), contract.outputs),
    ):
        found = [_describe(value.name, value.type, value.shape) for value in values]
        expected = [_describe(t.name, _ort_type(t), t.shape) for t in tensors]
        if found != expected:
            raise BundleError(
                f"graph {name} of {origin} has the {kind} {', '.join(found)}; expected "
                f"{', '.join(expected)}; export the model again"
            )


def _describe(name: str, kind: str, shape: tuple[int | str, ...] | list[int | str | None]) -> str:
    """Free dimensions are all alike, whatever their letter."""
    sizes = ", ".join(str(size) if isinstance(size, int) else "?" for size in shape)
    return f"{name} {kind} [{sizes}]"


def _ort_type(tensor: Tensor) -> str:
    return f"tensor({'float' if tensor.dtype == 'float32' else tensor.dtype})"


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # 70 MB more, and no faster
    options.log_severity_level = _NOTHING
    # Threads that spin while they wait double the CPU time, and starve the host's other work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
