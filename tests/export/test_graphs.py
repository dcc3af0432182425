"""Graphs one by one: EnCodec, float16 storage, int8, and what is refused."""

import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")

import numpy as np
import onnx_ir as ir
import torch
from checkpoints import saved_checkpoint, spread_codebooks, tiny_config

from export import modules, onnx_graphs
from export.tolerances import TOLERANCES
from export.vab_bundle import build_graph
from export.verify import (
    check_error,
    check_tokens,
    fixed_inputs,
    measure_loss,
    open_session,
    relative_error,
    run_torch,
    verify,
)
from training.codecs.codec import build_codec
from vab_rt.contract import contract_of
from vab_rt.engines.tensorrt import build_engine, tensorrt_rtx
from vab_rt.errors import ExportError, OptionError


@pytest.fixture(scope="module")
def encodec(tmp_path_factory):
    return saved_checkpoint(tmp_path_factory.mktemp("encodec"), tiny_config(codec="encodec"))


def test_encodec_decoder(encodec, tmp_path):
    build_graph("codec_decoder", encodec, tmp_path, "fp32", "fp32")
    path = tmp_path / "codec_decoder.onnx"
    assert not any(node.op_type == "Elu" for node in ir.load(path).graph.all_nodes())
    inputs = fixed_inputs("codec_decoder", encodec.config, 3)
    with torch.no_grad():
        plain = encodec.codec().decode(torch.from_numpy(inputs["tokens"])).numpy()
    found = open_session(path).run(None, inputs)[0]  # [3, S]
    assert found.shape == (3, encodec.config.num_samples)
    assert relative_error(plain, found) < TOLERANCES["codec_decoder"].relative


def test_encodec_encoder(encodec, tmp_path):
    build_graph("codec_encoder", encodec, tmp_path, "fp32", "fp32")
    inputs = fixed_inputs("codec_encoder", encodec.config, 3)
    codec = encodec.codec()
    expected = codec.encode(torch.from_numpy(inputs["audio"])).numpy()  # [3, K, T]
    found = open_session(tmp_path / "codec_encoder.onnx").run(None, inputs)[0]
    check_tokens(codec, inputs["audio"], expected, found)
    assert (expected == found).mean() > 0.99
    assert len(np.unique(found)) > 10


def test_a_codec_that_adds_up_large_phases_is_not_refused_for_rounding(tmp_path):
    """As that of minutes of training: the shipped ones have frequencies that are better known."""
    config, path = tiny_config(clip_s=10.0), tmp_path / "codec_decoder.onnx"
    codec = build_codec(config, {"encoder_width": 8, "decoder_width": 16, "decoder_blocks": 1})
    with torch.no_grad():
        codec.head.bias.unflatten(0, (4, -1))[1] = 3 * torch.randn(codec.bins)  # radians a frame
        spread_codebooks(codec, config)
    module = modules.CodecDecoder(codec.eval())
    onnx_graphs.save(onnx_graphs.trace(module, contract_of(config)["codec_decoder"]), path)
    assert verify("codec_decoder", module, path, config) > TOLERANCES["codec_decoder"].relative


def test_encodec_with_another_hop():
    with pytest.raises(OptionError, match=r"ratios \(8, 5, 4\) multiply to 160, expected the hop"):
        build_codec(tiny_config(codec="encodec"), {"ratios": [8, 5, 4]})


@pytest.mark.parametrize(
    ("name", "store", "dtype", "loss"),
    [
        ("visual_encoder", "fp16", ir.DataType.FLOAT16, 1e-2),
        ("visual_encoder", "int8", ir.DataType.INT8, 5e-2),
        ("backbone", "int8", ir.DataType.INT8, 5e-2),
    ],
)
def test_storage_makes_the_file_small_and_keeps_the_numbers(
    checkpoint, tmp_path, name, store, dtype, loss
):
    graph = build_graph(name, checkpoint, tmp_path, "fp32", store)
    assert (f"{store}_storage" in graph.measured) == (name == "backbone")
    inputs = fixed_inputs(name, checkpoint.config, 2)
    module = modules.graph_module(name, checkpoint, store)
    exact = run_torch(modules.graph_module(name, checkpoint, "fp32"), inputs)
    found = open_session(tmp_path / f"{name}.onnx").run(None, inputs)[0]
    assert relative_error(run_torch(module, inputs), found) < TOLERANCES[name].relative
    assert 1e-6 < relative_error(exact, found) < loss
    stored = ir.load(tmp_path / f"{name}.onnx").graph.initializers.values()
    small = sum(v.const_value.size for v in stored if v.const_value.dtype == dtype)
    assert small > 0.8 * sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", ["backbone", "visual_encoder"])
