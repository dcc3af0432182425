"""Files that others wrote: tensors and configs, read without running what is in them."""

import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.saving import DAMAGE
from vab_rt.errors import ExportError, first_line

MAX_JSON_BYTES = 10_000_000


def read_torch(path: Path, advice: str) -> dict[str, Any]:
    """A pickle of torch, of tensors and plain values alone: nothing else is ever called.

    The allow-list is torch's own of weights_only. advice: what to do about a file that holds more.
    Raises ExportError.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise _damaged(path, "torch", error) from error
        raise ExportError(
            f"{path} holds {found[1]}, which only running the file's code could read, expected "
            f"tensors and plain values; nothing was run: {advice}"
        ) from error
    except DAMAGE as error:
        raise _damaged(path, "torch", error) from error
    if not isinstance(content, dict):
        raise ExportError(
            f"{path} holds a {type(content).__name__}, expected names and values in a dict; "
            f"{advice}"
        )
    return content


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Raises ExportError."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise _damaged(path, "safetensors", error) from error


def read_tensors(path: Path, advice: str) -> dict[str, Tensor]:
    """Names and tensors of a .safetensors file, else of a torch file, also under `state_dict`."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    content = read_torch(path, advice)
    return tensors_of(path, content.get("state_dict", content))


def tensors_of(where: object, content: Any) -> dict[str, Tensor]:
    """content, if it is names and tensors. Raises ExportError."""
    if isinstance(content, dict) and content:
        if all(isinstance(tensor, Tensor) for tensor in content.values()):
            return dict(content)
        other = next(name for name, x in content.items() if not isinstance(x, Tensor))
        raise ExportError(
            f"{where} holds a {type(content[other]).__name__} under {other!r}, expected tensors "
            "alone; it is not a file of weights"
        )
    raise ExportError(f"{where} holds no names with tensors, expected the weights of a model")


def read_json(path: Path) -> dict[str, Any]:
    """Raises ExportError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes")
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, "JSON", error) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} holds a {type(content).__name__}, expected a JSON object")
    return content


def first_file(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of names that is in the folder. Raises ExportError."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise ExportError(
        f"{folder} holds none of {', '.join(names)}, expected one of them with all of the weights; "
        "copy the folder again from where it came"
    )


def _damaged(path: Path, kind: str, error: Exception) -> ExportError:
    says_little = isinstance(error, LookupError | AssertionError)
    reason = type(error).__name__ if says_little else first_line(error)
    return ExportError(
        f"{path} cannot be read as {kind} ({reason}), expected a whole file of it; copy it again "
        "from where it came"
    )
