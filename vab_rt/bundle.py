"""The bundle: one folder with a manifest, vab.json, and the ONNX graphs it vouches for.

Nothing in a folder is trusted until it has the size and the hash that the manifest gives, and what
is hashed are the very bytes that are loaded; where they lie, and under how many names, is no
matter. docs/BUNDLE.md specifies the format.
"""

import hashlib
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import msgspec

from vab_rt.config import ClipConfig
from vab_rt.contract import FileEntry, GraphContract, GraphEntry, Manifest, VabManifest
from vab_rt.errors import BundleError, VabError, reason_of
from vab_rt.paths import as_path
from vab_rt.v2a_mapper.contract import V2AManifest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Weights = dict[str, npt.NDArray[np.generic]]

KINDS: dict[str, type[Manifest]] = {"vab": VabManifest, "v2a-mapper": V2AManifest}
FORMAT_VERSION = 1
MANIFEST = "vab.json"
MAX_MANIFEST_BYTES = 1_000_000
_OLD_KEYS = {"licence": "license"}
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_EXPORT = "export the model again with: python -m export.build_engines CHECKPOINT"
_COPY = "copy the bundle again from where it came"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its manifest is sound, and every file is there at its size."""

    folder: Path
    manifest: Manifest

    @property
    def config(self) -> ClipConfig:
        return self.manifest.model

    @property
    def contracts(self) -> dict[str, GraphContract]:
        """By name, of every graph that it may hold."""
        return self.manifest.contracts

    @property
    def needed_graphs(self) -> list[str]:
        """Those that generating takes, in the order in which they run."""
        return self.manifest.needed_graphs

    def file_of(self, name: str, precision: str | None = None) -> str:
        """The file of a graph, or of its variant in that precision where there is one."""
        return self._entry_of(name, precision).file

    def _entry_of(self, name: str, precision: str | None) -> GraphEntry:
        for variant, graphs in self.manifest.variants.items():
            if variant == precision and name in graphs:
                return graphs[name]
        return self.manifest.graphs[name]

    def read_graph(self, name: str, precision: str | None = None) -> bytes:
        """The bytes of a graph, hashed. Raises BundleError when they are not the manifest's."""
        return self.read_file(self.file_of(name, precision))

    def read_weights(self, name: str, precision: str | None = None) -> "Weights":
        """What a graph lacks: tensors of files that the bundle does not hold, by the name that they
        have in both. Raises BundleError where a file is missing or another."""
        graph = self._entry_of(name, precision)
        if not graph.weights:
            return {}
        from vab_rt.weights import weights_of  # most bundles hold all that they need

        return weights_of(graph, self.manifest.weights, self.folder)

    def weights_sha256(self, name: str, precision: str | None = None) -> list[str]:
        """The digests of the files that `read_weights` reads, in their order."""
        return [self.manifest.weights[k].sha256 for k in self._entry_of(name, precision).weights]

    def read_file(self, file: str) -> bytes:
        """The bytes of a file that the manifest lists, hashed, as in `read_graph`."""
        path, entry = self.folder / file, self.manifest.files[file]
        content = _read(path, entry.size_bytes + 1)
        found = hashlib.sha256(content).hexdigest()
        if found != entry.sha256:
            raise BundleError(
                f"{path} has the sha256 {found}, expected {entry.sha256} as in {MANIFEST}: the "
                f"file was changed or damaged; {_COPY}"
            )
        return content

    def verify(self) -> None:
        """Hash every file, also those that the runtime does not load. Raises BundleError."""
        for file in self.manifest.files:
            self.read_file(file)
        for name in self.manifest.graphs:
            self.read_weights(name)


def open_bundle(path: str | Path | None = None) -> Bundle:
    """Read and check the manifest of a bundle, and the presence and size of its files.

    path: a folder, or the name of a shipped model; None is the shipped default. Raises BundleError,
    and OptionError for what is no name.
    """
    folder = _find(path)
    manifest = read_manifest(folder / MANIFEST)
    for name, entry in manifest.files.items():
        size = _size_of(folder / name)
        if size != entry.size_bytes:
            raise BundleError(
                f"{folder / name} has {size} bytes, expected {entry.size_bytes} as in {MANIFEST}; "
                f"{_COPY}"
            )
    return Bundle(folder, manifest)


