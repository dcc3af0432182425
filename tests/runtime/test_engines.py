"""Engines: the right device or an error, the right graphs or an error."""

import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from command import PATIENCE_S
from manifests import write_manifest
from onnx import TensorProto, helper
from tiny_bundle import make_bundle, tiny_config

from vab_rt.bundle import open_bundle
from vab_rt.engines import open_engines
from vab_rt.engines.sessions import SideBySide
from vab_rt.errors import BackendError, BundleError, OptionError
from vab_rt.threads import Helpers, num_physical_cores

CONFIG = tiny_config()


@pytest.fixture(scope="module")
def engines(tiny_bundle):
    return open_engines(open_bundle(tiny_bundle), "cpu", threads=1)


def backbone_inputs(batch=1, conditional=1.0, seed=0):
    rng = np.random.default_rng(seed)
    c = CONFIG
    return {
        "tokens": np.full((batch, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32),
        "features": rng.standard_normal((batch, c.num_frames, c.visual_dim)).astype(np.float32),
        "conditional": np.full(batch, conditional, np.float32),
    }


def test_the_sampler_is_the_fastest_there_is(engines):
    assert engines.sample_step.name in ("native", "numpy")


def test_every_graph_answers_in_its_shape(engines):
    c = CONFIG
    frames = np.zeros((3, c.image_size, c.image_size, 3), np.uint8)
    assert engines["visual_encoder"](frames=frames).shape == (3, c.visual_dim)
    logits = engines["backbone"](**backbone_inputs(batch=2))
    assert logits.shape == (2, c.num_codebooks, c.num_token_steps, c.codebook_size)
    tokens = np.zeros((2, c.num_codebooks, c.num_token_steps), np.int32)
    assert engines["codec_decoder"](tokens=tokens).shape == (2, c.num_samples)


def test_the_tiny_backbone_depends_on_everything(engines):
    """Or the tests that run on it would show nothing."""
    base = backbone_inputs()
    logits = engines["backbone"](**base)
    other_features = backbone_inputs(seed=1)["features"]
    other_tokens = base["tokens"].copy()
    other_tokens[0, 0, 50] = 3
    assert not np.array_equal(engines["backbone"](**base | {"features": other_features}), logits)
    changed = engines["backbone"](**base | {"tokens": other_tokens})
    assert not np.array_equal(changed[0, 1, 0], logits[0, 1, 0])  # far from the changed token
    blind = base | {"conditional": np.zeros(1, np.float32)}
    assert not np.array_equal(engines["backbone"](**blind), logits)
    assert np.array_equal(
        engines["backbone"](**blind), engines["backbone"](**blind | {"features": other_features})
    )


def test_rows_of_a_backbone_run_side_by_side():
    """Two of them meet: one after the other would wait for ever."""
    meeting = threading.Barrier(2, timeout=PATIENCE_S)

    def engine(tokens):
        meeting.wait()
        return 2.0 * tokens

    tokens = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(SideBySide(engine, Helpers(2))(tokens=tokens), 2 * tokens)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_is_what_it_is_alone(tiny_bundle, threads):
    backbone = open_engines(open_bundle(tiny_bundle), "cpu", threads)["backbone"]
    rows = [backbone_inputs(seed=i, conditional=i % 2) for i in range(3)]
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    alone = [backbone(**row) for row in rows]
    np.testing.assert_array_equal(backbone(**batch), np.concatenate(alone))


def test_what_fails_in_one_row_is_raised():
    def engine(tokens):
        if tokens[0] == 1:
            raise BackendError("of row 1")
        return tokens

    with pytest.raises(BackendError, match="of row 1"):
        SideBySide(engine, Helpers(2))(tokens=np.arange(3))


@pytest.mark.parametrize("device", ["cuda", "tensorrt", "tensorrt-rtx"])
def test_a_device_that_was_asked_for_is_never_replaced(tiny_bundle, device, without_gpus):
    with pytest.raises(BackendError, match=f"device {device} needs .*pip install"):
        open_engines(open_bundle(tiny_bundle), device)


@pytest.mark.everywhere
def test_auto_is_cpu_where_nothing_else_is_installed(tiny_bundle, caplog, without_gpus):
    assert open_engines(open_bundle(tiny_bundle)).device == "cpu"
    assert caplog.text == ""


@pytest.mark.everywhere
def test_auto_says_why_it_did_not_choose_cuda(tiny_bundle, caplog, monkeypatch):
    monkeypatch.setattr("vab_rt.engines.sessions.has_cuda_provider", lambda: True)
    monkeypatch.setattr("vab_rt.engines.cuda.has_cuda_provider", lambda: True)
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    assert open_engines(open_bundle(tiny_bundle), threads=1).device == "cpu"
    assert "device auto chose cpu, as cuda cannot be used: cuda.core cannot be" in caplog.text
    with pytest.raises(BackendError, match=r"cuda.core cannot be .*pip install"):
        open_engines(open_bundle(tiny_bundle), "cuda")


@pytest.mark.everywhere
def test_auto_takes_graphs_for_cpus_to_the_cpu(bundle_copy, caplog, monkeypatch):
    write_manifest(bundle_copy, CONFIG, "int8")
    monkeypatch.setattr("vab_rt.engines.sessions.has_cuda_provider", lambda: True)
    monkeypatch.setattr("vab_rt.engines.cuda.has_cuda_provider", lambda: True)
    assert open_engines(open_bundle(bundle_copy), threads=1).device == "cpu"
    assert "cuda cannot be used" in caplog.text and "graphs in int8, expected" in caplog.text
    with pytest.raises(BundleError, match="graphs in int8, expected"):
        open_engines(open_bundle(bundle_copy), "cuda")


@pytest.mark.parametrize(
    "device",
    ["gpu", "cpu:1", "auto:0", "cuda:", "cuda:-1", "cuda:first", "coreml:1", "openvino:0", 1],
)
def test_an_unknown_device(tiny_bundle, device):
    with pytest.raises(
        OptionError, match=f"is {device!r}, expected auto, cpu, cuda, .*cuda:1, or openvino:gpu; "
    ):
        open_engines(open_bundle(tiny_bundle), device)


@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_a_number_of_threads_that_cannot_be(tiny_bundle, threads):
    with pytest.raises(OptionError, match=f"threads is {threads}, expected 1 to 1024"):
        open_engines(open_bundle(tiny_bundle), "cpu", threads)


def test_physical_cores():
    assert 1 <= num_physical_cores() <= 1024


def test_a_missing_onnxruntime_names_the_remedy(tiny_bundle):
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from vab_rt.bundle import open_bundle\n"
        "from vab_rt.engines import open_engines\n"
        "from vab_rt.errors import BackendError\n"
        f"try: open_engines(open_bundle({str(tiny_bundle)!r}))\n"
        "except BackendError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install onnxruntime" in done.stdout


def test_wrong_inputs_name_the_graph_and_the_shapes(engines):
    bad = backbone_inputs() | {"features": np.zeros((1, 99, 6), np.float32)}
    with pytest.raises(BackendError, match=r"graph backbone failed on cpu.*\(1, 99, 6\)"):
        engines["backbone"](**bad)
    with pytest.raises(BackendError, match="graph codec_decoder failed on cpu.*float64"):
        engines["codec_decoder"](tokens=np.zeros((1, 2, 100)))


def test_what_a_host_raises_amid_a_run_is_no_fault_of_the_graph(tiny_bundle, monkeypatch):
    """As handlers of signals do, for a limit of time."""

    class Overdue(Exception):
        pass

    def run(*inputs):
        raise Overdue

    engine = open_engines(open_bundle(tiny_bundle), "cpu")["visual_encoder"]
    monkeypatch.setattr(engine, "_session", SimpleNamespace(run=run))
    with pytest.raises(Overdue):
        engine(frames=np.zeros((1, 8, 8, 3), np.uint8))


def rewrite_graph(folder, name, change):
    """Damage one graph in a way that its manifest vouches for."""
    import onnx

    path = folder / f"{name}.onnx"
    model = onnx.load(path)
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    write_manifest(folder, CONFIG)
    return open_bundle(folder)


def rename_input(graph):
    for node in graph.node:
        node.input[:] = ["token_ids" if name == "tokens" else name for name in node.input]
    graph.input[0].name = "token_ids"


def fix_batch(graph):
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2


def widen_tokens(graph):
    graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def add_input(graph):
    graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def rename_output(graph):
    graph.node[-1].output[0] = graph.output[0].name = "scores"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (rename_input, "inputs token_ids tensor"),
        (fix_batch, r"tokens tensor\(int32\) \[2, 2, 100\]"),
        (widen_tokens, r"tokens tensor\(int64\)"),
        (add_input, r"more tensor\(float\) \[1\]"),
        (rename_output, "outputs scores tensor"),
    ],
)
def test_a_graph_that_does_not_meet_the_contract(bundle_copy, change, found):
    bundle = rewrite_graph(bundle_copy, "backbone", change)
    with pytest.raises(BundleError, match=f"graph backbone of .*{found}.*expected.*export") as got:
        open_engines(bundle, threads=1)
    assert "\n" not in str(got.value)


