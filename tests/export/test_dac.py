"""DAC's graphs against torch, and its decoder as a TensorRT-RTX engine, built without a GPU."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")
pytest.importorskip("transformers", reason="the codec dac needs transformers")

import numpy as np
import torch
from checkpoints import saved_checkpoint, tiny_config

from export.vab_bundle import build_graph
from export.verify import check_tokens, fixed_inputs, open_session
from training.checkpoint import Checkpoint
from vab_rt.contract import contract_of
from vab_rt.engines.tensorrt import build_engine, tensorrt_rtx
from vab_rt.errors import ExportError

CONFIG = tiny_config(codec="dac", codebook_size=32, code_dim=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return saved_checkpoint(tmp_path_factory.mktemp("dac"), CONFIG)


@pytest.fixture(scope="module")
def graphs(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Verified where they are written; a graph that differs raises."""
    folder = tmp_path_factory.mktemp("graphs")
    for name in ("codec_decoder", "codec_encoder"):
        build_graph(name, checkpoint, folder, "fp32", "fp32")
    return folder


def test_tokens_and_sound_of_the_graphs(checkpoint, graphs):
    audio = fixed_inputs("codec_encoder", CONFIG, 3)["audio"]
    codec = checkpoint.codec()
    with torch.no_grad():
        expected = codec.encode(torch.from_numpy(audio)).numpy()  # [3, K, T]
    tokens = open_session(graphs / "codec_encoder.onnx").run(None, {"audio": audio})[0]
    check_tokens(codec, audio, expected, tokens)
    assert (tokens == expected).mean() > 0.98 and len(np.unique(tokens)) > 20
    sound = open_session(graphs / "codec_decoder.onnx").run(None, {"tokens": expected})[0]
    with torch.no_grad():
        wanted = codec.decode(torch.from_numpy(expected)).numpy()
    assert sound.shape == (3, CONFIG.num_samples)
    np.testing.assert_allclose(sound, wanted, atol=1e-5)


def test_another_token_is_told_from_an_equally_near_one(checkpoint):
    audio = fixed_inputs("codec_encoder", CONFIG, 1)["audio"]
    codec = checkpoint.codec()
    with torch.no_grad():
        expected = codec.encode(torch.from_numpy(audio)).numpy()
    wrong = expected.copy()
    wrong[0, 1, 7] = (wrong[0, 1, 7] + 1) % CONFIG.codebook_size
    with pytest.raises(ExportError, match=r"codec_encoder gives token \d+ at \[0, 1, 7\]"):
        check_tokens(codec, audio, expected, wrong)


def test_tensorrt_rtx_builds_the_decoder(graphs):
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    library = tensorrt_rtx()
    graph = (graphs / "codec_decoder.onnx").read_bytes()
    contract = contract_of(CONFIG)["codec_decoder"]
    assert len(build_engine(library, "codec_decoder", graph, contract, max_rows=2)) > 1000
