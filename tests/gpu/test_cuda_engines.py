"""onnxruntime on a GPU: what is asked of it, and what is refused; with a session that records."""

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from tiny_bundle import tiny_config

from vab_rt.bundle import open_bundle
from vab_rt.contract import contract_of
from vab_rt.engines import cuda, open_engines
from vab_rt.engines.cuda import OrtGraph, check_placement
from vab_rt.engines.gpu import DeviceArray
from vab_rt.engines.sessions import SessionEngine
from vab_rt.errors import BackendError, BundleError

GPU = SimpleNamespace(name="GPU", device_id=1, handle=0x5000, room=lambda: "5 of 80 MB are free")
CONTRACT = contract_of(tiny_config())["backbone"]
CUDA = "CUDAExecutionProvider"


class RecordingSession:
    """A session of the tiny backbone, and what is bound and run."""

    def __init__(self, placed=("CUDAExecutionProvider",), fails=False):
        self.placed, self.fails, self.calls = placed, fails, []

    def get_providers(self):
        return [name for name in self.placed if name.endswith("Provider")]

    def get_provider_graph_assignment_info(self):
        for place in self.placed:
            provider, _, op = place.partition(" ")
            node = SimpleNamespace(op_type=op or "MatMul")
            yield SimpleNamespace(ep_name=provider, get_nodes=lambda node=node: [node])

    def get_inputs(self):
        return [self._value(t) for t in CONTRACT.inputs]

    def get_outputs(self):
        return [self._value(t) for t in CONTRACT.outputs]

    def _value(self, tensor):
        kind = {"float32": "float"}.get(tensor.dtype, tensor.dtype)
        return SimpleNamespace(name=tensor.name, type=f"tensor({kind})", shape=list(tensor.shape))

    def io_binding(self):
        return self

    def bind_input(self, *place):
        self.calls.append(("input", *place))

    def bind_output(self, *place):
        self.calls.append(("output", *place))

    def release_captured_graph(self, graph_id):
        self.calls.append(("release", graph_id))

    def run_with_iobinding(self, binding, options):
        if self.fails:
            raise RuntimeError("CUDA error 2: out of memory\nat line 7")
        names = ("gpu_graph_id", "disable_synchronize_execution_providers")
        self.calls.append(("run", *map(options.get_run_config_entry, names)))


def open_graph(monkeypatch, session, has_own_graph=True):
    monkeypatch.setattr(cuda, "_open_session", lambda *arguments: session)
    return OrtGraph("backbone", b"", CONTRACT, GPU, origin="here", has_own_graph=has_own_graph)


def arrays():
    shapes = {
        "tokens": (np.int32, (2, 2, 100)),
        "features": (np.float32, (2, 4, 6)),
        "conditional": (np.float32, (2,)),
        "logits": (np.float32, (2, 2, 100, 16)),
    }
    return {n: DeviceArray(256 * i, *s) for i, (n, s) in enumerate(shapes.items(), start=1)}


def test_raw_addresses_are_bound_and_each_shape_has_its_graph(monkeypatch):
    session = RecordingSession()
    graph = open_graph(monkeypatch, session)
    assert not graph.can_be_captured
    first, second = graph.bind(arrays()), graph.bind(arrays())
    assert session.calls[:4] == [
        ("input", "tokens", "cuda", 1, np.int32, (2, 2, 100), 256),
        ("input", "features", "cuda", 1, np.float32, (2, 4, 6), 512),
        ("input", "conditional", "cuda", 1, np.float32, (2,), 768),
        ("output", "logits", "cuda", 1, np.float32, (2, 2, 100, 16), 1024),
    ]
    for enqueue in (first, first, second):
        enqueue()
    assert session.calls[8:] == [("run", "0", "1"), ("run", "0", "1"), ("run", "1", "1")]
    del session.calls[:], enqueue, second
    assert session.calls == [("release", 1)]


def test_a_graph_without_a_cuda_graph_never_captures(monkeypatch):
    session = RecordingSession()
    open_graph(monkeypatch, session, has_own_graph=False).bind(arrays())()
    assert session.calls[-1] == ("run", "-1", "1")


def test_a_run_that_fails_is_one_line(monkeypatch):
    graph = open_graph(monkeypatch, RecordingSession(fails=True))
    with pytest.raises(
        BackendError,
        match="backbone failed on GPU .*out of memory; 5 of 80 MB .*other programs.*device cpu",
    ) as e:
        graph.bind(arrays())()
    assert "\n" not in str(e.value)


