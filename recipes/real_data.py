"""What a model of real kinds learns from: folders of sounds and pictures, made pairs."""

import os
import sys
from pathlib import Path

import msgspec

from training import foleyworld
from training.configs import Recipe
from training.datasets.material import Material, gather, model_kinds
from training.datasets.pair_clips import PairClips, pair_clips, read_pairs
from training.datasets.rendered import rendered_clips
from training.datasets.sound_folders import (
    Listed,
    Sounds,
    Split,
    fingerprint,
    kept_sounds,
    list_pictures,
    list_sounds,
)
from training.kinds import read_table, with_kinds
from training.stage import begin, stage
from vab_rt.config import ModelConfig

PAIRS_VERSION = 1


class Folders(msgspec.Struct, frozen=True):
    """sounds/KIND/* and pictures/KIND/*; table: a CSV from ImageNet's classes to kinds, or none."""

    sounds: Path
    pictures: Path
    table: Path | None = None


class RealData(msgspec.Struct, frozen=True):
    """What the folders hold, the model of their kinds, and the table, see `read_table`."""

    config: ModelConfig
    sounds: list[Listed]
    pictures: list[Listed]
    table: dict[int, str]


def read_data(folder: Path, model: ModelConfig, folders: Folders) -> RealData:
    """The kinds are those with a recording that can be used; see `samples_of`.

    Raises DataError for folders without a kind, and for a table that does not fit.
    """
    table = {} if folders.table is None else read_table(folders.table)
    sounds, pictures = list_sounds(folders.sounds), list_pictures(folders.pictures)
    kinds = model_kinds(samples_of(folder, sounds, model.sample_rate_hz).listed)
    if unheard := ", ".join(sorted(set(table.values()) - set(kinds))):
        print(f"{folders.table} names kinds that are not heard: {unheard}", file=sys.stderr)
    return RealData(with_kinds(model, kinds), sounds, pictures, table)


def samples_of(folder: Path, sounds: list[Listed], rate_hz: int) -> Sounds:
    """All usable recordings at the model's rate, kept in `folder`/sounds.npz."""
    path = folder / "sounds.npz"
    begin(path, rate_hz=rate_hz, files=fingerprint(sounds))
    return kept_sounds(path, sounds, rate_hz, os.cpu_count() or 1)


def material_of(folder: Path, data: RealData, split: Split) -> Material:
    kinds, rate_hz = data.config.kinds, data.config.sample_rate_hz
    return gather(samples_of(folder, data.sounds, rate_hz), data.pictures, split, kinds, rate_hz)


def training_pairs(folder: Path, recipe: Recipe, data: RealData) -> PairClips:
    """`recipe.clips` pairs and `recipe.rendered_clips` clips of FoleyWorld, in `folder`/pairs."""
    return _pairs(folder, folder / "pairs", recipe, data, "train")


def validation_pairs(folder: Path, recipe: Recipe, data: RealData) -> PairClips:
    return _pairs(folder, folder / "pairs-validation", recipe, data, "validation")


def _pairs(folder: Path, path: Path, recipe: Recipe, data: RealData, split: Split) -> PairClips:
    training, config = split == "train", data.config

    def make() -> None:
        world = None
        if training:
            world = rendered_clips(folder / "world", "train", recipe.rendered_clips, config)
        material = material_of(folder, data, split)
        count = recipe.clips if training else recipe.validation_clips
        pair_clips(path, material, world, split, count, config)

    stage(
        path,
        make,
        parts=[path.with_name(f"{path.name}.partial")],
        count=recipe.clips if training else recipe.validation_clips,
        of_world=recipe.rendered_clips if training else 0,
        sounds=fingerprint(data.sounds),
        pictures=fingerprint(data.pictures),
        rate_hz=config.sample_rate_hz,
        sizes=[config.image_size, config.frame_size],
        version=[PAIRS_VERSION, foleyworld.VERSION],
    )
    return read_pairs(path)
