"""Writing vab.json, the manifest of a bundle; `vab_rt.bundle` reads it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from vab_rt.bundle import FORMAT_VERSION, KINDS, MANIFEST, decode_manifest, kind_of, read_manifest
from vab_rt.config import ClipConfig
from vab_rt.contract import FileEntry, GraphEntry, Manifest, Variant


def write_manifest(
    folder: Path,
    config: ClipConfig,
    precision: str,
    license: str,
    provenance: Mapping[str, str],
    outside: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    **more: Any,
) -> Manifest:
    """Write vab.json for the graphs in `folder`, named NAME.onnx and, of a variant,
    NAME.PRECISION.onnx; the last file of an export.

    outside: by graph, what it names and does not hold, see `GraphEntry`; not of variants. more:
    further keys of the manifest, such as `options`. Raises BundleError for a manifest that
    `open_bundle` would refuse.
    """
    kind = kind_of(config)
    draft = KINDS[kind](
        format_version=FORMAT_VERSION,
        kind=kind,
        model=config,
        precision=precision,  # checked where it is decoded
        graphs={},
        files={},
        license=license,
        provenance=dict(provenance),
        **more,
    )

    def entries(suffix: str) -> dict[str, GraphEntry]:
        present = [name for name in draft.contracts if (folder / f"{name}{suffix}").exists()]
        return {n: GraphEntry(file=f"{n}{suffix}", contract=draft.contracts[n]) for n in present}

    graphs = {
        name: msgspec.structs.replace(entry, weights=dict((outside or {}).get(name, {})))
        for name, entry in entries(".onnx").items()
    }
    variants = {p: found for p in get_args(Variant) if (found := entries(f".{p}.onnx"))}
    files = [entry.file for group in (graphs, *variants.values()) for entry in group.values()]
    described = {file: describe(folder / file) for file in files}
    content = msgspec.structs.replace(draft, graphs=graphs, variants=variants, files=described)
    return put_manifest(folder, content)


def add_file(folder: Path, file: str) -> Manifest:
    """List a file of `folder` in the manifest there, as it is now. Raises BundleError."""
    manifest = read_manifest(folder / MANIFEST)
    files = manifest.files | {file: describe(folder / file)}
    return put_manifest(folder, msgspec.structs.replace(manifest, files=files))


def put_manifest(folder: Path, content: Manifest) -> Manifest:
    encoded = msgspec.json.format(msgspec.json.encode(content), indent=2)
    manifest = decode_manifest(folder / MANIFEST, encoded)
    partial = folder / f"{MANIFEST}.part"
    partial.write_bytes(encoded + b"\n")
    partial.replace(folder / MANIFEST)
    return manifest


def describe(path: Path) -> FileEntry:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size_bytes=path.stat().st_size, sha256=digest)