def test_a_graph_of_another_model(bundle_copy, tmp_path):
    wide = make_bundle(tmp_path / "wide", tiny_config(visual_dim=7))
    shutil.copy(wide / "visual_encoder.onnx", bundle_copy / "visual_encoder.onnx")
    write_manifest(bundle_copy, CONFIG)
    with pytest.raises(BundleError, match=r"\[\?, 7\]; expected features .* \[\?, 6\]"):
        open_engines(open_bundle(bundle_copy), threads=1)


@pytest.mark.parametrize("content", [b"x", b"not a graph", b"\x08\x0a" * 50])
def test_a_file_that_is_no_graph(bundle_copy, content):
    (bundle_copy / "backbone.onnx").write_bytes(content)
    write_manifest(bundle_copy, CONFIG)
    with pytest.raises(BundleError, match="graph backbone of .* cannot be loaded") as caught:
        open_engines(open_bundle(bundle_copy), threads=1)
    assert "\n" not in str(caught.value)


def test_a_wrong_hash_is_found_before_the_graph_is_loaded(bundle_copy):
    path = bundle_copy / "backbone.onnx"
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(BundleError, match="sha256"):
        open_engines(open_bundle(bundle_copy), threads=1)


def test_graphs_may_be_opened_beside_the_work(tiny_bundle, engines):
    before = set(threading.enumerate())
    later = open_engines(open_bundle(tiny_bundle), "cpu", 2, wait=False)
    opening = set(threading.enumerate()) - before
    for name in ("backbone", "codec_decoder"):
        inputs = backbone_inputs() if name == "backbone" else {"tokens": finished_tokens()}
        assert np.array_equal(later[name](**inputs), engines[name](**inputs))
    deadline_s = time.monotonic() + PATIENCE_S
    while later.loaded() == 0 or sum(one.is_alive() for one in opening) > 2:  # those that work
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def finished_tokens():
    return np.zeros((1, CONFIG.num_codebooks, CONFIG.num_token_steps), np.int32)


def test_what_is_wrong_with_a_graph_is_told_by_its_first_call(bundle_copy):
    path = bundle_copy / "backbone.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    later = open_engines(open_bundle(bundle_copy), "cpu", 2, wait=False)
    assert later["codec_decoder"](tokens=finished_tokens()).shape == (1, CONFIG.num_samples)
    for _ in range(2):
        with pytest.raises(BundleError, match=r"backbone\.onnx has the sha256"):
            later["backbone"](**backbone_inputs())
