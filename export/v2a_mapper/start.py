"""A V2A-Mapper's checkpoint out of others' weights: AudioLDM, a mapper, and CLIP's image tower.

The file grows by one of them at a time; with the last one it is a checkpoint like any other
(docs/BUNDLE.md).
"""

from pathlib import Path
from typing import Any

import msgspec

from export.v2a_mapper.audioldm import LICENSE, read_audioldm
from export.v2a_mapper.mapper import read_mapper
from export.weights.clip import read_clip
from export.weights.reading import read_torch
from export.weights.start import ADVICE
from training.file_names import readable
from training.saving import save_whole, with_new_keys
from training.v2a_mapper.checkpoint import KIND, NULL_EMBEDDING, V2A_PARTS
from training.v2a_mapper.config import V2ARecipe
from vab_rt.errors import ExportError

PARTS_OF = {
    "audioldm": ("unet", "vae", "vocoder", NULL_EMBEDDING),
    "mapper": ("mapper",),
    "clip": ("image_encoder",),
}
NOT_COMMERCIAL = "AudioLDM's weights are for non-commercial use alone, and so is what they become"
NOT_STATED = "not stated"


def import_v2a(
    kind: str, source: str, recipe: V2ARecipe, into: Path, license: str, *, offline: bool = False
) -> list[str]:
    """Put what `source` holds into the checkpoint `into`, new or begun; returns what to tell.

    kind: one of PARTS_OF. license: of these weights. Raises VabError for a source that cannot be
    read safely or does not fit, and for a file that is of another model or has the parts already.
    """
    content = begun(into, recipe)
    have = [part for part in PARTS_OF[kind] if part in content]
    if have:
        raise ExportError(
            f"{into} has a part {have[0]} already, expected one without, as what was trained on it "
            f"would be lost; {ADVICE}"
        )
    told = []
    if kind == "audioldm":
        license = LICENSE if license == NOT_STATED else license
        told = [f"license {license}: {NOT_COMMERCIAL}"] if "-NC" in license.upper() else []
    parts, settings, where = read_parts_of(kind, source, recipe, offline=offline)
    content |= parts
    content["networks"] |= settings
    content["provenance"] |= {kind: readable(where)}
    content["license"] = "; ".join(filter(None, [content["license"], f"{kind}: {license}"]))
    save_whole(into, content)
    num_tensors = sum(len(tensors) for tensors in parts.values())
    return [f"{kind}: {num_tensors} tensors of {where}", *told, f"{into}: {_next(content, recipe)}"]


def read_parts_of(
    kind: str, source: str, recipe: V2ARecipe, *, offline: bool
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Tensors by part, settings by network, and where they come from."""
    if kind == "audioldm":
        found = read_audioldm(Path(source), recipe.model)
        null = {NULL_EMBEDDING: {"text": found.null_embedding}}
        return {**found.weights, **null}, found.settings, found.source
    if kind == "mapper":
        weights, where = read_mapper(Path(source), recipe.model, recipe.networks.mapper)
        return {"mapper": weights}, {}, where
    part = read_clip(source, recipe.model, offline=offline)
    return {"image_encoder": part.weights}, {}, part.source


def begun(path: Path, recipe: V2ARecipe) -> dict[str, Any]:
    """What `path` holds so far. Raises ExportError for what was not begun with this config."""
    header = {
        "kind": KIND,
        "config": msgspec.to_builtins(recipe.model),
        "networks": msgspec.to_builtins(recipe.networks),
        "options": msgspec.to_builtins(recipe.options),
        "provenance": {},
        "license": "",
    }
    if not path.exists():
        return header
    content = with_new_keys(read_torch(path, ADVICE))
    if not header.keys() <= content.keys() <= {*header, *V2A_PARTS} or content["kind"] != KIND:
        raise ExportError(
            f"{path} holds {', '.join(map(repr, list(content)[:5]))}, expected a checkpoint of a "
            f"V2A-Mapper that an import has begun; {ADVICE}"
        )
    found, expected = content["config"], header["config"]
    if found != expected:
        names = sorted(name for name in found | expected if found.get(name) != expected.get(name))
        raise ExportError(
            f"{path} is of the model {found.get('name')}, expected {recipe.model.name} with the "
            f"same facts ({names[0]} is {found.get(names[0])!r}, expected "
            f"{expected.get(names[0])!r}); choose the --config that it was begun with, or {ADVICE}"
        )
    return content


def _next(content: dict[str, Any], recipe: V2ARecipe) -> str:
    for kind, parts in PARTS_OF.items():
        is_needed = kind != "mapper" or recipe.model.mapper != "none"
        if is_needed and parts[0] not in content:
            return f"lacks the {parts[0]}; next: python -m export.import_weights {kind}"
    return "whole; next: python -m export.build_engines"
