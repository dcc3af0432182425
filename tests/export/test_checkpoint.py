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

from training.checkpoint import PARTS, read_checkpoint
from vab_rt.errors import ExportError


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return tiny_checkpoint(tiny_config())


def written(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def changed(content: dict[str, Any], part: str, name: str, value: Any) -> dict[str, Any]:
    return content | {part: content[part] | {name: value}}


def test_pt_round_trip(content: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = read_checkpoint(written(content, tmp_path / "ckpt.pt"))
    assert checkpoint.config == tiny_config()
    assert checkpoint.header.licence == "Apache-2.0"
    vab = checkpoint.vab()
    assert not vab.training
    assert torch.equal(vab.codebooks, checkpoint.codec().codebooks)
    assert torch.equal(vab.heads.weight, content["vab"]["heads.weight"])


def test_a_checkpoint_whose_codebooks_share_a_projection_computes_as_it_did(
    content: dict[str, Any], tmp_path: Path
) -> None:
    config, own = tiny_config(), content["vab"]["audio_in.weight"]
    shared = own[:, : config.code_dim].clone()  # [D, code_dim], as it was before
    old = changed(content, "vab", "audio_in.weight", shared)
    vab = read_checkpoint(written(old, tmp_path / "ckpt.pt")).vab()
    tokens = torch.randint(0, config.codebook_size, (2, 3, config.num_token_steps))
    each = [torch.nn.functional.embedding(tokens[:, k], vab.codebooks[k]) for k in range(3)]
    expected = sum(each) @ shared.T + vab.audio_in.bias + vab.modality[1]
    torch.testing.assert_close(vab.embed(tokens, None, None), expected, rtol=1e-4, atol=1e-4)


def test_safetensors_holds_the_same(content: dict[str, Any], tmp_path: Path) -> None:
    header = {key: value for key, value in content.items() if key not in PARTS}
    tensors = {f"{part}.{name}": t for part in PARTS for name, t in content[part].items()}
    save_file(tensors, tmp_path / "ckpt.safetensors", {"checkpoint": json.dumps(header)})
    checkpoint = read_checkpoint(tmp_path / "ckpt.safetensors")
    assert checkpoint.config == tiny_config()
    for part in PARTS:
        assert checkpoint.weights[part].keys() == content[part].keys()
        for name, tensor in content[part].items():
            assert torch.equal(checkpoint.weights[part][name], tensor)


class Payload:
    """What a hostile pickle holds: its __reduce__ would run on load."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_pickle_with_code_is_refused_and_not_run(content: dict[str, Any], tmp_path: Path) -> None:
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
def test_files_that_are_no_checkpoints(
    tmp_path: Path, name: str, data: bytes | None, message: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ExportError, match=message) as error:
        read_checkpoint(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_truncated_file(content: dict[str, Any], tmp_path: Path) -> None:
    path = written(content, tmp_path / "ckpt.pt")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ExportError, match="cannot be read as a torch file"):
        read_checkpoint(path)


def test_safetensors_without_the_header(tmp_path: Path) -> None:
    save_file({"vab.x": torch.zeros(1)}, tmp_path / "ckpt.safetensors")
    with pytest.raises(ExportError, match="no JSON object under `checkpoint`"):
        read_checkpoint(tmp_path / "ckpt.safetensors")


def test_a_tensor_instead_of_a_dict(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="holds a Tensor, expected a dict"):
        read_checkpoint(written(torch.zeros(1), tmp_path / "ckpt.pt"))


def test_unknown_and_missing_names_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    with pytest.raises(ExportError, match="unknown field `epoch`"):
        read_checkpoint(written(content | {"epoch": 3}, path))
    with pytest.raises(ExportError, match="missing required field `licence`"):
        read_checkpoint(written({k: v for k, v in content.items() if k != "licence"}, path))
    with pytest.raises(ExportError, match="codec is missing"):
        read_checkpoint(written({k: v for k, v in content.items() if k != "codec"}, path))
    with pytest.raises(ExportError, match="unknown field `depth`.*config"):
        read_checkpoint(written(changed(content, "config", "depth", 3), path))
    with pytest.raises(ExportError, match="vab is not a state_dict"):
        read_checkpoint(written(changed(content, "vab", "norm.weight", 3), path))


def test_weights_that_do_not_fit_the_config(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    wide = read_checkpoint(written(changed(content, "config", "width", 64), path))
    with pytest.raises(ExportError, match=r"vab: \S+ is float32 \[.*expected float32 \["):
        wide.vab()
    deep = read_checkpoint(written(changed(content, "config", "layers", 4), path))
    with pytest.raises(ExportError, match=r"vab: layers.3.audio.contract.weight is missing"):
        deep.vab()
    extra = read_checkpoint(written(changed(content, "vab", "head", torch.zeros(1)), path))
    with pytest.raises(ExportError, match="vab: 'head' is unexpected"):
        extra.vab()


def test_weights_that_are_not_finite(content: dict[str, Any], tmp_path: Path) -> None:
    broken = content["vab"]["norm.weight"].clone()
    broken[5] = float("nan")
    path = written(changed(content, "vab", "norm.weight", broken), tmp_path / "ckpt.pt")
    with pytest.raises(ExportError, match="norm.weight holds NaN"):
        read_checkpoint(path).vab()


def test_a_model_trained_on_other_codebooks(content: dict[str, Any], tmp_path: Path) -> None:
    other = content["vab"]["codebooks"] + 1
    path = written(changed(content, "vab", "codebooks", other), tmp_path / "ckpt.pt")
    with pytest.raises(ExportError, match="codebooks of vab are not those of codec"):
        read_checkpoint(path).vab()
