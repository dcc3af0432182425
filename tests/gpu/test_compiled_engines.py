"""TensorRT and TensorRT-RTX: what is built, what is kept, what is refused, how it is run."""

import hashlib
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from manifests import write_manifest
from outside_weights import FILE, TENSOR, make_outside_bundle, safetensors
from tiny_bundle import RUNTIME_GRAPHS, fine_config, make_bundle, tiny_config

from vab_rt.bundle import open_bundle
from vab_rt.contract import contract_of
from vab_rt.engines.device_loop import gpu_precision
from vab_rt.engines.gpu import DeviceArray
from vab_rt.engines.tensorrt import (
    CompiledGraph,
    build_engine,
    check_tensors,
    compile_bundle,
    compile_graph,
    import_api,
    open_compiled,
    open_tensorrt,
    tensorrt,
    tensorrt_rtx,
)
from vab_rt.errors import BackendError, BundleError

CONFIG = tiny_config()
ROWS = {"visual_encoder": (1, 2, 16), "backbone": (1, 2, 32), "codec_decoder": (1, 2, 16)}


class Attention:
    type = "attention"


class AttentionInput:
    def __getattr__(self, name):
        assert name == "attention"
        return self


RECORDED = frozenset(
    ("clear_flag", "set_flag", "set_compute_capability", "set_shape", "add_optimization_profile")
    + ("set_input_shape", "set_tensor_address", "set_device_memory", "execute_async_v3")
)


class RecordingApi:
    """The calls of both libraries that are used, written down; nothing is compiled."""

    __version__ = "10.14.1"
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=0)
    LayerType = SimpleNamespace(ATTENTION_INPUT="attention")
    IAttentionInputLayer = AttentionInput
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")
    BuilderFlag = SimpleNamespace(TF32="tf32", REQUIRE_USER_ALLOCATION="allocation")
    ComputeCapability = SimpleNamespace(SM89=89, SM120=120, SM121=121)
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
    num_errors = num_layers = 2

    def __init__(self, *, parses=True, builds=True, deserialises=True):
        self.calls, self.parses, self.builds = [], parses, builds
        self.deserialises = deserialises
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})

    def __getattr__(self, name):
        if name not in RECORDED:
            raise AttributeError(name)
        return lambda *given: self.calls.append((name, *given)) or True

    def itself(self, *_):
        return self

    Builder = OnnxParser = Runtime = itself
    create_builder_config = create_optimization_profile = create_runtime_config = itself

    def create_network(self, flags):
        self.calls.append(("network", flags))
        self.attention = Attention()
        return self

    def get_layer(self, index):
        return self.attention if index else SimpleNamespace(type="other")

    def parse(self, graph):
        return self.parses

    def get_error(self, index):
        return SimpleNamespace(desc=lambda: f"reason\n {index}")

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def build_serialized_network(self, network, config):
        return b"engine" if self.builds else None

    def deserialize_cuda_engine(self, engine):
        return self if self.deserialises else None

    def create_execution_context(self, strategy):
        self.calls.append(("context", strategy))
        return self

    def update_device_memory_size_for_shapes(self):
        return 640


HOPPER = SimpleNamespace(name="GPU", capability=(9, 0))


def library(api, gpu=HOPPER):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", api)
        return tensorrt(gpu)


class Memory:
    pass


KEPT = []
"""What the arrays of GPU lie in, weakly."""


def array(dtype, shape):
    memory = Memory()
    KEPT.append(weakref.ref(memory))
    return DeviceArray(0x900, dtype, shape, owner=memory)


GPU = SimpleNamespace(
    name="GPU",
    device_id=0,
    handle=0x5000,
    array=array,
    memory_bytes=lambda: (80 << 30, 80 << 30),
    room=lambda: "5 of 80 MB are free",
)


