"""Backbones in 8-bit floats: what is rounded and how, what it loses, and an engine of one."""

import logging

import numpy as np
import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")

import ml_dtypes
import onnx_ir as ir
from checkpoints import saved_checkpoint, tiny_config
from shard_files import make_shards

from export import onnx_graphs, verify
from export.build_engines import main, parse_arguments
from export.fp8_graphs import (
    CALIBRATION_CLIPS,
    MAX_E4M3,
    measure_peaks,
    products,
    quantise_products,
    read_clips,
    rounded_weight,
    scale_of,
    write_fp8,
)
from training.checkpoint import Checkpoint
from vab_rt.bundle import open_bundle
from vab_rt.engines.device_loop import gpu_precision
from vab_rt.errors import DataError, ExportError

E4M3 = ml_dtypes.float8_e4m3fn
PRODUCTS = 3 * 4 + 2 * 2  # of three layers, and of the second experts of two


@pytest.fixture(scope="module")
def written(checkpoint: Checkpoint) -> tuple[ir.Graph, str]:
    path = checkpoint.path.with_name("backbone.fp8.onnx")
    measured = write_fp8(checkpoint, path)
    return ir.load(path).graph, measured["fp8_backbone"]


def test_every_product_of_a_layer_has_rounded_sides(written):
    graph, _ = written
    rounded = [node for node in graph if node.op_type == "MatMul" and is_rounded(node)]
    assert len(rounded) == PRODUCTS
    assert not list(products(graph))
    stored = [v for v in graph.initializers.values() if v.dtype == ir.DataType.FLOAT8E4M3FN]
    weights = [value for value in stored if len(value.shape) == 2]
    assert len(weights) == PRODUCTS
    for node in graph:
        if node.op_type == "Attention":
            assert {v.dtype for v in node.inputs if v is not None} == {ir.DataType.FLOAT16}
    # One rounding of a value serves every product that reads it.
    assert sum(node.op_type == "QuantizeLinear" for node in graph) == PRODUCTS


def is_rounded(node: ir.Node) -> bool:
    return all(value.producer().op_type == "DequantizeLinear" for value in node.inputs)


def test_the_loss_is_that_of_three_bits(written):
    _, text = written
    assert f"{PRODUCTS} products in E4M3, scales from noise; relative error" in text
    error = float(text.split("relative error ")[1].split(",")[0])
    assert 2e-3 < error < 0.2


def test_a_weight_is_rounded_to_the_nearest_of_its_channel():
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, 5)).astype(np.float16) * np.float16(0.02)
    weight[:, 3] = 0
    weight[:, 4] *= np.float16(1000)
    numbers, scales = rounded_weight(weight)
    assert (numbers.dtype, scales.dtype, scales.shape) == (E4M3, np.float16, (5,))
    found = numbers.astype(np.float32) * scales.astype(np.float32)
    limit = np.maximum(np.abs(weight) * 2**-4, 2**-10 * scales.astype(np.float32))  # half a step
    assert (np.abs(found - weight) <= limit * 1.001).all()
    assert np.abs(numbers.astype(np.float32)).max(0)[[0, 1, 2, 4]].min() > 400
    assert not numbers[:, 3].any()


@pytest.mark.parametrize("peak", [1e-9, 0.0137, 1.0, 300.3, 65504.0])
def test_nothing_lies_beyond_the_largest_number(peak):
    scale = float(scale_of(np.array(peak)))
    assert peak <= scale * MAX_E4M3
    assert scale * MAX_E4M3 < 1.002 * max(peak, 2**-14 * MAX_E4M3)


