"""Checkpoint to bundle in one command: `python -m export.build_engines ckpt.pt`.

With `--fine FINE.pt` a coarse model and the one that goes on from its tokens, in one bundle.
"""

import argparse
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from export.bundle_folder import BuiltGraph
from export.fp8_graphs import read_clips
from export.options import BuildOptions, parse_arguments
from export.references import own_references, reference_to
from export.vab_bundle import Models, build_bundle
from export.verified_graph import write_one_graph
from training.checkpoint import read_checkpoint, read_parts
from training.command import mistakes_in_one_line
from vab_rt.bundle import Bundle, open_bundle, shipped_models
from vab_rt.engines.gpu import Gpu
from vab_rt.engines.tensorrt import (
    Compiled,
    Library,
    compile_bundle,
    import_api,
    tensorrt,
    tensorrt_rtx,
)
from vab_rt.errors import BackendError, OptionError


def open_library(backend: str) -> Library:
    """Raises BackendError where the library, or the GPU it builds for, is missing."""
    import_api(backend)
    if backend == "tensorrt":
        return tensorrt(Gpu())
    try:
        return tensorrt_rtx(Gpu())
    except BackendError:  # it needs no GPU to build
        return tensorrt_rtx()


def build_graphs(
    args: argparse.Namespace, options: BuildOptions, out: Path
) -> Iterator[BuiltGraph]:
    """The bundle of the checkpoint's own system, a graph at a time."""
    path, fine = args.checkpoint, args.fine
    if read_parts(path, ())[0].get("kind") == "v2a-mapper":
        from export.v2a_mapper.bundle import build_v2a_bundle  # takes diffusers and transformers

        given_of = {"--fine": fine, "--calibrate": args.calibrate, "--refer": args.refer}
        for option, given in given_of.items():
            if given:
                raise OptionError(
                    f"{path} is of a V2A-Mapper, which has no use for {option}; leave it out"
                )
        precisions = (options.precision, *options.typed)
        yield from build_v2a_bundle(path, out, precisions, args.store, args.force)
        return
    models = Models(read_checkpoint(path), read_checkpoint(fine) if fine else None)
    config = models.coarse.config
    clips = read_clips(args.calibrate, config) if args.calibrate else None
    referred = [] if args.weights_inside else own_references(config)
    parts = [*models.coarse.weights.values(), *(models.fine.weights.values() if fine else ())]
    tensors = [tensor for part in parts for tensor in part.values()]
    referred += [reference_to(file, tensors) for file in args.refer]
    store, force = args.store, args.force
    yield from build_bundle(
        models, out, options.precision, store, force, options.typed, clips, referred
    )


def line_of(graph: BuiltGraph) -> str:
    figures = "; ".join(f"{name}: {text}" for name, text in graph.measured.items())
    return f"{graph.name}  {graph.size_bytes / 1e6:.2f} MB  {figures}"


def line_of_engine(library: Library, name: str, compiled: Compiled) -> str:
    took = "kept from before" if compiled.build_s is None else f"{compiled.build_s:.1f} s"
    return f"{library.device} engine of {name}  {len(compiled.engine) / 1e6:.2f} MB  {took}"


def tell_one_graph(args: argparse.Namespace, bundle: Bundle) -> None:
    one = write_one_graph(bundle, args.one_graph, with_video=args.with_video, force=args.force)
    print(
        f"{one.path}  {one.size_bytes / 1e6:.2f} MB  {one.num_requests} requests: the runtime's "
        f"tokens, samples {one.apart:.1e} off"
    )


def leave_out_remarks() -> None:
    """Silences encodec, open_clip and onnxruntime, which remark on how they build and quantise
    models."""
    warnings.simplefilter("ignore", FutureWarning)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("vab_rt").setLevel(logging.INFO)


def main(words: list[str] | None = None) -> None:
    args, options = parse_arguments(words)
    checkpoint = args.checkpoint  # with_suffix refuses what has no name, such as a folder "."
    out = args.out or checkpoint.parent / checkpoint.stem
    leave_out_remarks()
    with mistakes_in_one_line():
        is_bundle = checkpoint.is_dir() or str(checkpoint) in shipped_models()
        if args.one_graph is not None and is_bundle:
            tell_one_graph(args, open_bundle(str(checkpoint)))
            return
        libraries = [open_library(backend) for backend in options.backends]
        for graph in build_graphs(args, options, out):
            print(line_of(graph), flush=True)
        print(f"bundle: {out}", flush=True)
        bundle = open_bundle(out)
        for library in libraries:
            for name, compiled in compile_bundle(bundle, library):
                print(line_of_engine(library, name, compiled), flush=True)
        if args.one_graph is not None:
            tell_one_graph(args, bundle)


if __name__ == "__main__":
    main()