def test_the_engines_of_two_stages_are_built_in_the_order_in_which_they_run(tmp_path):
    folder = make_bundle(tmp_path / "pair", CONFIG, fine=fine_config())
    engines = dict(compile_bundle(open_bundle(folder), library(RecordingApi()), tmp_path / "cache"))
    assert list(engines) == ["visual_encoder", "backbone", "fine_backbone", "codec_decoder"]
    assert len({compiled.key for compiled in engines.values()}) == 4


def test_networks_are_strongly_typed_and_take_every_number_of_rows(tiny_bundle, tmp_path):
    api = RecordingApi()
    bundle = open_bundle(tiny_bundle)
    engines = dict(compile_bundle(bundle, library(api), tmp_path / "cache"))
    assert list(engines) == list(RUNTIME_GRAPHS)
    assert [call for call in api.calls if call[0] == "network"] == [("network", 1)] * 3
    assert api.attention.decomposable is True
    assert api.calls.count(("clear_flag", "tf32")) == 3
    shapes = {call[1:] for call in api.calls if call[0] == "set_shape"}
    for name, contract in contract_of(CONFIG).items():
        if name in RUNTIME_GRAPHS:
            for tensor in contract.inputs:
                expected = ((rows, *tensor.shape[1:]) for rows in ROWS[name])
                assert (tensor.name, *expected) in shapes


def test_a_second_start_builds_nothing(tiny_bundle, tmp_path, caplog):
    first, second = RecordingApi(), RecordingApi()
    bundle = open_bundle(tiny_bundle)
    with caplog.at_level("INFO"):
        built = [c.build_s for _, c in compile_bundle(bundle, library(first), tmp_path / "c")]
        assert None not in built
        assert caplog.text.count("engine of backbone (fp32), once") == 1
        kept = [c.build_s for _, c in compile_bundle(bundle, library(second), tmp_path / "c")]
    assert kept == [None] * 3
    assert second.calls == []
    assert caplog.text.count("building the tensorrt engine of") == 3


@pytest.mark.parametrize("change", ["gpu", "version", "graph"])
def test_another_gpu_library_or_graph_builds_again(tiny_bundle, tmp_path, change):
    cache = tmp_path / "cache"
    compile_graph(open_bundle(tiny_bundle), "backbone", "fp32", library(RecordingApi()), cache)
    api, folder = RecordingApi(), tiny_bundle
    if change == "version":
        api.__version__ = "10.15.0"
    if change == "graph":
        folder = make_bundle(tmp_path / "other", CONFIG, seed=1)
    other = library(
        api, SimpleNamespace(name="GPU", capability=(8, 9)) if change == "gpu" else HOPPER
    )
    again = compile_graph(open_bundle(folder), "backbone", "fp32", other, cache)
    assert again.build_s is not None


def test_a_graph_that_cannot_be_built_is_one_line_with_the_reasons(tiny_bundle, tmp_path):
    for api, reason in (
        (RecordingApi(parses=False), "reason 0; reason 1"),
        (RecordingApi(builds=False), "see the lines above"),
    ):
        with pytest.raises(BundleError, match=rf"cannot be built by .*\({reason}\).*device cuda"):
            dict(compile_bundle(open_bundle(tiny_bundle), library(api), tmp_path / "cache"))