def shipped_models() -> list[str]:
    """Names of the bundles that this installation holds."""
    return sorted(path.parent.name for path in _shipped().glob(f"*/{MANIFEST}"))


def _shipped() -> Path:
    return Path(__file__).resolve().parent / "bundles"


def _find(path: str | Path | None) -> Path:
    if path is None:
        path = "default"
    if isinstance(path, str) and path in shipped_models():
        return _shipped() / path
    expected = f"a bundle folder or a shipped model ({', '.join(shipped_models()) or 'none'})"
    folder = as_path("model", path, expected)
    try:
        found = "a folder" if stat.S_ISDIR(folder.stat().st_mode) else "a file"
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        found = "not there" if isinstance(error, FileNotFoundError) else f"unusable ({reason})"
    if found != "a folder":
        raise BundleError(f"model {path} is {found}, expected {expected}; check the path")
    return folder


def _size_of(path: Path) -> int:
    """The size of a regular file, itself or through links. Raises BundleError."""
    try:
        status = path.stat()
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
        raise BundleError(f"{path} is not a regular file, expected one of the bundle; {_COPY}")
    return status.st_size


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror}), expected a file of the bundle; {_COPY}"
        ) from error


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file `path`, checked without its files. Raises BundleError."""
    size = _size_of(path)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(
            f"{path} has {size} bytes, expected at most {MAX_MANIFEST_BYTES}; {_COPY}"
        )
    return decode_manifest(path, _read(path, MAX_MANIFEST_BYTES))


def decode_manifest(path: Path, encoded: bytes) -> Manifest:
    """The manifest that these bytes of `path` hold, checked as far as it goes without the files.

    Raises BundleError that names the key, what was found, and what was expected.
    """
    content = _check_head(path, encoded)
    for old, new in _OLD_KEYS.items():
        if old in content and new not in content:
            content[new] = content.pop(old)
    kind = KINDS[content["kind"]]
    try:
        manifest = msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        expected = _expected(error, kind)
        raise BundleError(f"{path}: {error}; expected {expected}; {_EXPORT}") from error
    except VabError as error:
        raise BundleError(f"{path}: {error}; {_EXPORT}") from error
    _check_graphs(path, manifest)
    for file, entry in manifest.files.items():
        _check_entry(path, file, entry)
    if manifest.weights or any(graph.weights for graph in manifest.graphs.values()):
        from vab_rt.weights import check_weights  # most bundles hold all that they need

        check_weights(path, manifest)
    return manifest


def _check_head(path: Path, encoded: bytes) -> dict[str, Any]:
    """First of all, as another version or kind may have other keys."""
    try:
        content = msgspec.json.decode(encoded, type=dict[str, Any])
        found = msgspec.convert(content.get("format_version"), int)
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
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise BundleError(
            f"{path} has the kind {kind!r}, expected one of {', '.join(KINDS)}; {_EXPORT}"
        )
    return content


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


def fields_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of each field."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def kind_of(config: ClipConfig) -> str:
    """The kind whose `model` has this type."""
    return next(name for name, kind in KINDS.items() if fields_of(kind)["model"] is type(config))


def _check_graphs(path: Path, manifest: Manifest) -> None:
    contracts, needed = manifest.contracts, manifest.needed_graphs
    missing = [name for name in needed if name not in manifest.graphs]
    if missing:
        raise BundleError(
            f"{path} has no graph {missing[0]}, expected {', '.join(needed)}; {_EXPORT}"
        )
    graphs: list[Mapping[str, GraphEntry]] = [manifest.graphs, *manifest.variants.values()]
    for name, graph in chain.from_iterable(group.items() for group in graphs):
        if name not in contracts:
            raise BundleError(
                f"{path} has a graph {name!r}, expected only {', '.join(contracts)}; {_EXPORT}"
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
