"""Checkpoints are read without running code, and refused when they do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")
pytest.importorskip("safetensors", reason="the exporter needs the extra `export`")

import torch
from checkpoints import tiny_checkpoint, tiny_config
from safetensors.torch import save_file
from weight_files import Payload

from training.checkpoint import PARTS, read_checkpoint
from vab_rt.errors import ExportError


@pytest.fixture(scope="module")
def content():
    return tiny_checkpoint(tiny_config())


def written(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def test_pt_round_trip(content, tmp_path):
    checkpoint = read_checkpoint(written(content, tmp_path / "ckpt.pt"))
    assert checkpoint.config == tiny_config()
    assert checkpoint.header.license == "Apache-2.0"
    vab = checkpoint.vab()
    assert not vab.training
    assert torch.equal(vab.codebooks, checkpoint.codec().codebooks)
    assert torch.equal(vab.heads.weight, content["vab"]["heads.weight"])


def test_a_checkpoint_whose_codebooks_share_a_projection_computes_as_it_did(content, tmp_path):
    config, own = tiny_config(), content["vab"]["audio_in.weight"]
    shared = own[:, : config.code_dim].clone()  # [D, code_dim], as it was before
    old = replaced("vab", "audio_in.weight", by=shared)(content)
    vab = read_checkpoint(written(old, tmp_path / "ckpt.pt")).vab()
    tokens = torch.randint(0, config.codebook_size, (2, 3, config.num_token_steps))
    each = [torch.nn.functional.embedding(tokens[:, k], vab.codebooks[k]) for k in range(3)]
    expected = sum(each) @ shared.T + vab.audio_in.bias + vab.modality[1]
    torch.testing.assert_close(vab.embed(tokens, None, None), expected, rtol=1e-4, atol=1e-4)


def test_the_key_of_older_checkpoints_is_read(content, tmp_path):
    old = {"licence" if key == "license" else key: value for key, value in content.items()}
    assert read_checkpoint(written(old, tmp_path / "ckpt.pt")).header.license == "Apache-2.0"


def test_safetensors_holds_the_same(content, tmp_path):
    header = {key: value for key, value in content.items() if key not in PARTS}
    tensors = {f"{part}.{name}": t for part in PARTS for name, t in content[part].items()}
    save_file(tensors, tmp_path / "ckpt.safetensors", {"checkpoint": json.dumps(header)})
    checkpoint = read_checkpoint(tmp_path / "ckpt.safetensors")
    assert checkpoint.config == tiny_config()
    for part in PARTS:
        assert checkpoint.weights[part].keys() == content[part].keys()
        for name, tensor in content[part].items():
            assert torch.equal(checkpoint.weights[part][name], tensor)


def test_a_pickle_with_code_is_refused_and_not_run(content, tmp_path):
    path = written(content | {"provenance": Payload(tmp_path / "ran")}, tmp_path / "ckpt.pt")
    with pytest.raises(ExportError, match="could run code"):
        read_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.pt", None, "is not a file"),
        ("ckpt.onnx", b"x", "ends in '.onnx', expected .pt or .safetensors"),
        ("text.pt", b"not a checkpoint", "could run code|cannot be read"),
        ("empty.pt", b"", r"cannot be read as a torch file \((?!mmap).*expected a whole one"),
        ("text.safetensors", b"not a checkpoint", "cannot be read as safetensors"),
        ("empty.safetensors", b"", "cannot be read as safetensors"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, name, data, message):
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ExportError, match=message) as error:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_truncated_file(content, tmp_path):
    path = written(content, tmp_path / "ckpt.pt")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ExportError, match="cannot be read as a torch file"):
        read_checkpoint(path)


def test_safetensors_without_the_header(tmp_path):
    save_file({"vab.x": torch.zeros(1)}, tmp_path / "ckpt.safetensors")
    with pytest.raises(ExportError, match="no JSON object under `checkpoint`"):
        read_checkpoint(tmp_path / "ckpt.safetensors")


def replaced(*keys, by):
    """A change of a content: the value under these keys; None takes it away."""

    def change(content):
        first, *rest = keys
        inner = replaced(*rest, by=by)(content[first]) if rest else by
        others = {key: value for key, value in content.items() if key != first}
        return others if inner is None else others | {first: inner}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: torch.zeros(1), "holds a Tensor, expected a dict"),
        (replaced("epoch", by=3), "unknown field `epoch`"),
        (replaced("license", by=None), "missing required field `license`"),
        (replaced("codec", by=None), "codec is missing"),
        (replaced("config", "depth", by=3), "unknown field `depth`.*config"),
        (replaced("vab", "norm.weight", by=3), "vab is not a state_dict"),
    ],
)
def test_what_is_unknown_or_missing_is_named(content, tmp_path, change, message):
    with pytest.raises(ExportError, match=message):
        read_checkpoint(written(change(content), tmp_path / "ckpt.pt"))


def nan_in(content):
    broken = content["vab"]["norm.weight"].clone()
    broken[5] = float("nan")
    return replaced("vab", "norm.weight", by=broken)(content)


def other_codebooks(content):
    return replaced("vab", "codebooks", by=content["vab"]["codebooks"] + 1)(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("config", "width", by=64), r"vab: \S+ is float32 \[.*expected float32 \["),
        (replaced("config", "layers", by=4), r"vab: layers.3.audio.contract.weight is missing"),
        (replaced("vab", "head", by=torch.zeros(1)), "vab: 'head' is unexpected"),
        (nan_in, "norm.weight holds NaN"),
        (other_codebooks, "codebooks of vab are not those of codec"),
    ],
)
def test_weights_that_do_not_fit_are_refused(content, tmp_path, change, message):
    checkpoint = read_checkpoint(written(change(content), tmp_path / "ckpt.pt"))
    with pytest.raises(ExportError, match=message):
        checkpoint.vab()
