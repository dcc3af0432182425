"""The folder that a bundle is built in, and what is said of it."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import onnxruntime
import torch

from export.card import card_of, write_card
from export.manifest import describe
from export.modules import Store
from vab_rt.bundle import MANIFEST, open_bundle
from vab_rt.errors import ExportError


class BuiltGraph(NamedTuple):
    """One graph of the bundle; measured goes to the manifest's provenance. weights: by file, those
    that it names and does not hold."""

    name: str
    size_bytes: int
    measured: dict[str, str]
    weights: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def built_from(checkpoint: Path, store: Store) -> dict[str, str]:
    """Where a bundle comes from, for its provenance."""
    return {
        "checkpoint_sha256": describe(checkpoint).sha256,
        "exported_with": f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}",
        "weights_stored_as": store,
    }


@contextmanager
def folder_beside(out: Path, force: bool) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and is removed otherwise.

    A bundle that is written there gets a card.
    """
    if out.exists() and not (force and (out / MANIFEST).is_file()):
        hint = "remove it first" if force else "pass --force to replace a bundle"
        raise ExportError(f"{out} exists, expected a new folder; {hint}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ExportError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        yield folder
        if (folder / MANIFEST).is_file():
            write_card(folder, card_of(open_bundle(folder).manifest, {}))
        folder.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
