"""Checkpoints of a V2A-Mapper that cannot be exported: one line, and nothing is written."""

import os
import re

import pytest
import torch
from v2a_checkpoints import write_tiny_v2a

from export.build_engines import main
from export.v2a_mapper.graphs import typed_v2a_module
from training.v2a_mapper.checkpoint import read_v2a_checkpoint
from vab_rt.errors import ExportError

pytest.importorskip("diffusers", reason="pip install diffusers")
pytest.importorskip("transformers", reason="pip install transformers")


@pytest.mark.parametrize("precision", ["int8", "fp32,bf16", "fp32,fp16,fp8"])
def test_other_precisions_are_refused(tmp_path, refused, precision):
    path = write_tiny_v2a(tmp_path / "c.pt")
    error = refused(main, path, "--precision", precision)
    assert re.search("was asked for in .*, expected fp32, .* or fp32,fp16", error)
    assert os.listdir(tmp_path) == ["c.pt"]


def damaged(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, refused):
    path = damaged(write_tiny_v2a(tmp_path / "c.pt"), lambda c: c.pop("null_embedding"))
    assert "has no null_embedding, expected image_encoder, mapp" in refused(main, path)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("option", ["--fine", "--calibrate"])
def test_options_of_another_system_are_refused(tmp_path, refused, option):
    torch.save({"kind": "v2a-mapper"}, tmp_path / "c.pt")
    error = refused(main, tmp_path / "c.pt", option, "something")
    assert f"is of a V2A-Mapper, which has no use for {option}" in error


def test_a_weight_beyond_float16_is_refused(tmp_path):
    def beyond(content):
        content["unet"]["conv_in.weight"][0, 0, 0, 0] = 1e6

    path = damaged(write_tiny_v2a(tmp_path / "c.pt"), beyond)
    with pytest.raises(
        ExportError, match=r"conv_in\.weight reaches 1e\+06, beyond float16; use --precision fp32$"
    ):
        typed_v2a_module("unet", read_v2a_checkpoint(path))
