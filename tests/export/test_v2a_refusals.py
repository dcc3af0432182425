"""Checkpoints of a V2A-Mapper that cannot be exported: one line, and nothing is written."""

import os
import re

import pytest
import torch
from torch.nn import functional as F
from v2a_checkpoints import UNET, write_tiny_v2a

from export.build_engines import main
from export.v2a_mapper.graphs import typed_v2a_module
from training.v2a_mapper.checkpoint import read_v2a_checkpoint
from vab_rt.errors import ExportError

pytest.importorskip("diffusers", reason="pip install diffusers")
pytest.importorskip("transformers", reason="pip install transformers")


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert end.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("precision", ["int8", "fp32,bf16", "fp32,fp16,fp8"])
def test_other_precisions_are_refused(tmp_path, capsys, precision):
    path = write_tiny_v2a(tmp_path / "c.pt")
    error = refusal(capsys, path, "--precision", precision)
    assert re.search("was asked for in .*, expected fp32, .* or fp32,fp16", error)
    assert os.listdir(tmp_path) == ["c.pt"]


def damaged(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def wider_null(content):
    content["null_embedding"]["text"] = F.normalize(torch.ones(30), dim=0)


def wider_unet(content):
    content["networks"]["unet"] = UNET | {"projection_class_embeddings_input_dim": 32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("null_embedding"), "has no null_embedding, expected image_encoder, mapp"),
        (wider_null, r"null_embedding: text is float32 \[30\], expected float32 \[24\]"),
        (wider_unet, "projection_class_embeddings_input_dim is 32, expected 24"),
        (lambda c: c.pop("vocoder"), "has no vocoder, expected"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, capsys, change, message):
    path = damaged(write_tiny_v2a(tmp_path / "c.pt"), change)
    error = refusal(capsys, path)
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert re.search(message, error)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("option", ["--fine", "--calibrate"])
def test_options_of_another_system_are_refused(tmp_path, capsys, option):
    torch.save({"kind": "v2a-mapper"}, tmp_path / "c.pt")
    error = refusal(capsys, tmp_path / "c.pt", option, "something")
    assert f"is of a V2A-Mapper, which has no use for {option}" in error


def test_a_weight_beyond_float16_is_refused(tmp_path):
    path = write_tiny_v2a(tmp_path / "c.pt")
    content = torch.load(path, weights_only=True)
    content["unet"]["conv_in.weight"][0, 0, 0, 0] = 1e6
    torch.save(content, path)
    with pytest.raises(
        ExportError, match=r"conv_in\.weight reaches 1e\+06, beyond float16; use --precision fp32$"
    ):
        typed_v2a_module("unet", read_v2a_checkpoint(path))