def test_a_kept_engine_that_the_library_refuses_is_built_again_once(
    tiny_bundle, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle, api = open_bundle(tiny_bundle), RecordingApi(deserialises=False)
    dict(compile_bundle(bundle, library(RecordingApi())))
    with pytest.raises(BackendError, match="refuses the engine of visual_encoder that it has bui"):
        open_compiled(bundle, library(api), GPU)
    assert [call[0] for call in api.calls].count("network") == 1
    assert "refuses the engine kept for visual_encoder: it is built again" in caplog.text
    assert len(list(tmp_path.glob("**/*.engine"))) == 2


def test_every_graph_is_an_engine_on_one_gpu(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle, api = open_bundle(tiny_bundle), RecordingApi()
    contracts = iter([bundle.contracts[name] for name in bundle.needed_graphs])

    def deserialise(engine):
        assert engine == b"engine"
        contract = next(contracts)
        names = [t.name for t in (*contract.inputs, *contract.outputs)]
        return SimpleNamespace(num_io_tensors=len(names), get_tensor_name=names.__getitem__)

    api.deserialize_cuda_engine = deserialise
    engines = open_compiled(bundle, library(api), GPU)
    assert (engines.device, engines.gpu) == ("tensorrt", GPU)
    assert list(engines.graphs) == list(engines.device_graphs) == list(RUNTIME_GRAPHS)
    assert {graph._gpu.handle for graph in engines.device_graphs.values()} == {GPU.handle}


@pytest.mark.parametrize(
    ("variants", "advice"), [([], ", export it with --precision fp32,fp16, or"), (["fp16"], ", or")]
)
def test_a_model_larger_than_the_gpu_says_what_would_fit(tmp_path, variants, advice):
    bundle = open_bundle(with_variants(tmp_path / "b", "fp32", variants))
    needed = sum(entry.size_bytes for name, entry in bundle.manifest.files.items())
    small = SimpleNamespace(**vars(GPU) | {"memory_bytes": lambda: (20_000, 80_000)})
    assert needed > 20_000
    words = (
        rf"take 0 MB, but 5 of 80 MB are free on GPU; a model of 0 MB .* programs{advice} use --d"
    )
    with pytest.raises(BackendError, match=words):
        open_compiled(bundle, library(RecordingApi()), small)


def test_a_library_has_one_logger_for_good():
    """It keeps the address of the first that it is given."""
    api, made = RecordingApi(), []
    api.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, _: made.append(self)})
    for _ in range(2):
        build_engine(library(api), "x", b"graph", contract_of(CONFIG)["codec_decoder"], 16)
    assert len(made) == 1


def bind(api):
    contract = contract_of(CONFIG)["codec_decoder"]
    graph = CompiledGraph(library(api), api, "codec_decoder", contract, GPU)
    tokens = DeviceArray(0x100, np.int32, (3, 2, 100))
    audio = DeviceArray(0x200, np.float32, (3, 32000))
    return graph.bind({"tokens": tokens, "audio": audio})


def test_a_context_has_its_own_memory_and_runs_on_the_stream():
    api = RecordingApi()
    enqueue = bind(api)
    enqueue()
    enqueue()
    assert api.calls == [
        ("context", "user"),
        ("set_input_shape", "tokens", (3, 2, 100)),
        ("set_tensor_address", "tokens", 0x100),
        ("set_tensor_address", "audio", 0x200),
        ("set_device_memory", 0x900, 640),
        ("execute_async_v3", 0x5000),
        ("execute_async_v3", 0x5000),
    ]
    assert KEPT[-1]() is not None
    del enqueue
    assert KEPT[-1]() is None


@pytest.mark.parametrize("is_capturable", [True, False])
def test_a_context_says_whether_it_can_be_captured(is_capturable):
    api = RecordingApi()
    api.is_stream_capturable = lambda handle: is_capturable and handle == GPU.handle
    graph = CompiledGraph(library(api), api, "x", contract_of(CONFIG)["codec_decoder"], GPU)
    graph.bind({"tokens": DeviceArray(0x100, np.int32, (3, 2, 100))})
    assert graph.can_be_captured is is_capturable


@pytest.mark.parametrize(
    ("call", "answer", "what"),
    [
        ("create_execution_context", None, "has no room for a context"),
        ("set_input_shape", False, r"refuses tokens of shape \(3, 2, 100\)"),
        ("set_tensor_address", False, "refuses the memory of tokens"),
        ("execute_async_v3", False, "does not run in 0 MB"),
    ],
)
def test_what_an_engine_refuses_is_one_line(call, answer, what):
    api = RecordingApi()
    setattr(api, call, lambda *_: answer)
    words = f"graph codec_decoder {what} on GPU with tensorrt 10.14.1 .*5 of 80 MB.*device cuda$"
    with pytest.raises(BackendError, match=words):
        bind(api)()


