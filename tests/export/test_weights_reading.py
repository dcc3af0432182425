"""Damaged files of others: whatever torch and safetensors make of them is one line."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the extra `export`")

from safetensors.torch import save_file

from export.weights.reading import read_safetensors, read_torch
from training.checkpoint import read_parts
from vab_rt.errors import ExportError


def new(path: Path, weights: dict) -> None:
    torch.save({"state_dict": weights, "more": [1, 2.5, None, "x"]}, path)


def old(path: Path, weights: dict) -> None:
    torch.save({"state_dict": weights}, path, _use_new_zipfile_serialization=False)


READERS: dict[str, tuple[Callable, Callable]] = {
    "new.bin": (new, lambda path: read_torch(path, "get another")),
    "old.bin": (old, lambda path: read_torch(path, "get another")),
    "ours.pt": (new, lambda path: read_parts(path, ("state_dict",))),
    "x.safetensors": (lambda path, weights: save_file(weights, path), read_safetensors),
}


def damaged(content: bytes, count: int) -> list[bytes]:
    """Cut short at as many places, and with some bytes changed as many times."""
    drawn = random.Random(0)
    found = [content[: len(content) * i // count] for i in range(count)]
    for i in range(count):
        changed = bytearray(content)
        for _ in range(1 + i % 4):
            changed[drawn.randrange(len(changed) // (1 + i % 2))] = drawn.randrange(256)
        found.append(bytes(changed))
    return found


@pytest.mark.parametrize("name", READERS)
def test_damage_is_told_in_one_line(name, tmp_path):
    write, read = READERS[name]
    path = tmp_path / name
    write(path, {f"layer.{i}.weight": torch.ones(2, 3, i + 1) for i in range(3)})
    read(path)
    refused = []
    for content in damaged(path.read_bytes(), 60):
        path.unlink()  # what was read may lie in the file still
        path.write_bytes(content)
        try:
            read(path)  # of a changed weight nobody can tell
        except ExportError as error:
            refused.append(str(error))
    assert len(refused) >= 60 and not [text for text in refused if "\n" in text]
    assert all(str(path) in text for text in refused)