def test_tensorrt_takes_weights_stored_in_int8(checkpoint, tmp_path, name):
    """As whole numbers it would refuse them."""
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    build_graph(name, checkpoint, tmp_path, "fp32", "int8")
    graph, contract = (tmp_path / f"{name}.onnx").read_bytes(), contract_of(checkpoint.config)
    assert build_engine(tensorrt_rtx(None), name, graph, contract[name], max_rows=2)


def test_int8_keeps_the_contract_and_reports_its_loss(checkpoint, tmp_path):
    graph = build_graph("backbone", checkpoint, tmp_path, "int8", "fp16")
    assert "relative error" in graph.measured["int8"]
    assert "same argmax" in graph.measured["fp16_storage"]
    assert [p.name for p in tmp_path.iterdir()] == ["backbone.onnx"]
    nodes = [node.op_type for node in ir.load(tmp_path / "backbone.onnx").graph.all_nodes()]
    assert nodes.count("MatMul") == 1  # the codes' projections, which a runtime folds at load
    assert nodes.count("MatMulInteger") > 10
    inputs = fixed_inputs("backbone", checkpoint.config, 3)
    exact = run_torch(modules.graph_module("backbone", checkpoint, "fp32"), inputs)
    loss = measure_loss(exact, open_session(tmp_path / "backbone.onnx").run(None, inputs)[0])
    assert 1e-4 < loss.relative_error < 0.2
    assert loss.agreement > 0.7


def test_weights_beyond_half_are_refused(checkpoint):
    vab = checkpoint.vab()
    with torch.no_grad():
        vab.heads.weight[3, 3] = 1e6
    with pytest.raises(ExportError, match=r"heads.weight reaches 1e\+06, beyond float16"):
        modules.round_weights(vab, "fp16")


def test_a_graph_beyond_protobuf_is_refused(tmp_path):
    huge = ir.LazyTensor(
        lambda: pytest.fail("written"), dtype=ir.DataType.FLOAT, shape=ir.Shape([2**29])
    )
    weight = ir.Value(name="w", const_value=huge)
    graph = ir.Graph([], [], nodes=[], initializers=[weight], opset_imports={"": 23})
    with pytest.raises(ExportError, match="big holds 2.1 GB .* --store fp16"):
        onnx_graphs.save(ir.Model(graph, ir_version=10), tmp_path / "big.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [2e-4, float("nan"), float("inf")])
def test_errors_beyond_the_tolerance(error):
    check_error("backbone", 1e-6)
    with pytest.raises(ExportError, match="backbone differs from torch by .*nothing was written"):
        check_error("backbone", error)


def test_tokens_that_are_no_ties(checkpoint):
    codec, audio = checkpoint.codec(), fixed_inputs("codec_encoder", checkpoint.config, 1)["audio"]
    expected = codec.encode(torch.from_numpy(audio)).numpy()  # [1, K, T]
    found = expected.copy()
    found[0, 1, 7] = (found[0, 1, 7] + 1) % checkpoint.config.codebook_size
    with pytest.raises(ExportError, match=r"token \d+ at \[0, 1, 7\], expected \d+ as in torch"):
        check_tokens(codec, audio, expected, found)


def test_tokens_that_are_ties(checkpoint):
    """Two equal codes: either is right, whatever follows."""
    codec, audio = checkpoint.codec(), fixed_inputs("codec_encoder", checkpoint.config, 1)["audio"]
    expected = codec.encode(torch.from_numpy(audio)).numpy()  # [1, K, T]
    token, other = int(expected[0, 0, 7]), int(expected[0, 0, 7] == 0)
    codebook = codec.quantizer.vq.layers[0].codebook
    codebook[other] = codebook[token]
    found = expected.copy()
    found[0, 0, 7], found[0, 1, 7] = other, (found[0, 1, 7] + 1) % checkpoint.config.codebook_size
    check_tokens(codec, audio, expected, found)