def test_an_engine_with_other_tensors_is_refused():
    names = ["tokens", "sound"]
    engine = SimpleNamespace(num_io_tensors=2, get_tensor_name=names.__getitem__)
    with pytest.raises(BundleError, match="has the tensors sound, tokens, expected audio, tokens"):
        check_tensors(library(RecordingApi()), engine, "x", contract_of(CONFIG)["codec_decoder"])


@pytest.mark.parametrize(
    ("device", "version", "words"),
    [
        ("tensorrt", None, r'needs tensorrt, which .*pip install "vab-rt\[trt\]"'),
        ("tensorrt-rtx", None, r'needs tensorrt_rtx, which .*pip install "vab-rt\[rtx\]"'),
        ("tensorrt", "8.6.1", "8.6.1 is installed, expected 10.14"),
        ("tensorrt", "10.13.3.9", "10.13.3.9 is installed, expected 10.14 or newer; upgrade"),
        ("tensorrt", "11.0.0.1", None),
    ],
)
def test_a_library_that_is_missing_or_old_is_refused(monkeypatch, device, version, words):
    module = SimpleNamespace(__version__=version) if version else None
    monkeypatch.setitem(sys.modules, device.replace("-", "_"), module)
    if words is None:
        assert import_api(device) is module
        return
    with pytest.raises(BackendError, match=words):
        import_api(device)


