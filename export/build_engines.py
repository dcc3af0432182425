"""Checkpoint to bundle in one command: `python -m export.build_engines ckpt.pt`."""

import argparse
import hashlib
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from export import onnx_graphs, verify
from export.modules import Store, graph_module
from training.checkpoint import Checkpoint, read_checkpoint
from vab_rt.bundle import MANIFEST, write_manifest
from vab_rt.config import ModelConfig
from vab_rt.contract import GRAPHS, contract_of
from vab_rt.errors import ExportError, VabError

Precision = Literal["fp32", "int8"]


class BuiltGraph(NamedTuple):
    """One graph of the bundle; measured goes to the manifest's provenance."""

    name: str
    size_bytes: int
    measured: dict[str, str]


def build_bundle(
    checkpoint: Checkpoint, out: Path, precision: Precision, store: Store, force: bool = False
) -> Iterator[BuiltGraph]:
    """Export, verify and write every graph of `checkpoint`, one at a time, to the folder `out`.

    `out` appears when all of it is there. Raises ExportError.
    """
    provenance = dict(checkpoint.header.provenance) | built_from(checkpoint, store)
    with folder_beside(out, force) as folder:
        for name in GRAPHS:
            graph = build_graph(name, checkpoint, folder, precision, store)
            provenance |= graph.measured
            yield graph
        write_manifest(
            folder,
            checkpoint.config,
            precision=precision,
            licence=checkpoint.header.licence,
            provenance=provenance,
        )


def build_graph(
    name: str, checkpoint: Checkpoint, folder: Path, precision: Precision, store: Store
) -> BuiltGraph:
    """Export one graph to `folder`/NAME.onnx and compare it with torch."""
    path = folder / f"{name}.onnx"
    module = graph_module(name, checkpoint, store)
    model = onnx_graphs.trace(module, contract_of(checkpoint.config)[name])
    if name == "backbone" and precision == "int8":
        measured = write_int8(name, module, model, path, checkpoint.config, store)
    else:
        measured = write_exact(name, module, model, path, checkpoint.config, store)
    if name == "backbone" and store == "fp16":
        unrounded = graph_module(name, checkpoint, "fp32")
        inputs = verify.fixed_inputs(name, checkpoint.config, batch=1)
        loss = verify.measure_loss(*(verify.run_torch(m, inputs) for m in (unrounded, module)))
        measured["fp16_storage"] = str(loss)
    return BuiltGraph(name, path.stat().st_size, measured)


def write_exact(
    name: str, module: nn.Module, model: ir.Model, path: Path, config: ModelConfig, store: Store
) -> dict[str, str]:
    if store == "fp16":
        onnx_graphs.store_half(model)
    onnx_graphs.save(model, path)
    error = verify.verify(name, module, path, config)
    return {f"verified_{name}": f"{error:.1e} off torch" if error else "equal to torch"}


def write_int8(
    name: str, module: nn.Module, model: ir.Model, path: Path, config: ModelConfig, store: Store
) -> dict[str, str]:
    """Verify the exact graph, write its int8 version, and measure what that loses and gains."""
    exact = path.with_suffix(".exact")
    measured = write_exact(name, module, model, exact, config, store="fp32")
    quantised = onnx_graphs.quantise(exact)
    if store == "fp16":
        onnx_graphs.store_half(quantised)
    onnx_graphs.save(quantised, path)
    inputs = verify.fixed_inputs(name, config, batch=2)
    sessions = verify.open_session(exact), verify.open_session(path)
    loss = verify.measure_loss(*(session.run(None, inputs)[0] for session in sessions))
    verify.check_error("int8", loss.relative_error)
    before_s, after_s = (verify.seconds_per_run(session, inputs) for session in sessions)
    exact.unlink()
    return measured | {"int8": f"{loss}; a step takes {after_s:.3f} s, {before_s:.3f} s in fp32"}


def built_from(checkpoint: Checkpoint, store: Store) -> dict[str, str]:
    with checkpoint.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "checkpoint_sha256": digest,
        "exported_with": f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}",
        "weights_stored_as": store,
    }


@contextmanager
def folder_beside(out: Path, force: bool) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and is removed otherwise."""
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
        folder.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m export.build_engines", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help=".pt or .safetensors, see docs/BUNDLE.md")
    parser.add_argument("--out", type=Path, help="the bundle's folder (default: CHECKPOINT's stem)")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument(
        "--store",
        choices=get_args(Store),
        default="fp32",
        help="how weights lie in the files; computing stays fp32",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    arguments = parser.parse_args(words)
    out = arguments.out or arguments.checkpoint.with_suffix("")
    # Remarks of encodec, open_clip and onnxruntime on how they build and quantise models.
    warnings.simplefilter("ignore", FutureWarning)
    logging.basicConfig(level=logging.ERROR)
    try:
        checkpoint = read_checkpoint(arguments.checkpoint)
        for graph in build_bundle(
            checkpoint, out, arguments.precision, arguments.store, arguments.force
        ):
            figures = "; ".join(f"{name}: {text}" for name, text in graph.measured.items())
            print(f"{graph.name}  {graph.size_bytes / 1e6:.2f} MB  {figures}", flush=True)
        print(f"bundle: {out}")
    except VabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
