"""A checkpoint to start from: imported codec and image encoder, and a transformer not yet trained.

The file grows by one part at a time; with the last one it gets the transformer, on whose codebooks
it depends, and is a checkpoint like any other (docs/BUNDLE.md).
"""

from pathlib import Path
from typing import Any

import msgspec
import torch

from export.weights.parts import Part
from export.weights.reading import read_torch
from training.checkpoint import PARTS, Header, load_weights
from training.codecs.codec import build_codec
from training.configs import Recipe
from training.file_names import readable
from training.model import VAB
from training.saving import save_whole, with_new_keys
from vab_rt.errors import ExportError
from vab_rt.output import check_output

IMPORTED = ("codec", "image_encoder")
ADVICE = "choose another file for --into"


def add_part(path: Path, recipe: Recipe, part: Part, license: str) -> list[str]:
    """Put a part into the checkpoint `path`, new or begun; returns the parts that it still lacks.

    license: of the part's weights. Raises ExportError for a file that has the part already or is
    for another model, OutputError for one that cannot be written.
    """
    content = room_for(part.name, path, recipe)
    content |= {
        part.name: part.weights,
        "license": "; ".join(filter(None, [content["license"], f"{part.name}: {license}"])),
        "provenance": content["provenance"] | {part.name: readable(part.source)},
    }
    if part.name == "codec":
        content["codec_settings"] = part.settings
    missing = [name for name in IMPORTED if name not in content]
    if not missing:
        content["vab"] = untrained(path, recipe, content)
        content["license"] += f"; transformer: {recipe.license}"
    save_whole(path, content)
    return missing


def room_for(part: str, path: Path, recipe: Recipe) -> dict[str, Any]:
    """What `path` holds so far, where the part (one of IMPORTED) has its place; as `add_part`."""
    check_output(path, force=True)
    content = begun(path, recipe)
    if part in content:
        raise ExportError(
            f"{path} has a part {part} already, expected one without, as what was trained on it "
            f"would be lost; {ADVICE}"
        )
    return content


def begun(path: Path, recipe: Recipe) -> dict[str, Any]:
    """What `path` holds so far. Raises ExportError for what was not begun with this config, and for
    one with a motion encoder."""
    if recipe.model.motion_dim:
        raise ExportError(
            f"{recipe.model.name} has motion_dim {recipe.model.motion_dim}, expected 0: a motion "
            "encoder is not among the weights that are imported; leave it and motion_reach out"
        )
    config = msgspec.to_builtins(recipe.model)
    if not path.exists():
        options = msgspec.to_builtins(recipe.options_of(recipe.model))
        facts = {"config": config, "codec_settings": {}, "options": options}
        return facts | {"license": "", "provenance": {}}
    content = with_new_keys(read_torch(path, ADVICE))
    keys = {*Header.__struct_fields__}
    if not content.keys() <= keys | {*PARTS}:
        raise ExportError(
            f"{path} holds {', '.join(map(repr, list(content)[:5]))}, expected a checkpoint that "
            f"an import has begun; {ADVICE}"
        )
    try:
        found = msgspec.convert({key: content[key] for key in keys & content.keys()}, Header).config
    except msgspec.ValidationError as error:
        raise ExportError(
            f"{path}: {error}, expected a checkpoint that an import has begun; {ADVICE}"
        ) from error
    if found != recipe.model:
        raise ExportError(
            f"{path} is of the model {found.name}, expected {recipe.model.name} with the same "
            f"facts; choose the --config that it was begun with, or {ADVICE}"
        )
    return content


def untrained(path: Path, recipe: Recipe, content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a transformer that has the codec's codebooks; the recipe's seed draws them."""
    codec = build_codec(recipe.model, content["codec_settings"])
    load_weights(f"{path}: codec", content["codec"], codec)
    torch.manual_seed(recipe.pretrain.seed)
    vab = VAB(recipe.model)
    vab.use_codebooks(codec.codebooks)
    return vab.state_dict()
