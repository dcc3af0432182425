"""Graphs for GPUs: what they compute in, what they lose, and the engines built from them."""

import logging
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")

import onnx_ir as ir
import torch
from checkpoints import saved_checkpoint, tiny_config
from cuda_kernels import off_the_gpu

from export import build_engines
from export.build_engines import main
from export.modules import Backbone, GpuBackbone, check_range, rounded_module, typed_module
from export.typed_graphs import verify_widened, write_typed
from export.verify import fixed_inputs, relative_error, run_torch
from training.model import VAB
from vab_rt.bundle import open_bundle
from vab_rt.errors import ExportError

WIDTHS = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def test_the_manifest_lists_what_lies_beside_the_main_graphs(bundle):
    opened = open_bundle(bundle)
    opened.verify()
    variants = opened.manifest.variants
    assert {p: set(graphs) for p, graphs in variants.items()} == {
        p: {"visual_encoder", "backbone"} for p in ("fp16", "bf16")
    }
    for precision, graphs in variants.items():
        assert graphs["backbone"].contract == opened.manifest.graphs["backbone"].contract
        text = opened.manifest.provenance[f"{precision}_backbone"]
        assert "off torch before rounding; relative error" in text and "same argmax in" in text


@pytest.mark.parametrize("precision", WIDTHS)
@pytest.mark.parametrize("name", ["visual_encoder", "backbone"])
def test_every_product_and_attention_is_narrow(bundle, name, precision):
    graph = ir.load(bundle / f"{name}.{precision}.onnx").graph
    heavy = [n for n in graph if n.op_type in ("MatMul", "Gemm", "Attention", "Conv")]
    assert len(heavy) > 8
    for node in heavy:
        kinds = {value.dtype for value in node.inputs if value is not None and value.dtype}
        assert kinds == {WIDTHS[precision]}, node
    weights = [v for v in graph.initializers.values() if v.dtype == ir.DataType.FLOAT]
    assert sum(v.const_value.size for v in weights) < 1000  # positions, before rounding
    assert off_the_gpu(bundle / f"{name}.{precision}.onnx") == set()


@pytest.mark.parametrize("precision", WIDTHS)
def test_the_loss_is_that_of_rounding(checkpoint, precision):
    inputs = fixed_inputs("backbone", checkpoint.config, 2)
    narrow = run_torch(typed_module("backbone", checkpoint, precision), inputs)
    wide = run_torch(rounded_module("backbone", checkpoint, precision), inputs)
    assert narrow.dtype == wide.dtype == np.float32
    limit = {"fp16": 5e-3, "bf16": 4e-2}[precision]
    assert limit / 100 < relative_error(wide, narrow) < limit


@pytest.mark.parametrize("clip_s", [2.0, 2.2, 2.4])  # 105, 115 and 126 positions
def test_attention_of_gpus_is_that_of_the_model(clip_s):
    torch.manual_seed(0)
    vab, config = VAB(tiny_config(clip_s=clip_s)).eval(), tiny_config(clip_s=clip_s)
    inputs = fixed_inputs("backbone", config, 3)
    expected = run_torch(Backbone(vab), inputs)
    found = run_torch(GpuBackbone(vab, torch.float32), inputs)
    assert relative_error(expected, found) < 1e-5


def test_attention_of_gpus_takes_rows_as_the_projections_leave_them(bundle):
    graph = ir.load(bundle / "backbone.fp16.onnx").graph
    attention = [node for node in graph if node.op_type == "Attention"]
    assert len(attention) == tiny_config().layers
    for node in attention:
        assert {value.producer().op_type for value in node.inputs[:3]} == {"Split"}
        assert [user.op_type for user, _ in node.outputs[0].uses()] == ["MatMul"]


def test_a_graph_of_other_weights_is_refused(bundle, tmp_path, monkeypatch):
    other = saved_checkpoint(tmp_path, tiny_config(), seed=1)
    path = tmp_path / "backbone.bf16.onnx"
    path.write_bytes((bundle / path.name).read_bytes())
    with pytest.raises(ExportError, match="backbone differs from torch"):
        verify_widened("backbone", other, path, "bf16")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["backbone.bf16.onnx", "ckpt.pt"]


def test_a_weight_beyond_float16_is_refused(checkpoint):
    vab = checkpoint.vab()
    with torch.no_grad():
        vab.norm.bias[3] = 1e6
    check_range(vab, torch.bfloat16)
    with pytest.raises(ExportError, match=r"norm.bias reaches 1e\+06, beyond float16; .*bf16 or"):
        check_range(vab, torch.float16)


def test_a_loss_that_is_nonsense_is_refused(checkpoint, tmp_path, monkeypatch):
    nan = np.full((2, 3, 100, 37), np.nan, np.float32)
    monkeypatch.setattr("export.verify.run_torch", lambda module, inputs: nan)
    with pytest.raises(ExportError, match="backbone differs from torch by nan"):
        write_typed("backbone", checkpoint, tmp_path / "backbone.fp16.onnx", "fp16")


def test_engines_are_built_once_and_need_no_gpu(
    bundle, checkpoint, tmp_path, monkeypatch, capsys, caplog
):
    """Of a bundle that is there; that the command makes both is tested with fp8."""
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build_engines, "build_graphs", lambda *_: [])
    words = [str(checkpoint.path), "--out", str(bundle), "--backend", "onnx,tensorrt-rtx"]
    with caplog.at_level(logging.INFO):
        main(words)
        first = capsys.readouterr().out.splitlines()[-3:]
        assert caplog.text.count("building the tensorrt-rtx engine of") == 3
        main(words)
    assert caplog.text.count("building the tensorrt-rtx engine of") == 3
    again = capsys.readouterr().out.splitlines()[-3:]
    names = ["visual_encoder", "backbone", "codec_decoder"]
    assert [line.split()[:4] for line in first] == [
        ["tensorrt-rtx", "engine", "of", name] for name in names
    ]
    assert all(line.endswith(" s") for line in first)
    assert all(line.endswith("kept from before") for line in again)


def test_a_missing_library_stops_before_the_export(checkpoint, tmp_path, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    words = checkpoint.path, "--out", tmp_path / "out", "--backend", "tensorrt"
    assert 'pip install "vab-rt[trt]"' in refused(main, *words)
    assert not (tmp_path / "out").exists()
