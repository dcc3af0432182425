"""What a model of real kinds learns from: folders of sounds and pictures, made pairs."""

import os
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
from training.kinds import with_kinds
from training.stage import begin, stage
from vab_rt.config import ModelConfig

PAIRS_VERSION = 1


class Folders(msgspec.Struct, frozen=True):
    """sounds/KIND/* and pictures/KIND/*; table: a CSV from ImageNet's classes to kinds, or none."""

    sounds: Path
    pictures: Path
    table: Path | None = None


class RealData(msgspec.Struct, frozen=True):
    """What the folders hold, and the model of their kinds."""

    config: ModelConfig
    sounds: list[Listed]
    pictures: list[Listed]


def read_data(model: ModelConfig, folders: Folders) -> RealData:
    """Raises DataError for folders without a kind."""
    sounds, pictures = list_sounds(folders.sounds), list_pictures(folders.pictures)
    return RealData(with_kinds(model, model_kinds(sounds)), sounds, pictures)


def samples_of(folder: Path, data: RealData) -> Sounds:
    """All usable recordings at the model's rate, kept in `folder`/sounds.npz."""
    path, rate_hz = folder / "sounds.npz", data.config.sample_rate_hz
    begin(path, rate_hz=rate_hz, files=fingerprint(data.sounds))
    return kept_sounds(path, data.sounds, rate_hz, os.cpu_count() or 1)


def material_of(folder: Path, data: RealData, split: Split) -> Material:
    config = data.config
    return gather(
        samples_of(folder, data), data.pictures, split, config.kinds, config.sample_rate_hz
    )


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
