"""Writes vab.json for the tests of the runtime, which run without the exporter."""

import hashlib
import json
from pathlib import Path
from typing import get_args

import msgspec

from vab_rt.bundle import KINDS, kind_of
from vab_rt.config import ClipConfig
from vab_rt.contract import Variant


def write_manifest(
    folder: Path, config: ClipConfig, precision: str = "fp32", **more: object
) -> None:
    """For the graphs in `folder`, named NAME.onnx and NAME.VARIANT.onnx; more: further keys."""
    kind, graphs, variants = kind_of(config), {}, {}
    content = {"format_version": 1, "kind": kind, "model": config, "precision": precision}
    content |= {"license": "Apache-2.0", "provenance": {}} | more
    draft = KINDS[kind](**content, graphs={}, files={})
    for name, contract in draft.contracts.items():
        for variant in (None, *get_args(Variant)):
            file = f"{name}.{variant}.onnx" if variant else f"{name}.onnx"
            if (folder / file).exists():
                group = variants.setdefault(variant, {}) if variant else graphs
                group[name] = {"file": file, "contract": contract}
    listed = [graph["file"] for group in (graphs, *variants.values()) for graph in group.values()]
    content |= {"graphs": graphs, "files": {file: entry_of(folder / file) for file in listed}}
    content |= {"variants": variants} if variants else {}
    save(folder, msgspec.to_builtins(content))


def add_file(folder: Path, file: str) -> None:
    """List a file in the manifest, as it is now."""
    content = json.loads((folder / "vab.json").read_text())
    content["files"][file] = entry_of(folder / file)
    save(folder, content)


def entry_of(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    return {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def save(folder: Path, content: object) -> None:
    (folder / "vab.json").write_text(json.dumps(content, indent=2))
