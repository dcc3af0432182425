# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel sets, kept with each scene."""

import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import bpy
from bpy.props import EnumProperty, FloatProperty, IntProperty, StringProperty

from .making import Settings

OWN = "FOLDER"
"""The choice of a model that does not come along."""


@cache
def _shipped() -> dict[str, Path]:
    """Model names and the files that describe them, without loading the runtime."""
    spec = importlib.util.find_spec("vab_rt")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [path for folder in folders for path in Path(folder).glob("bundles/*/vab.json")]
    return {path.parent.name: path for path in sorted(found)}


@cache
def _models() -> list[tuple[str, str, str]]:
    """Blender keeps no text of its own for the items of an enum, so that they must stay."""
    names = [(name, name, f"The model {name}, which comes along") for name in _shipped()]
    return [*names, (OWN, "Folder...", "A model of your own: the folder of its bundle")]


def _model_items(settings: Any, context: Any) -> list[tuple[str, str, str]]:
    return _models()


def _kinds(settings: Any, context: Any, typed: str) -> list[str]:
    path = _shipped().get(settings.model) or Path(settings.model_folder) / "vab.json"
    try:
        named = json.loads(path.read_text())["model"].get("kinds", [])
    except (OSError, ValueError, KeyError, AttributeError):
        return []
    return [kind for kind in named if typed.lower() in kind.lower()]


class VABRT_PG_settings(bpy.types.PropertyGroup):
    model: EnumProperty(name="Model", items=_model_items, description="What makes the sound")
    model_folder: StringProperty(name="Bundle", subtype="DIR_PATH")
    kind: StringProperty(
        name="Kind",
        description="What makes the sound, whatever is seen; empty: what the model sees",
        search=_kinds,
    )
    seed: IntProperty(name="Seed", min=0, description="The same seed and movie give the same sound")
    takes: IntProperty(
        name="Takes",
        default=1,
        min=1,
        max=16,
        description="How many sounds, one seed after another; all but the best are muted",
    )
    steps: IntProperty(
        name="Steps", min=0, max=1024, description="Decoding steps; 0: as the model has it"
    )
    guidance: FloatProperty(
        name="Guidance",
        min=0,
        max=100,
        description="How closely to follow what is seen; 0: as the model has it",
    )
    folder: StringProperty(
        name="Sounds in",
        subtype="DIR_PATH",
        description="Where sounds are written; empty: NAME.sound beside the .blend",
    )


def settings_of(group: Any) -> Settings:
    """What the panel says, for the thread that works."""
    own = bpy.path.abspath(group.model_folder)
    return Settings(
        model=own if group.model == OWN else group.model,
        seed=group.seed,
        num_takes=group.takes,
        steps=group.steps,
        guidance=group.guidance,
        kinds=(group.kind,) if group.kind else (),
    )
