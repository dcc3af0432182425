"""The bundle: one folder with a manifest, vab.json, and the ONNX graphs it vouches for.

Nothing in a folder is trusted until it has the size and the hash that the manifest gives, and what
is hashed are the very bytes that are loaded. docs/BUNDLE.md specifies the format.
"""

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import msgspec

from vab_rt.config import ModelConfig
from vab_rt.contract import GRAPHS, RUNTIME_GRAPHS, GraphContract, Tensor, contract_of
from vab_rt.errors import BundleError

FORMAT_VERSION = 1
MANIFEST = "vab.json"
MAX_MANIFEST_BYTES = 1_000_000
Variant = Literal["fp32", "fp16", "bf16"]
"""What graphs beside the main ones compute in, for devices that run them better."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_EXPORT = "export the model again with: python -m export.build_engines CHECKPOINT"
_COPY = "copy the bundle again from where it came"


class GraphEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One graph: its file, and its inputs and outputs."""

    file: str
    contract: GraphContract


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file must be. sha256: 64 lower-case hexadecimal digits."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The content of vab.json."""

    format_version: int
    kind: Literal["vab"]
    model: ModelConfig
    precision: Literal["fp32", "int8"]
    graphs: dict[str, GraphEntry]
    variants: dict[Variant, dict[str, GraphEntry]] = {}
    files: dict[str, FileEntry]
    licence: str
    provenance: dict[str, str]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest is sound, and every file is there at its size."""

    folder: Path
    manifest: Manifest

    @property
    def config(self) -> ModelConfig:
        return self.manifest.model

    def file_of(self, name: str, precision: str | None = None) -> str:
        """The file of a graph, or of its variant in that precision where there is one."""
        for variant, graphs in self.manifest.variants.items():
            if variant == precision and name in graphs:
                return graphs[name].file
        return self.manifest.graphs[name].file

    def read_graph(self, name: str, precision: str | None = None) -> bytes:
        """The bytes of a graph, hashed. Raises BundleError when they are not the manifest's."""
        file = self.file_of(name, precision)
        return _read_file(self.folder / file, self.manifest.files[file])

    def verify(self) -> None:
        """Hash every file, also those that the runtime does not load. Raises BundleError."""
        for file, entry in self.manifest.files.items():
            _read_file(self.folder / file, entry)


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Read and check the manifest of a bundle, and the presence and size of its files.

    path: a folder, or the name of a shipped model; None is the shipped default. Raises BundleError.
    """
    folder = _find(path)
    manifest = _read_manifest(folder / MANIFEST)
    _check_manifest(folder / MANIFEST, manifest)
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry.size_bytes, allow_links=folder.parent == _shipped())
    return Bundle(folder, manifest)


def write_manifest(
    folder: Path,
    config: ModelConfig,
    precision: str,
    licence: str,
    provenance: Mapping[str, str],
) -> Manifest:
    """Write vab.json for the graphs in `folder`, named NAME.onnx and, of a variant,
    NAME.PRECISION.onnx; the last file of an export.

    Raises BundleError for a manifest that `open_bundle` would refuse.
    """
    contracts = contract_of(config)

    def entries(suffix: str) -> dict[str, GraphEntry]:
        present = [name for name in GRAPHS if (folder / f"{name}{suffix}").exists()]
        return {n: GraphEntry(file=f"{n}{suffix}", contract=contracts[n]) for n in present}

    graphs = entries(".onnx")
    variants = {p: found for p in get_args(Variant) if (found := entries(f".{p}.onnx"))}
    files = [entry.file for group in (graphs, *variants.values()) for entry in group.values()]
    content = {
        "format_version": FORMAT_VERSION,
        "kind": "vab",
        "model": config,
        "precision": precision,
        "graphs": graphs,
        "variants": variants,
        "files": {file: _describe(folder / file) for file in files},
        "licence": licence,
        "provenance": dict(provenance),
    }
    path = folder / MANIFEST
    encoded = msgspec.json.format(msgspec.json.encode(content), indent=2)
    manifest = _decode_manifest(path, encoded)
    _check_manifest(path, manifest)
    partial = folder / f"{MANIFEST}.part"
    partial.write_bytes(encoded + b"\n")
    partial.replace(path)
    return manifest


def shipped_models() -> list[str]:
    """Names of the bundles that this installation holds."""
    folder = _shipped()
    return sorted(p.parent.name for p in folder.glob(f"*/{MANIFEST}"))


def _shipped() -> Path:
    return Path(__file__).resolve().parent / "bundles"


def _find(path: str | Path | None) -> Path:
    if path is None:
        path = "default"
    if isinstance(path, str) and path in shipped_models():
        return _shipped() / path
    folder = Path(path)
    try:
        found = "a folder" if stat.S_ISDIR(folder.stat().st_mode) else "a file"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        found = "not there" if isinstance(error, FileNotFoundError) else f"unusable ({reason})"
    if found != "a folder":
        names = ", ".join(shipped_models()) or "none"
        raise BundleError(
            f"model {path} is {found}, expected a bundle folder or a shipped model ({names}); "
            "check the path"
        )
    return folder


def _read_manifest(path: Path) -> Manifest:
    size = _check_file(path, None, allow_links=True)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{path} has {size} bytes, expected at most {MAX_MANIFEST_BYTES}; {_COPY}"
        )
    try:
        return _decode_manifest(path, path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error


def _decode_manifest(path: Path, content: bytes) -> Manifest:
    _check_version(path, content)
    try:
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(f"{path}: {error}; expected {_expected(error)}; {_EXPORT}") from error
    except BundleError as error:
        raise BundleError(f"{path}: {error}; {_EXPORT}") from error


class _Version(msgspec.Struct):
    format_version: int


def _check_version(path: Path, content: bytes) -> None:
    """First of all, as another version may have other keys."""
    try:
        found = msgspec.json.decode(content, type=_Version).format_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{path} is not a manifest ({error}), expected JSON with a format_version; {_COPY}"
        ) from error
    if found != FORMAT_VERSION:
        what = "upgrade with: pip install --upgrade vab-rt" if found > FORMAT_VERSION else _EXPORT
        raise BundleError(
            f"{path} has format_version {found}, expected {FORMAT_VERSION}, the only one that "
            f"this version reads; {what}"
        )


_STRUCTS: dict[str, type[msgspec.Struct]] = {
    "$": Manifest,
    "$.model": ModelConfig,
    "$.graphs[...]": GraphEntry,
    "$.graphs[...].contract": GraphContract,
    "$.graphs[...].contract.inputs[...]": Tensor,
    "$.graphs[...].contract.outputs[...]": Tensor,
    "$.variants[...][...]": GraphEntry,
    "$.variants[...][...].contract": GraphContract,
    "$.variants[...][...].contract.inputs[...]": Tensor,
    "$.variants[...][...].contract.outputs[...]": Tensor,
    "$.files[...]": FileEntry,
}


def _expected(error: msgspec.ValidationError) -> str:
    """The keys allowed, or the type of the value, at the place where decoding stopped."""
    where = re.search(r"at `(.*)`$", str(error))
    place = re.sub(r"\[\d+\]", "[...]", where[1]) if where else "$"
    if place in _STRUCTS:
        return "the keys " + ", ".join(_STRUCTS[place].__struct_fields__)
    parent, _, key = place.rpartition(".")
    types = {f.name: f.type for f in msgspec.structs.fields(_STRUCTS.get(parent, Manifest))}
    options = getattr(types.get(key), "__args__", None)
    return f"one of {', '.join(map(str, options))}" if options else "a value of that type"


def _check_manifest(path: Path, manifest: Manifest) -> None:
    contracts = contract_of(manifest.model)
    missing = [name for name in RUNTIME_GRAPHS if name not in manifest.graphs]
    if missing:
        raise BundleError(
            f"{path} has no graph {missing[0]}, expected {', '.join(RUNTIME_GRAPHS)}; {_EXPORT}"
        )
    graphs = [manifest.graphs, *manifest.variants.values()]
    for name, graph in chain.from_iterable(group.items() for group in graphs):
        if name not in contracts:
            raise BundleError(
                f"{path} has a graph {name!r}, expected only {', '.join(GRAPHS)}; {_EXPORT}"
            )
        if graph.contract != contracts[name]:
            raise BundleError(
                f"{path}: the contract of graph {name} is {graph.contract}, expected "
                f"{contracts[name]} for this model; {_EXPORT}"
            )
        if graph.file not in manifest.files:
            raise BundleError(
                f"{path}: graph {name} is in {graph.file!r}, expected a name listed under files "
                f"({', '.join(manifest.files)}); {_EXPORT}"
            )
    for file, entry in manifest.files.items():
        _check_entry(path, file, entry)


def _check_entry(path: Path, file: str, entry: FileEntry) -> None:
    if not _FILE_NAME.fullmatch(file) or file == MANIFEST:
        raise BundleError(
            f"{path} names the file {file!r}, expected a plain name inside the folder (letters, "
            "digits, '.', '_', '-', not first a '.'); do not use this bundle"
        )
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256) or entry.size_bytes < 1:
        raise BundleError(
            f"{path}: {file} has size_bytes {entry.size_bytes} and sha256 {entry.sha256!r}, "
            f"expected at least 1 and 64 hexadecimal digits; {_EXPORT}"
        )


def _check_file(path: Path, size_bytes: int | None, *, allow_links: bool) -> int:
    """The size of a regular file that is in the folder itself. Raises BundleError."""
    try:
        status = os.lstat(path)
    except OSError as error:
        if path.name == MANIFEST and isinstance(error, FileNotFoundError):
            raise BundleError(
                f"{path.parent} holds no {MANIFEST}, expected a bundle folder; check the path, or "
                f"{_EXPORT}"
            ) from error
        raise BundleError(
            f"{path} cannot be found ({error.strerror}), expected a file of the bundle; {_COPY}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        found = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
        raise BundleError(
            f"{path} is {found}, expected a file in the folder itself; put a copy in its place"
        )
    # Package installers link shipped files from their caches; others have no reason to.
    if status.st_nlink != 1 and not allow_links:
        raise BundleError(
            f"{path} is a hard link (one of {status.st_nlink} names), expected a file with one "
            "name, which nobody else can change; put a copy in its place"
        )
    if size_bytes is not None and status.st_size != size_bytes:
        raise BundleError(
            f"{path} has {status.st_size} bytes, expected {size_bytes} as in {MANIFEST}; {_COPY}"
        )
    return status.st_size


def _read_file(path: Path, entry: FileEntry) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(entry.size_bytes + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise BundleError(
            f"{path} has the sha256 {found}, expected {entry.sha256} as in {MANIFEST}: the file "
            f"was changed or damaged; {_COPY}"
        )
    return content


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be read ({error.strerror}), expected a file of the bundle; {_COPY}"
    )


def _describe(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest)
