"""Arrays on disk that are written row by row, and go on where an interrupted run stopped."""

import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vab_rt.errors import OutputError

NOTES = "notes.jsonl"
REPORTS = 20


class Field(msgspec.Struct, frozen=True):
    """One of the arrays: its dtype, as numpy writes it, and the shape of a row."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


class Row(msgspec.Struct, frozen=True):
    """A row of each array, by name, and what there is to say of it in JSON."""

    arrays: dict[str, NDArray[Any]]
    notes: Any = None


def grow(
    folder: Path, fields: dict[str, Field], count: int, rows_from: Callable[[int], Iterator[Row]]
) -> Path:
    """Fill `folder` with `count` rows on first use, and return it.

    It holds NAME.npy [count, *shape] of each field, and notes.jsonl with a line a row. Until the
    last one is written it is called NAME.partial, and a later call goes on there. rows_from(first):
    the rows from number `first` on, in order. Progress goes to stderr. Raises OutputError naming
    the folder where it cannot be written.
    """
    if folder.exists():
        return folder
    partial = folder.with_name(folder.name + ".partial")
    arrays = {name: _Array(partial / f"{name}.npy", field, count) for name, field in fields.items()}
    notes = _Notes(partial / NOTES)
    try:
        partial.mkdir(parents=True, exist_ok=True)
        first = min(part.rows() for part in (*arrays.values(), notes))
        with ExitStack() as stack:
            files = {name: stack.enter_context(x.after(first)) for name, x in arrays.items()}
            lines = stack.enter_context(notes.after(first))
            for done, row in enumerate(rows_from(first), start=first + 1):
                for name, file in files.items():
                    array, field = row.arrays[name], fields[name]
                    assert (array.dtype, array.shape) == (np.dtype(field.dtype), field.shape), name
                    file.write(array.tobytes())
                lines.write(json.dumps(row.notes).encode() + b"\n")
                if done % math.ceil(count / REPORTS) == 0 or done == count:
                    print(f"{folder.name}: {done} of {count} clips", file=sys.stderr, flush=True)
        partial.rename(folder)
    except OSError as error:
        size_gb = count * sum(field.row_bytes for field in fields.values()) / 1e9
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}; expected a folder that can "
            f"be written, with {size_gb:.1f} GB free; free some or choose another"
        ) from error
    return folder


def read_grown(folder: Path, names: tuple[str, ...]) -> tuple[dict[str, NDArray[Any]], list[Any]]:
    """Arrays by name, left on disk, and the notes. Raises OSError or ValueError for damage."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    notes = [json.loads(line) for line in (folder / NOTES).read_text().splitlines()]
    if any(len(array) != len(notes) for array in arrays.values()):
        raise ValueError(f"{NOTES} has {len(notes)} lines")
    return arrays, notes


class _Array:
    """An .npy written front to back: a full disk is then an OSError, not a crash."""

    def __init__(self, path: Path, field: Field, count: int) -> None:
        header = io.BytesIO()
        facts = {"descr": field.dtype, "fortran_order": False, "shape": (count, *field.shape)}
        npy.write_array_header_1_0(header, facts)
        self.path, self.header, self.row_bytes = path, header.getvalue(), field.row_bytes

    def rows(self) -> int:
        """Those that are whole; none of a file that begins otherwise."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            if file.read(len(self.header)) != self.header:
                return 0
        return (self.path.stat().st_size - len(self.header)) // self.row_bytes

    def after(self, rows: int) -> BinaryIO:
        """The file, cut after so many rows, to go on writing."""
        if rows == 0:
            self.path.write_bytes(self.header)
        return _cut(self.path, len(self.header) + rows * self.row_bytes)


class _Notes:
    """The same of lines of text."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> int:
        return self.path.read_bytes().count(b"\n") if self.path.exists() else 0

    def after(self, rows: int) -> BinaryIO:
        self.path.touch()
        whole = self.path.read_bytes().split(b"\n")[:rows]
        return _cut(self.path, sum(len(line) + 1 for line in whole))


def _cut(path: Path, size_bytes: int) -> BinaryIO:
    file = path.open("r+b")
    file.truncate(size_bytes)
    file.seek(size_bytes)
    return file
