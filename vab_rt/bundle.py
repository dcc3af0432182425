"""The bundle: one folder with a manifest, vab.json, and the ONNX graphs it vouches for.

Nothing in a folder is trusted until it has the size and the hash that the manifest gives, and what
is hashed are the very bytes that are loaded. docs/BUNDLE.md specifies the format.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec

from vab_rt.config import ClipConfig
from vab_rt.contract import GraphContract
from vab_rt.errors import BundleError
from vab_rt.kinds import (
    KINDS,
    FileEntry,
    GraphEntry,
    Manifest,
    Variant,
    contracts_of,
    kind_of,
    needed_graphs,
)
from vab_rt.manifest import COPY, EXPORT, FORMAT_VERSION, MANIFEST, decode_manifest

MAX_MANIFEST_BYTES = 1_000_000


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
        return contracts_of(self.manifest)

    @property
    def needed_graphs(self) -> list[str]:
        """Those that generating takes, in the order in which they run."""
        return needed_graphs(self.manifest)

    @property
    def stepped_graphs(self) -> tuple[str, ...]:
        """Those that run many times in a row on the same arrays."""
        return KINDS[self.manifest.kind].stepped

    def file_of(self, name: str, precision: str | None = None) -> str:
        """The file of a graph, or of its variant in that precision where there is one."""
        for variant, graphs in self.manifest.variants.items():
            if variant == precision and name in graphs:
                return graphs[name].file
        return self.manifest.graphs[name].file

    def read_graph(self, name: str, precision: str | None = None) -> bytes:
        """The bytes of a graph, hashed. Raises BundleError when they are not the manifest's."""
        return self.read_file(self.file_of(name, precision))

    def read_file(self, file: str) -> bytes:
        """The bytes of a file that the manifest lists, hashed, as in `read_graph`."""
        return _read_file(self.folder / file, self.manifest.files[file])

    def verify(self) -> None:
        """Hash every file, also those that the runtime does not load. Raises BundleError."""
        for file in self.manifest.files:
            self.read_file(file)


def open_bundle(path: str | Path | None = None, links_into: Path | None = None) -> Bundle:
    """Read and check the manifest of a bundle, and the presence and size of its files.

    path: a folder, or the name of a shipped model; None is the shipped default. links_into: a
    folder that links may lead into. Raises BundleError.
    """
    folder = _find(path)
    manifest = read_manifest(folder / MANIFEST, links_into)
    hard_links = links_into is not None or folder.parent == _shipped()
    for name, entry in manifest.files.items():
        _check_file(folder / name, entry.size_bytes, hard_links=hard_links, links_into=links_into)
    return Bundle(folder, manifest)


def read_manifest(path: Path, links_into: Path | None = None) -> Manifest:
    """The manifest in the file `path`, checked without its files. Raises BundleError."""
    size = _check_file(path, None, hard_links=True, links_into=links_into)
    if size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path} has {size} bytes, expected at most {MAX_MANIFEST_BYTES}; {COPY}")
    try:
        return decode_manifest(path, path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error


def write_manifest(
    folder: Path,
    config: ClipConfig,
    precision: str,
    licence: str,
    provenance: Mapping[str, str],
    **more: Any,
) -> Manifest:
    """Write vab.json for the graphs in `folder`, named NAME.onnx and, of a variant,
    NAME.PRECISION.onnx; the last file of an export.

    more: further keys of the manifest, such as `options`. Raises BundleError for a manifest that
    `open_bundle` would refuse.
    """
    kind = kind_of(config)
    draft = KINDS[kind].manifest(
        format_version=FORMAT_VERSION,
        kind=kind,
        model=config,
        precision=precision,  # type: ignore[arg-type]  # checked where it is decoded
        graphs={},
        files={},
        licence=licence,
        provenance=dict(provenance),
        **more,
    )
    contracts = contracts_of(draft)

    def entries(suffix: str) -> dict[str, GraphEntry]:
        present = [name for name in contracts if (folder / f"{name}{suffix}").exists()]
        return {n: GraphEntry(file=f"{n}{suffix}", contract=contracts[n]) for n in present}

    graphs = entries(".onnx")
    variants = {p: found for p in get_args(Variant) if (found := entries(f".{p}.onnx"))}
    files = [entry.file for group in (graphs, *variants.values()) for entry in group.values()]
    described = {file: _describe(folder / file) for file in files}
    content = msgspec.structs.replace(draft, graphs=graphs, variants=variants, files=described)
    return _write_manifest(folder, content)


def add_file(folder: Path, file: str) -> Manifest:
    """List a file of `folder` in the manifest there, as it is now. Raises BundleError."""
    manifest = read_manifest(folder / MANIFEST)
    files = manifest.files | {file: _describe(folder / file)}
    return _write_manifest(folder, msgspec.structs.replace(manifest, files=files))


def _write_manifest(folder: Path, content: Manifest) -> Manifest:
    encoded = msgspec.json.format(msgspec.json.encode(content), indent=2)
    path = folder / MANIFEST
    manifest = decode_manifest(path, encoded)
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


def _followed(path: Path, into: Path | None) -> Path:
    """Where a link leads that stays below `into`; any other path as it is."""
    if into is None or not path.is_symlink():
        return path
    target = path.resolve()
    return target if target.is_relative_to(into.resolve()) else path


def _check_file(
    path: Path, size_bytes: int | None, *, hard_links: bool, links_into: Path | None
) -> int:
    """The size of a regular file that is in the folder itself, or that a link into a folder that
    may be linked to leads to. Raises BundleError."""
    try:
        status = os.lstat(_followed(path, links_into))
    except OSError as error:
        if path.name == MANIFEST and isinstance(error, FileNotFoundError):
            raise BundleError(
                f"{path.parent} holds no {MANIFEST}, expected a bundle folder; check the path, or "
                f"{EXPORT}"
            ) from error
        raise BundleError(
            f"{path} cannot be found ({error.strerror}), expected a file of the bundle; {COPY}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        found = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "not a regular file"
        raise BundleError(
            f"{path} is {found}, expected a file in the folder itself; put a copy in its place"
        )
    # Package installers link shipped files from their caches; others have no reason to.
    if status.st_nlink != 1 and not hard_links:
        raise BundleError(
            f"{path} is a hard link (one of {status.st_nlink} names), expected a file with one "
            "name, which nobody else can change; put a copy in its place"
        )
    if size_bytes is not None and status.st_size != size_bytes:
        raise BundleError(
            f"{path} has {status.st_size} bytes, expected {size_bytes} as in {MANIFEST}; {COPY}"
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
            f"was changed or damaged; {COPY}"
        )
    return content


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(
        f"{path} cannot be read ({error.strerror}), expected a file of the bundle; {COPY}"
    )


def _describe(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest)