def one_product(weight: np.ndarray) -> ir.Model:
    """x [2, 8] -> (2 x) @ weight [8, 3], in float32."""
    x, y = (ir.Value(name=n, type=ir.TensorType(ir.DataType.FLOAT)) for n in ("x", "y"))
    x.shape = ir.Shape(["B", 8])
    w = ir.Value(
        name="w",
        shape=ir.Shape(weight.shape),
        type=ir.TensorType(ir.DataType.FLOAT),
        const_value=ir.tensor(weight, name="w"),
    )
    double = ir.node("Add", [x, x])
    double.outputs[0].name, double.outputs[0].dtype = "doubled", ir.DataType.FLOAT
    product = ir.Node("", "MatMul", [double.outputs[0], w], outputs=[y])
    graph = ir.Graph([x], [y], nodes=[double, product], initializers=[w], opset_imports={"": 23})
    return ir.Model(graph, ir_version=10)


def test_the_graph_computes_what_its_rounding_says(tmp_path):
    random = np.random.default_rng(1)
    weight, x = random.standard_normal((8, 3)), random.standard_normal((2, 8))
    weight, x = weight.astype(np.float32), x.astype(np.float32)
    peaks = measure_peaks(one_product(weight), {"x": np.concatenate([-x, 0.5 * x])})
    assert peaks == {"doubled": pytest.approx(2 * np.abs(x).max())}
    model = one_product(weight)
    assert quantise_products(model, {"doubled": float(2 * np.abs(x).max())}) == 1
    onnx_graphs.save(onnx_graphs.widen(model), tmp_path / "g.onnx")
    found = verify.open_session(tmp_path / "g.onnx").run(None, {"x": x})[0]
    numbers, scales = rounded_weight(weight)
    scale = np.float32(scale_of(2 * np.abs(x).max()))
    rounded = (2 * x / scale).astype(E4M3).astype(np.float32) * scale
    expected = rounded @ (numbers.astype(np.float32) * scales.astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 1e-3 < verify.relative_error(2 * x @ weight, found) < 0.1


def test_what_is_not_finite_is_refused():
    x = np.full((1, 8), np.nan, np.float32)
    with pytest.raises(ExportError, match="computes nan at doubled, expected finite values"):
        measure_peaks(one_product(np.ones((8, 3), np.float32)), {"x": x})


def test_calibration_takes_clips_as_decoding_sees_them(tmp_path):
    config = tiny_config()
    inputs = read_clips(str(make_shards(tmp_path / "shards")), config)
    contract = {t.name: t for t in verify.contract_of(config)["backbone"].inputs}
    assert inputs.keys() == contract.keys()
    for name, array in inputs.items():
        assert array.dtype == contract[name].dtype
        assert array.shape == (CALIBRATION_CLIPS, *contract[name].shape[1:])
    assert 0.45 < (inputs["tokens"] == config.mask_id).mean() < 0.55
    with pytest.raises(DataError):
        read_clips(str(tmp_path / "nothing"), config)


def test_the_command_writes_the_graph_and_its_engine(tmp_path, monkeypatch, capsys, caplog):
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = saved_checkpoint(tmp_path, tiny_config(layers=1, expert_layers=0))
    words = [str(checkpoint.path), "--out", str(tmp_path / "out"), "--backend", "tensorrt-rtx"]
    words += ["--precision", "fp32,fp8", "--calibrate", str(make_shards(tmp_path / "shards"))]
    with caplog.at_level(logging.INFO):
        main(words)
    assert "engine of backbone (fp8), once" in caplog.text
    assert "engine of visual_encoder (fp32), once" in caplog.text
    assert "tensorrt-rtx engine of backbone" in capsys.readouterr().out
    bundle = open_bundle(tmp_path / "out")
    bundle.verify()
    assert bundle.file_of("backbone", "fp8") == "backbone.fp8.onnx"
    assert f"scales from {CALIBRATION_CLIPS} clips" in bundle.manifest.provenance["fp8_backbone"]
    assert gpu_precision(bundle, "backbone") == "fp32"


def test_other_gpus_and_the_other_graphs_need_a_precision_too(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["ckpt.pt", "--precision", "int8,fp8"])
    assert "fp8 is of the backbone alone, expected fp16 beside it" in capsys.readouterr().err
    _, options = parse_arguments(["ckpt.pt", "--precision", "int8,fp16,fp8"])
    assert options.typed == ("fp16", "fp8")
