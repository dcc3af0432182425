"""The options of `export.build_engines`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from export.modules import Store, Typed
from vab_rt.contract import Variant

Precision = Literal["fp32", "int8"]
PRECISIONS = (*get_args(Precision), *get_args(Typed), "fp8")
BACKENDS = ("onnx", "tensorrt", "tensorrt-rtx")


class BuildOptions(NamedTuple):
    """precision: of the main graphs, for CPUs. typed: of those beside them, for GPUs. backends: for
    which engines are built."""

    precision: Precision
    typed: tuple[Variant, ...]
    backends: list[str]


def read_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> BuildOptions:
    precisions, backends = arguments.precision, arguments.backend
    if not {"fp32", "int8"} & {*precisions}:
        parser.error("argument --precision: has no fp32 or int8, expected one, for CPUs")
    precision: Precision = "int8" if "int8" in precisions else "fp32"
    typed = tuple(p for p in get_args(Variant) if p in precisions and p != precision)
    libraries = [backend for backend in backends if backend != "onnx"]
    if typed == ("fp8",) and precision == "int8":
        parser.error("argument --precision: fp8 is of the backbone alone, expected fp16 beside it")
    if arguments.with_video and arguments.one_graph is None:
        parser.error("argument --with-video: comes without --one-graph, expected both")
    if libraries and (precision, typed) == ("int8", ()):
        parser.error(f"argument --backend: {libraries[0]} needs fp32, fp16 or bf16 in --precision")
    return BuildOptions(precision, typed, libraries)


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


def parse_arguments(words: list[str] | None) -> tuple[argparse.Namespace, BuildOptions]:
    parser = _parser()
    arguments = parser.parse_args(words)
    return arguments, read_options(parser, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.build_engines",
        description="Checkpoint to bundle in one command.",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help=".pt or .safetensors, see docs/BUNDLE.md; for --one-graph also a bundle's folder, or "
        "the name of a shipped model",
    )
    parser.add_argument(
        "--fine", type=Path, help="a coarse-to-fine checkpoint that goes on from its tokens"
    )
    parser.add_argument("--out", type=Path, help="the bundle's folder (default: CHECKPOINT's stem)")
    parser.add_argument(
        "--precision",
        type=listed(PRECISIONS),
        default=["fp32"],
        help="some of fp32, int8 (CPUs), fp16, bf16, fp8 (GPUs), such as fp32,fp16 (default: fp32)",
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
        help="how weights lie in the files of fp32 and int8 (int8: of backbones; others fp16); "
        "computing stays fp32",
    )
    parser.add_argument(
        "--refer",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="weights of others that the checkpoint was made of: the bundle names this file and "
        "its sha256 instead of holding what is in it (repeatable)",
    )
    parser.add_argument(
        "--weights-inside",
        action="store_true",
        help="also copy the weights that a package brings, such as EfficientNet-Lite0's",
    )
    parser.add_argument(
        "--one-graph",
        type=Path,
        metavar="FILE.onnx",
        help="also write all of the model as one graph of standard operators, the decoding loop "
        "and the codec inside, for programs without our runtime",
    )
    parser.add_argument(
        "--with-video",
        action="store_true",
        help="with --one-graph: frames go in and not features",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing bundle")
    return parser
