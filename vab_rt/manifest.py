"""The manifest, vab.json: read, and refused where it does not fit; docs/BUNDLE.md specifies it."""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from vab_rt.errors import BundleError, VabError
from vab_rt.kinds import (
    KINDS,
    FileEntry,
    GraphEntry,
    Kind,
    Manifest,
    contracts_of,
    fields_of,
    needed_graphs,
)

FORMAT_VERSION = 1
MANIFEST = "vab.json"
EXPORT = "export the model again with: python -m export.build_engines CHECKPOINT"
COPY = "copy the bundle again from where it came"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def decode_manifest(path: Path, content: bytes) -> Manifest:
    """The manifest that these bytes of `path` hold, checked as far as it goes without the files.

    Raises BundleError that names the key, what was found, and what was expected.
    """
    kind = _check_head(path, content)
    try:
        manifest = msgspec.json.decode(content, type=kind.manifest)
    except msgspec.ValidationError as error:
        expected = _expected(error, kind.manifest)
        raise BundleError(f"{path}: {error}; expected {expected}; {EXPORT}") from error
    except VabError as error:
        raise BundleError(f"{path}: {error}; {EXPORT}") from error
    _check_graphs(path, manifest)
    for file, entry in manifest.files.items():
        _check_entry(path, file, entry)
    return manifest


class _Version(msgspec.Struct):
    format_version: int


class _Kind(msgspec.Struct):
    kind: str


def _check_head(path: Path, content: bytes) -> Kind:
    """First of all, as another version or kind may have other keys."""
    try:
        found = msgspec.json.decode(content, type=_Version).format_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{path} is not a manifest ({error}), expected JSON with a format_version; {COPY}"
        ) from error
    if found != FORMAT_VERSION:
        what = "upgrade with: pip install --upgrade vab-rt" if found > FORMAT_VERSION else EXPORT
        raise BundleError(
            f"{path} has format_version {found}, expected {FORMAT_VERSION}, the only one that "
            f"this version reads; {what}"
        )
    kinds = f"one of {', '.join(KINDS)}"
    try:
        name = msgspec.json.decode(content, type=_Kind).kind
    except msgspec.ValidationError as error:
        raise BundleError(f"{path}: {error}; expected {kinds}; {EXPORT}") from error
    if name not in KINDS:
        raise BundleError(f"{path} has the kind {name!r}, expected {kinds}; {EXPORT}")
    return KINDS[name]


def _expected(error: msgspec.ValidationError, manifest: type[Manifest]) -> str:
    """The keys allowed, or the type of the value, at the place where decoding stopped."""
    where = re.search(r"at `\$(.*)`$", str(error))
    kind: Any = manifest
    for key in re.findall(r"\.(\w+)|\[", where[1] if where else ""):
        kind = fields_of(kind)[key] if key else _struct_in(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        kind = _struct_in(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "the keys " + ", ".join(kind.__struct_fields__)
    is_choice = get_origin(kind) is Literal
    return f"one of {', '.join(get_args(kind))}" if is_choice else "a value of that type"


def _struct_in(choices: tuple[Any, ...]) -> Any:
    """What an element of a container is, or an optional value that is there."""
    return next(kind for kind in reversed(choices) if kind not in (..., type(None)))


def _check_graphs(path: Path, manifest: Manifest) -> None:
    contracts, needed = contracts_of(manifest), needed_graphs(manifest)
    missing = [name for name in needed if name not in manifest.graphs]
    if missing:
        raise BundleError(
            f"{path} has no graph {missing[0]}, expected {', '.join(needed)}; {EXPORT}"
        )
    graphs: list[Mapping[str, GraphEntry]] = [manifest.graphs, *manifest.variants.values()]
    for name, graph in chain.from_iterable(group.items() for group in graphs):
        if name not in contracts:
            raise BundleError(
                f"{path} has a graph {name!r}, expected only {', '.join(contracts)}; {EXPORT}"
            )
        if graph.contract != contracts[name]:
            raise BundleError(
                f"{path}: the contract of graph {name} is {graph.contract}, expected "
                f"{contracts[name]} for this model; {EXPORT}"
            )
        if graph.file not in manifest.files:
            raise BundleError(
                f"{path}: graph {name} is in {graph.file!r}, expected a name listed under files "
                f"({', '.join(manifest.files)}); {EXPORT}"
            )


def _check_entry(path: Path, file: str, entry: FileEntry) -> None:
    if not _FILE_NAME.fullmatch(file) or file == MANIFEST:
        raise BundleError(
            f"{path} names the file {file!r}, expected a plain name inside the folder (letters, "
            "digits, '.', '_', '-', not first a '.'); do not use this bundle"
        )
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256) or entry.size_bytes < 1:
        raise BundleError(
            f"{path}: {file} has size_bytes {entry.size_bytes} and sha256 {entry.sha256!r}, "
            f"expected at least 1 and 64 hexadecimal digits; {EXPORT}"
        )
