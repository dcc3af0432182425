"""Files of tensors and arrays that appear whole or not at all."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vab_rt.errors import first_line
from vab_rt.output import whole_file, writing

DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError),
    *(OSError, RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile),
)
"""What torch.load raises for a file that was cut short or changed, besides UnpicklingError."""
OLD_KEYS = {"licence": "license"}
OF_ZIP_WRITER = ("inline_container", "PytorchStreamWriter")


def save_whole(path: Path, content: dict[str, Any]) -> None:
    """torch.save beside `path`, which is replaced by it. Raises OutputError."""
    with whole_file(path, force=True) as beside, writing(path):
        try:
            torch.save(content, beside)
        except RuntimeError as error:
            if not any(name in str(error) for name in OF_ZIP_WRITER):
                raise  # of a GPU, not of a full disk
            raise OSError(first_line(error)) from error


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all. Raises OutputError."""
    with whole_file(path, force=True) as part, writing(path):
        part.write_bytes(data)


def arrays_once(
    path: Path | None, make: Callable[[], dict[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """The arrays in `path`, an .npz that is made on first use, and again where it is damaged.

    None: made, and not kept. Raises OutputError.
    """
    if path is not None and path.exists():
        try:
            with np.load(path, allow_pickle=False) as kept:
                return dict(kept)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            pass
    arrays = make()
    if path is not None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, force=True) as part, writing(path), part.open("wb") as file:
            np.savez(file, **arrays)
    return arrays


def with_new_keys(content: dict[str, Any]) -> dict[str, Any]:
    """What a file holds, under the keys of today: `license` was `licence` once."""
    return {OLD_KEYS.get(key, key): value for key, value in content.items()}
