"""Checkpoint to bundle in one command: `python -m export.build_engines ckpt.pt`."""

import argparse
import hashlib
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from export import onnx_graphs, verify
from export.fp8_graphs import read_clips, write_fp8
from export.modules import TYPED_GRAPHS, Store, Typed, graph_module
from export.typed_graphs import write_typed
from training.checkpoint import Checkpoint, read_checkpoint
from vab_rt.bundle import MANIFEST, Bundle, Variant, open_bundle, write_manifest
from vab_rt.config import ModelConfig
from vab_rt.contract import GRAPHS, contract_of
from vab_rt.engines import tensorrt, tensorrt_rtx
from vab_rt.engines.compiled import Compiled, Library, compile_bundle
from vab_rt.engines.gpu import Gpu
from vab_rt.errors import BackendError, ExportError, VabError

Precision = Literal["fp32", "int8"]
PRECISIONS = (*get_args(Precision), *get_args(Typed), "fp8")
BACKENDS = ("onnx", "tensorrt", "tensorrt-rtx")


class BuiltGraph(NamedTuple):
    """One graph of the bundle; measured goes to the manifest's provenance."""

    name: str
    size_bytes: int
    measured: dict[str, str]


def build_bundle(
    checkpoint: Checkpoint,
    out: Path,
    precision: Precision,
    store: Store,
    force: bool = False,
    typed: tuple[Variant, ...] = (),
    calibration: verify.Arrays | None = None,
) -> Iterator[BuiltGraph]:
    """Export, verify and write every graph of `checkpoint`, one at a time, to the folder `out`.

    precision: of the backbone that processors run. typed: of further graphs, for GPUs.
    calibration: see `write_fp8`. `out` appears when all of it is there. Raises ExportError.
    """
    provenance = dict(checkpoint.header.provenance) | built_from(checkpoint, store)
    with folder_beside(out, force) as folder:
        for name in GRAPHS:
            graph = build_graph(name, checkpoint, folder, precision, store)
            provenance |= graph.measured
            yield graph
        for width, name in product(typed, TYPED_GRAPHS):
            if width in ("fp32", "fp8") and name != "backbone":
                continue  # the main one is float32 anyway, and fp8 takes that of fp16
            graph = build_variant(name, checkpoint, folder, width, store, calibration)
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


def build_variant(
    name: str,
    checkpoint: Checkpoint,
    folder: Path,
    precision: Variant,
    store: Store,
    calibration: verify.Arrays | None = None,
) -> BuiltGraph:
    """Export one graph to `folder`/NAME.PRECISION.onnx, beside the one that processors run."""
    path = folder / f"{name}.{precision}.onnx"
    if precision == "fp32":
        module = graph_module(name, checkpoint, store)
        model = onnx_graphs.trace(module, contract_of(checkpoint.config)[name])
        measured = write_exact(name, module, model, path, checkpoint.config, store)
        measured = {f"{key}_fp32": text for key, text in measured.items()}
    elif precision == "fp8":
        measured = write_fp8(checkpoint, path, calibration)
    else:
        measured = write_typed(name, checkpoint, path, precision)
    return BuiltGraph(path.stem, path.stat().st_size, measured)


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


def build_for_devices(
    bundle: Bundle, libraries: list[Library]
) -> Iterator[tuple[Library, str, Compiled]]:
    """The engines of a bundle for this user, built where the cache has none."""
    for library in libraries:
        for name, compiled in compile_bundle(bundle, library):
            yield library, name, compiled


def open_library(backend: str) -> Library:
    """Raises BackendError where the library, or the GPU it builds for, is missing."""
    if backend == "tensorrt":
        return tensorrt.library_for(tensorrt.import_tensorrt(), Gpu())
    try:
        return tensorrt_rtx.import_library(Gpu())
    except BackendError:  # it needs no GPU to build
        return tensorrt_rtx.import_library()


class Wanted(NamedTuple):
    """What the command line asks for."""

    precision: Precision
    typed: tuple[Variant, ...]
    backends: list[str]


def read_wanted(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Wanted:
    precisions, backends = arguments.precision, arguments.backend
    if not {"fp32", "int8"} & {*precisions}:
        parser.error("argument --precision: has no fp32 or int8, expected one, for processors")
    precision: Precision = "int8" if "int8" in precisions else "fp32"
    typed = tuple(p for p in get_args(Variant) if p in precisions and p != precision)
    libraries = [backend for backend in backends if backend != "onnx"]
    if typed == ("fp8",) and precision == "int8":
        parser.error("argument --precision: fp8 is of the backbone alone, expected fp16 beside it")
    if libraries and (precision, typed) == ("int8", ()):
        parser.error(f"argument --backend: {libraries[0]} needs fp32, fp16 or bf16 in --precision")
    return Wanted(precision, typed, libraries)


def listed(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """A parser of some of `choices`, with commas between them."""

    def parse(text: str) -> list[str]:
        words = text.split(",")
        for word in words:
            if word not in choices:
                raise argparse.ArgumentTypeError(
                    f"{word!r}, expected {', '.join(choices)}, with commas between them"
                )
        return words

    return parse


def parse_arguments(words: list[str] | None) -> tuple[argparse.Namespace, Wanted]:
    parser = argparse.ArgumentParser(prog="python -m export.build_engines", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help=".pt or .safetensors, see docs/BUNDLE.md")
    parser.add_argument("--out", type=Path, help="the bundle's folder (default: CHECKPOINT's stem)")
    parser.add_argument(
        "--precision",
        type=listed(PRECISIONS),
        default=["fp32"],
        help="some of fp32, int8 (processors), fp16, bf16, fp8 (GPUs), such as fp32,fp16 "
        "(default: fp32)",
    )
    parser.add_argument(
        "--calibrate",
        metavar="SHARDS",
        help="clips of training.extract, for the scales of fp8 (default: noise)",
    )
    parser.add_argument(
        "--backend",
        type=listed(BACKENDS),
        default=["onnx"],
        help="onnx is always written; tensorrt and tensorrt-rtx also build their engines, for this "
        "user and machine",
    )
    parser.add_argument(
        "--store",
        choices=get_args(Store),
        default="fp32",
        help="how weights lie in the files of fp32 and int8; computing stays fp32",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    arguments = parser.parse_args(words)
    return arguments, read_wanted(parser, arguments)


def main(words: list[str] | None = None) -> None:
    arguments, wanted = parse_arguments(words)
    out = arguments.out or arguments.checkpoint.with_suffix("")
    # Remarks of encodec, open_clip and onnxruntime on how they build and quantise models.
    warnings.simplefilter("ignore", FutureWarning)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("vab_rt").setLevel(logging.INFO)
    try:
        libraries = [open_library(backend) for backend in wanted.backends]
        checkpoint = read_checkpoint(arguments.checkpoint)
        clips = read_clips(arguments.calibrate, checkpoint.config) if arguments.calibrate else None
        for graph in build_bundle(
            checkpoint, out, wanted.precision, arguments.store, arguments.force, wanted.typed, clips
        ):
            figures = "; ".join(f"{name}: {text}" for name, text in graph.measured.items())
            print(f"{graph.name}  {graph.size_bytes / 1e6:.2f} MB  {figures}", flush=True)
        print(f"bundle: {out}", flush=True)
        for library, name, compiled in build_for_devices(open_bundle(out), libraries):
            took = "kept from before" if compiled.build_s is None else f"{compiled.build_s:.1f} s"
            size = f"{len(compiled.engine) / 1e6:.2f} MB"
            print(f"{library.device} engine of {name}  {size}  {took}", flush=True)
    except VabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
