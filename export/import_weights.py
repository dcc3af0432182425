"""Weights of others into a checkpoint to start from: `python -m export.import_weights --help`.

    python -m export.import_weights encodec compression_state_dict.bin --config vab-encodec \\
        --into start.pt --license CC-BY-NC-4.0
    python -m export.import_weights clip EVA02-L-14 --config vab-encodec --into start.pt \\
        --license MIT

Each adds a part; with codec and image encoder in it start.pt is whole. A V2A-Mapper is made of an
image encoder, a mapper, and AudioLDM:

    python -m export.import_weights audioldm audioldm-s-full-v2/ --config v2a-mapper-audioldm \\
        --into v2a.pt
    python -m export.import_weights mapper mapper.safetensors --config v2a-mapper-audioldm \\
        --into v2a.pt
    python -m export.import_weights clip ViT-B-32-quickgelu/openai --config v2a-mapper-audioldm \\
        --into v2a.pt

Files are read without running anything in them, and every tensor must fit. A bundle of the
checkpoint may name such a file instead of holding what is in it: python -m export.build_engines
CHECKPOINT --refer FILE
"""

import argparse
import logging
import warnings
from pathlib import Path

from export.weights.parts import Part
from export.weights.start import ADVICE, add_part, room_for
from training.command import mistakes_in_one_line
from training.configs import Recipe, read_recipe
from training.v2a_mapper.config import is_v2a_recipe, read_v2a_recipe
from vab_rt.errors import ExportError

VAB_KINDS = ("encodec", "dac", "clip", "mae")
IMAGES = ("clip", "mae")
V2A_KINDS = ("audioldm", "mapper", "clip")


def import_weights(arguments: argparse.Namespace) -> list[str]:
    """Put the weights into the checkpoint; returns what to tell. Raises VabError."""
    kind, source, into, name = (
        getattr(arguments, key) for key in ("kind", "source", "into", "config")
    )
    is_v2a = is_v2a_recipe(name)
    kinds = V2A_KINDS if is_v2a else VAB_KINDS
    if kind not in kinds:
        raise ExportError(
            f"{kind} is no part of the model of --config {name}, expected {', '.join(kinds)}; "
            f"choose another --config, such as {'vab-encodec' if is_v2a else 'v2a-mapper-audioldm'}"
        )
    if into.suffix != ".pt":
        raise ExportError(f"{into} ends in {into.suffix!r}, expected .pt; {ADVICE}")
    license, offline = arguments.license, arguments.offline
    if is_v2a:
        from export.v2a_mapper.start import import_v2a

        return import_v2a(kind, source, read_v2a_recipe(name), into, license, offline=offline)
    recipe = read_recipe(name)
    room_for("image_encoder" if kind in IMAGES else "codec", into, recipe)  # or all is in vain
    part = import_part(kind, source, recipe, offline=offline)
    missing = add_part(into, recipe, part, license)
    return [
        f"{part.name}: {len(part.weights)} tensors of {part.source}",
        f"{into}: {_next(missing, recipe)}",
    ]


def import_part(kind: str, source: str, recipe: Recipe, *, offline: bool) -> Part:
    """kind: one of VAB_KINDS. Raises VabError."""
    if kind == "encodec":
        from export.weights.encodec import read_encodec

        return read_encodec(Path(source), recipe.model)
    if kind == "dac":
        from export.weights.dac import read_dac

        return read_dac(Path(source), recipe.model)
    if kind == "mae":
        from export.weights.mae import read_mae

        return read_mae(Path(source), recipe.model)
    from export.weights.clip import read_clip

    return read_clip(source, recipe.model, offline=offline)


def main(words: list[str] | None = None) -> None:
    arguments = _parser().parse_args(words)
    # Remarks of encodec and open_clip on how they build models.
    warnings.simplefilter("ignore", FutureWarning)
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    with mistakes_in_one_line():
        print("\n".join(import_weights(arguments)))


def _next(missing: list[str], recipe: Recipe) -> str:
    if missing:
        images = "mae" if recipe.model.image_encoder.startswith("mae/") else "clip"
        kinds = {"codec": recipe.model.codec, "image_encoder": images}
        return f"lacks the {missing[0]}; next: python -m export.import_weights {kinds[missing[0]]}"
    return "a checkpoint to start from; next: python -m training.extract --ckpt, docs/DATA.md"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export.import_weights",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = sorted({*VAB_KINDS, *V2A_KINDS})
    parser.add_argument("kind", choices=kinds, help="what the weights are of")
    parser.add_argument(
        "source",
        help="encodec: audiocraft's compression_state_dict.bin or a folder of transformers; dac: "
        "descript's .pth or a folder of transformers; clip: a folder or file of open_clip, or a "
        "name on the hub, such as EVA02-L-14 or hf:ORG/NAME; mae: its authors' .pth; audioldm: a "
        "folder in the layout of diffusers; mapper: a state_dict, ours or of DALLE2-pytorch's "
        "prior",
    )
    parser.add_argument("--config", required=True, metavar="NAME|FILE.toml", help="the recipe")
    parser.add_argument(
        "--into", type=Path, required=True, help="the checkpoint, a .pt, new or begun"
    )
    parser.add_argument(
        "--license", default="not stated", help="of these weights, for the model's card"
    )
    old = {"dest": "license", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    parser.add_argument("--licence", **old)  # what it was called
    parser.add_argument("--offline", action="store_true", help="of the hub: only what is cached")
    return parser


if __name__ == "__main__":
    main()