def test_a_graph_that_cannot_be_loaded_is_one_line(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no such op\nmore")

    monkeypatch.setattr(cuda, "_open_session", fail)
    with pytest.raises(BundleError, match="backbone of here cannot be loaded .*no such op.*export"):
        OrtGraph("backbone", b"", CONTRACT, GPU, origin="here", has_own_graph=True)


@pytest.mark.parametrize("has_own_graph", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_session_is_asked_for_our_stream_and_nothing_else(monkeypatch, has_own_graph, fails):
    asked, levels, weights = [], [], {"w": np.ones(3, np.float32)}

    def open_session(graph, options, **more):
        asked.append((graph, options, more))
        if fails:
            raise RuntimeError("no CUDA")
        return "session"

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(onnxruntime, "set_default_logger_severity", levels.append)
    if fails:
        with pytest.raises(RuntimeError):
            cuda._open_session(b"graph", GPU, has_own_graph, weights)
    else:
        assert cuda._open_session(b"graph", GPU, has_own_graph, weights) == "session"
    ((graph, options, more),) = asked
    ((provider, settings),) = more["providers"]
    assert (graph, provider, more["enable_fallback"]) == (b"graph", CUDA, 0)
    assert settings["user_compute_stream"] == str(GPU.handle)
    assert settings["enable_cuda_graph"] == str(int(has_own_graph))
    assert (settings["device_id"], settings["use_tf32"]) == ("1", "0")
    assert options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
    assert levels[-1] == 2  # warnings, as before


def test_what_runs_step_after_step_has_a_graph_of_its_own(tiny_bundle, monkeypatch):
    opened = {}

    def open_graph(name, graph, contract, gpu, *, origin, has_own_graph, weights):
        opened[name] = (gpu, has_own_graph)
        return name

    monkeypatch.setattr(cuda, "has_cuda_provider", lambda: True)
    monkeypatch.setattr(cuda, "OrtGraph", open_graph)
    room = {"memory_bytes": lambda: (80 << 30, 80 << 30)}
    gpu = SimpleNamespace(**vars(GPU) | room)
    monkeypatch.setattr(cuda, "Gpu", {1: gpu}.__getitem__)
    engines = open_engines(open_bundle(tiny_bundle), "cuda:1")
    assert engines.device == "cuda:1" and engines.gpu is gpu
    own = {"visual_encoder": False, "backbone": True, "codec_decoder": False}
    assert opened == {name: (gpu, has_graph) for name, has_graph in own.items()}  # one stream
    assert engines.device_graphs == {name: name for name in own}


def test_a_session_that_fell_back_to_the_cpu_is_refused(tiny_bundle):
    """A real one: onnxruntime goes on without the provider that it could not start."""
    graph = open_bundle(tiny_bundle).read_graph("backbone")
    session = SessionEngine("backbone", graph, CONTRACT, 1, "here")._session
    with pytest.raises(
        BackendError, match=r"start CUDA for graph backbone \(the GPU or .*pip inst"
    ):
        check_placement(session, "backbone")


def test_a_library_that_is_missing_is_named_and_nothing_is_printed(tmp_path, monkeypatch, capfd):
    """Where onnxruntime lies: a provider that needs what is not there."""
    folder = tmp_path / "onnxruntime" / "capi"
    folder.mkdir(parents=True)
    (folder / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    here = SimpleNamespace(
        __file__=str(folder.parent / "__init__.py"), preload_dlls=lambda: print("x")
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", here)
    assert "libonnxruntime_providers_cuda.so" in cuda.why_not_loaded()
    (folder / "libonnxruntime_providers_cuda.so").unlink()
    assert cuda.why_not_loaded() is None
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("placed", "refused"),
    [
        ((CUDA,), None),
        ((CUDA, "CPUExecutionProvider Shape"), None),
        ((CUDA, "CPUExecutionProvider Attention", "CPUExecutionProvider Shape"), "Attention"),
    ],
)
def test_no_node_is_left_on_the_cpu(placed, refused):
    session = RecordingSession(placed)
    if refused is None:
        check_placement(session, "backbone")
        return
    with pytest.raises(BackendError, match=f"backbone has {refused} on the CPU, expected"):
        check_placement(session, "backbone")


def test_an_onnxruntime_without_the_provider_says_how_to_get_it(tiny_bundle, monkeypatch):
    monkeypatch.setattr(cuda, "has_cuda_provider", lambda: False)
    with pytest.raises(
        BackendError, match=r'"vab-rt\[gpu\]" && pip install --force-reinstall --no'
    ):
        cuda.open_cuda(open_bundle(tiny_bundle))


def test_the_gpu_is_opened_after_the_bundle_is_known_to_fit(tiny_bundle, monkeypatch):
    monkeypatch.setattr(cuda, "has_cuda_provider", lambda: True)
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(
        BackendError, match=r'cuda.core cannot be imported .*pip install "vab-rt\[gpu\]"'
    ):
        cuda.open_cuda(open_bundle(tiny_bundle))
