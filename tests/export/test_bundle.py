"""Checkpoint -> bundle with the command, and the rung torch -> ONNX on what it wrote."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")

import numpy as np
import torch
from checkpoints import saved_checkpoint, tiny_checkpoint, tiny_config
from numpy.typing import NDArray
from tiny_bundle import RUNTIME_GRAPHS

from export import modules
from export.build_engines import main
from export.bundle_folder import folder_beside
from export.tolerances import TOLERANCES
from export.vab_bundle import build_graph
from export.verify import (
    check_tokens,
    fixed_inputs,
    open_session,
    relative_error,
    run_torch,
    verify,
)
from vab_rt.bundle import open_bundle
from vab_rt.contract import contract_of
from vab_rt.decoding import decode_masked
from vab_rt.errors import BundleError, ExportError
from vab_rt.options import TokenOptions, Tuning
from vab_rt.sampling import sample_step

GRAPHS = (*RUNTIME_GRAPHS, "codec_encoder")


def test_the_runtime_accepts_the_bundle(bundle, checkpoint):
    opened = open_bundle(bundle)
    opened.verify()
    manifest = opened.manifest
    assert opened.config == checkpoint.config
    assert set(manifest.graphs) == set(GRAPHS)
    assert manifest.precision == "fp32"
    assert manifest.license == "Apache-2.0"
    assert manifest.provenance["data"] == "none, random weights"
    assert manifest.provenance["weights_stored_as"] == "fp32"
    assert len(manifest.provenance["checkpoint_sha256"]) == 64
    assert manifest.options == Tuning(guidance=5, mask_temperature=25.5)
    assert manifest.defaults == TokenOptions(guidance=5, mask_temperature=25.5)
    assert all(f"verified_{name}" in manifest.provenance for name in GRAPHS)
    typed = [f"{name}.{p}" for p in ("fp16", "bf16") for name in ("visual_encoder", "backbone")]
    graphs = {f"{name}.onnx" for name in (*GRAPHS, *typed)}
    assert {p.name for p in bundle.iterdir()} == {"README.md", "vab.json", *graphs}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_equals_its_module(bundle, checkpoint, name, batch):
    module = modules.graph_module(name, checkpoint, "fp32")
    inputs = fixed_inputs(name, checkpoint.config, batch)
    expected = run_torch(module, inputs)
    found = open_session(bundle / f"{name}.onnx").run(None, inputs)[0]
    output = contract_of(checkpoint.config)[name].outputs[0]
    assert found.shape == (batch, *output.shape[1:])
    assert found.dtype == output.dtype
    if name == "codec_encoder":
        check_tokens(module.codec, inputs["audio"], expected, found)
        assert (expected == found).mean() > 0.99
        assert len(np.unique(found)) > 10
    else:
        assert relative_error(expected, found) < TOLERANCES[name].relative


@pytest.mark.parametrize("name", GRAPHS)
def test_fixed_tables_are_computed_not_stored(bundle, checkpoint, name):
    """The transform's basis would take megabytes, the attention bias 0.2 MB. The codec's bands are
    tables that no formula of a graph gives."""
    module = modules.graph_module(name, checkpoint, "fp32")
    bands = ("fine", "spread", "level", "member")
    tables = [b for path, b in module.named_buffers() if path.rpartition(".")[2] in bands]
    weights = sum(p.numel() * 4 for p in module.parameters())
    codebooks = checkpoint.weights["vab"]["codebooks"].numel() * 4
    held = weights + codebooks + sum(table.numel() * 4 for table in tables)
    assert (bundle / f"{name}.onnx").stat().st_size < held + 150_000


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_holds_no_path_of_this_machine(bundle, name):
    content = (bundle / f"{name}.onnx").read_bytes()
    for trace in (b".py", str(Path.cwd()).encode(), b"site-packages"):
        assert trace not in content


def test_the_same_checkpoint_gives_the_same_bytes(bundle, checkpoint, tmp_path):
    build_graph("codec_encoder", checkpoint, tmp_path, "fp32", "fp32")
    first, second = (folder / "codec_encoder.onnx" for folder in (bundle, tmp_path))
    assert first.read_bytes() == second.read_bytes()


def test_every_step_of_a_decoding_agrees(bundle, checkpoint):
    """The reference decodes; ONNX sees the tokens it saw, and gives the logits it got."""
    config = checkpoint.config
    session = open_session(bundle / "backbone.onnx")
    module = modules.graph_module("backbone", checkpoint, "fp32")
    features = np.tile(fixed_inputs("backbone", config, 2)["features"], (2, 1, 1))
    errors: list[float] = []

    def tokens_to_logits(tokens: NDArray) -> tuple[NDArray, NDArray]:
        inputs = {
            "tokens": np.tile(tokens, (2, 1, 1)),
            "features": features,
            "conditional": np.array([1, 1, 0, 0], np.float32),
        }
        logits = run_torch(module, inputs)
        errors.append(relative_error(logits, session.run(None, inputs)[0]))
        return logits[:2], logits[2:]

    shape = (2, config.num_codebooks, config.num_token_steps)
    masked = np.full(shape, config.mask_id, np.int32)
    seeds = np.array([1, 2], np.uint64)
    *_, (step, tokens) = decode_masked(tokens_to_logits, masked, seeds, TokenOptions(), sample_step)
    assert step == 15
    assert (tokens < config.mask_id).all()
    assert len(errors) == 16
    assert max(errors) < TOLERANCES["backbone"].relative


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_of_other_weights_is_refused(bundle, name, tmp_path):
    other = saved_checkpoint(tmp_path, tiny_config(), seed=1)
    other = modules.graph_module(name, other, "fp32")
    with pytest.raises(ExportError, match="nothing was written"):
        verify(name, other, bundle / f"{name}.onnx", tiny_config())


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_of_another_shape_is_refused(bundle, checkpoint, name):
    module = modules.graph_module(name, checkpoint, "fp32")
    other = tiny_config(num_codebooks=2, visual_dim=32)
    with pytest.raises(BundleError, match=f"graph {name} of this export has the (in|out)puts"):
        verify(name, module, bundle / f"{name}.onnx", other)


def test_an_existing_folder_is_kept(bundle, checkpoint, refused):
    before = (bundle / "vab.json").read_bytes()
    assert "--force" in refused(main, checkpoint.path, "--out", bundle)
    assert (bundle / "vab.json").read_bytes() == before


def test_force_replaces_a_bundle_and_nothing_else(bundle, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(bundle, out)
    with folder_beside(out, force=True) as folder:
        (folder / "new").touch()
    assert [p.name for p in out.iterdir()] == ["new"]
    with pytest.raises(ExportError, match="remove it first"), folder_beside(out, force=True):
        pytest.fail("entered")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_in_place_of_a_checkpoint(name, refused):
    assert "is not a file, expected a .pt or .safetensors" in refused(main, name)


def test_a_failed_export_leaves_nothing(checkpoint, tmp_path, refused):
    content = tiny_checkpoint(tiny_config())
    images = content["image_encoder"]
    name = max(images, key=lambda name: images[name].numel())
    images[name].flatten()[0] = 1e6
    torch.save(content, tmp_path / "ckpt.pt")
    said = refused(main, tmp_path / "ckpt.pt", "--store", "fp16")
    assert said == f"error: {name} reaches 1e+06, beyond float16; use --store fp32\n"
    assert [p.name for p in tmp_path.iterdir()] == ["ckpt.pt"]


def test_an_interrupted_export_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), folder_beside(tmp_path / "out", False) as folder:
        (folder / "backbone.onnx").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_target_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot write to"):
        folder_beside(tmp_path / "file" / "out", False).__enter__()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["ckpt.pt", "--precision", "fp4"],
        ["ckpt.pt", "--precision", "fp16"],
        ["ckpt.pt", "--precision", "fp32,"],
        ["a.pt", "b.pt"],
        ["a.pt", "--backend", "openvino"],
        ["a.pt", "--backend", "tensorrt-rtx", "--precision", "int8"],
    ],
)
def test_usage_errors(words):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