def test_a_gpu_that_rtx_does_not_know_is_refused(tiny_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", RecordingApi())
    hopper = SimpleNamespace(name="NVIDIA H100", capability=(9, 0))
    monkeypatch.setattr("vab_rt.engines.tensorrt.Gpu", lambda device_id: hopper)
    with pytest.raises(BackendError, match=r"H100 has compute capability 9.0, .*8.9.* tensorrt or"):
        open_tensorrt(open_bundle(tiny_bundle), "tensorrt-rtx")


def with_variants(folder: Path, precision: str, variants: list[str]) -> Path:
    make_bundle(folder, CONFIG)
    for variant in variants:
        content = (folder / "backbone.onnx").read_bytes()
        (folder / f"backbone.{variant}.onnx").write_bytes(content)
    write_manifest(folder, CONFIG, precision)
    return folder


@pytest.mark.parametrize(
    ("precision", "variants", "chosen"),
    [
        ("fp32", [], "fp32"),
        ("fp32", ["bf16"], "bf16"),
        ("int8", ["bf16", "fp16"], "fp16"),
        ("int8", ["fp32"], "fp32"),
        ("int8", [], None),
    ],
)
def test_a_gpu_takes_the_best_graphs_that_are_there(tmp_path, precision, variants, chosen):
    bundle = open_bundle(with_variants(tmp_path / "b", precision, variants))
    if chosen is None:
        with pytest.raises(BundleError, match="graphs in int8, expected fp16 or bf16 or fp32 .*ex"):
            gpu_precision(bundle, "backbone")
        return
    assert gpu_precision(bundle, "backbone") == chosen
    in_variant = chosen in variants
    assert bundle.file_of("backbone", chosen) == (
        f"backbone.{chosen}.onnx" if in_variant else "backbone.onnx"
    )
    assert bundle.file_of("codec_decoder", chosen) == "codec_decoder.onnx"
    bundle.verify()


def test_only_a_gpu_that_has_8_bit_floats_takes_the_graph_with_them(tmp_path):
    bundle = open_bundle(with_variants(tmp_path / "b", "fp32", ["fp16", "fp8"]))
    assert gpu_precision(bundle, "backbone") == "fp16"
    assert gpu_precision(bundle, "backbone", has_fp8=True) == "fp8"
    assert gpu_precision(bundle, "visual_encoder", has_fp8=True) == "fp16"
    for capability, backbone in (((8, 6), "fp16"), ((8, 9), "fp8"), ((12, 0), "fp8")):
        found = library(RecordingApi(), SimpleNamespace(name="GPU", capability=capability))
        engines = dict(compile_bundle(bundle, found, tmp_path / str(capability[1])))
        assert engines["backbone"].key.precision == backbone
        assert engines["codec_decoder"].key.precision == "fp16"


@pytest.fixture
def recorded_rtx(monkeypatch):
    """TensorRT-RTX's module, recording."""
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", RecordingApi())


def test_rtx_builds_8_bit_floats_for_those_that_have_them_alone(recorded_rtx, tmp_path):
    bundle = open_bundle(with_variants(tmp_path / "b", "fp32", ["fp16", "fp8"]))
    for capability, expected in (((8, 6), []), ((8, 9), [(89, 0), (120, 1), (121, 2)])):
        found = tensorrt_rtx(SimpleNamespace(capability=capability))
        dict(compile_bundle(bundle, found, tmp_path / str(capability[1])))
        assert found.api.calls.count(("set_flag", "allocation")) == 3
        assert [c[1:] for c in found.api.calls if c[0] == "set_compute_capability"] == expected
        found.api.calls.clear()


def test_rtx_has_the_kernels_of_a_shape_before_it_is_captured(recorded_rtx):
    api = tensorrt_rtx().api
    context = tensorrt_rtx().open_context(api)
    assert (context.strategy, context.dynamic_shapes_kernel_specialization_strategy) == (
        "user",
        "eager",
    )
    assert api.calls == [("context", api)]


@pytest.fixture(scope="module")
def rtx():
    """TensorRT-RTX itself, which builds without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    return tensorrt_rtx()


def test_every_graph_of_a_bundle_is_built_and_kept(rtx, tmp_path):
    folder = with_variants(tmp_path / "b", "fp32", ["fp16"])  # no attention: float32 builds
    bundle = open_bundle(folder)
    engines = dict(compile_bundle(bundle, rtx, tmp_path / "cache"))
    assert set(engines) == set(RUNTIME_GRAPHS)
    assert all(c.build_s is not None and len(c.engine) > 1000 for c in engines.values())
    again = dict(compile_bundle(bundle, rtx, tmp_path / "cache"))
    assert [c.build_s for c in again.values()] == [None] * 3
    assert [c.engine for c in again.values()] == [c.engine for c in engines.values()]


def test_weights_that_a_bundle_only_names_are_inside_its_engine(rtx, tmp_path):
    """Others make another engine, and those that are missing none."""
    keys = []
    for scale in (1, 2):
        folder = tmp_path / f"b{scale}"
        weights = make_outside_bundle(folder)
        weights[TENSOR] = weights[TENSOR] * np.float32(scale)
        content = safetensors(weights)
        facts = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        make_outside_bundle(folder, **facts)
        (folder / FILE).write_bytes(content)
        compiled = compile_graph(
            open_bundle(folder), "visual_encoder", "fp32", rtx, tmp_path / "cache"
        )
        keys.append(compiled.key)
        assert weights[TENSOR].tobytes()[:64] in compiled.engine
    assert keys[0] != keys[1]
    (folder / FILE).unlink()
    with pytest.raises(BundleError, match="is in none of"):
        compile_graph(open_bundle(folder), "visual_encoder", "fp32", rtx, tmp_path / "other")


def test_what_is_no_graph_is_one_line(rtx, tmp_path):
    folder = make_bundle(tmp_path / "b", CONFIG)
    (folder / "backbone.fp16.onnx").write_bytes(b"not a graph")
    write_manifest(folder, CONFIG)
    with pytest.raises(BundleError, match="graph backbone cannot be built by tensorrt-rtx"):
        compile_graph(open_bundle(folder), "backbone", "fp16", rtx, tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNTIME_GRAPHS)
def test_the_shipped_model_is_built_too(rtx, tmp_path, name):
    """Its attention is float32, which has no kernel as a whole."""
    compiled = compile_graph(open_bundle(), name, "fp32", rtx, tmp_path / "cache")
    assert len(compiled.engine) > 1_000_000
