"""The codec and the visual encoders of a recipe, trained or given: the checkpoint to start from."""

import os
from pathlib import Path

import torch
from torch import nn

from training import foleyworld
from training.checkpoint import MOTION, Header, read_checkpoint, write_checkpoint
from training.clip_training import train_clip
from training.codec_training import train_codec
from training.codecs.codec import build_codec, load_codebooks
from training.codecs.recordings import Recordings, read_recordings, world_sounds
from training.codecs.settings import read_training
from training.command import report
from training.configs import Recipe, check_steps
from training.datasets.rendered import Clips, check_world, rendered_clips
from training.efficientnet import LITE0
from training.fitting import averaged_weights, steps_made
from training.image_encoder import TINY, ImageEncoder, build_clip
from training.model import VAB
from training.motion_training import motion_weights, train_motion
from training.stage import is_made, stage
from training.visual_encoder import MotionEncoder
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

OF_IMAGES = (
    "image_encoder",
    "image_size",
    "visual_dim",
    "motion_dim",
    "motion_reach",
    "motion_size",
    "kinds",
)


def check_foleyworld(recipe: Recipe) -> None:
    """Raises OptionError where an encoder is not of FoleyWorld, or the model's clips are not; for a
    warm-up that does not fit so many clips, hours before its stage."""
    config = recipe.codec_model
    if config.codec != "spectral" or config.image_encoder != TINY:
        advice = (
            "give recordings and pictures with --sounds DIR --pictures DIR"
            if config.image_encoder == LITE0
            else "the others come with weights of their own: put them in a checkpoint with "
            "python -m export.import_weights, and begin with --start CKPT --shards DIR"
        )
        raise OptionError(
            f"model {recipe.model.name} has the codec {config.codec} and the image encoder "
            f"{config.image_encoder}, expected spectral and {TINY}: recipes train these on "
            f"FoleyWorld; {advice}"
        )
    check_world(config)
    check_steps(recipe, recipe.clips)


def train_encoders(
    recipe: Recipe, folder: Path, images: Path | None = None
) -> dict[str, nn.Module]:
    """The codec, into `folder`/codec.pt, and the visual encoders by part: of the checkpoint
    `images`, or trained into `folder`/clip.pt and motion.pt. Where `folder`/start.pt has all,
    nothing else is needed.
    """
    config = recipe.codec_model
    training = read_training(config.codec, recipe.codec_training)
    start = folder / "start.pt"
    if is_made(start, **encoder_files(folder)):
        return visual_parts_of(start, config)
    given = None if images is None else visual_parts_of(images, config)
    clips: Clips | Recordings
    if given is None:
        clips = rendered_clips(folder / "world", "train", recipe.rendered_clips, config)
    else:  # no frame need be rendered
        sounds = world_sounds(folder / "sounds", recipe.rendered_clips, os.cpu_count() or 1)
        clips = read_recordings(sounds)
    minutes = recipe.codec_minutes
    report("codec", train_codec(folder, clips, config, recipe.codec, minutes, 0, training))
    if given is not None:
        return given
    report("clip", train_clip(folder, clips, config, recipe.clip_minutes, 0))
    clip = build_clip(config)
    clip.load_state_dict(averaged_weights(folder / "clip.pt"))
    parts: dict[str, nn.Module] = {"image_encoder": ImageEncoder(config, clip.visual)}
    if config.motion_dim:
        report(
            "motion", train_motion(folder, clips, config, recipe.motion_minutes, 0, recipe.motion)
        )
        motion = MotionEncoder(config)
        motion.load_state_dict(motion_weights(averaged_weights(folder / "motion.pt")))
        parts[MOTION] = motion
    return parts


def encoder_files(folder: Path) -> dict[str, Path]:
    """The encoders' files by name. In a folder that was copied to another machine without them
    there is none."""
    return {name: folder / f"{name}.pt" for name in ("codec", "clip", "motion", "kinds")}


def visual_parts_of(images: Path, config: ModelConfig) -> dict[str, nn.Module]:
    """Those of a checkpoint. Raises OptionError for another than the config has."""
    checkpoint = read_checkpoint(images)
    for fact in OF_IMAGES:
        found, expected = getattr(checkpoint.config, fact), getattr(config, fact)
        if found != expected:
            raise OptionError(
                f"{images} has {fact} {found}, expected {expected} as the model {config.name}; "
                "take the checkpoint of another run, or leave --image-encoder out"
            )
    return checkpoint.visual_parts()


def write_start(
    path: Path,
    recipe: Recipe,
    config: ModelConfig,
    visual: dict[str, nn.Module],
    codec_path: Path,
    data: str | None = None,
) -> Path:
    """A checkpoint with trained encoders whose transformer is untrained.

    data: what they have learned from, where that is more than FoleyWorld.
    """

    def make() -> None:
        codec = build_codec(config, recipe.codec)
        load_codebooks(codec, averaged_weights(codec_path))
        torch.manual_seed(recipe.pretrain.seed)
        vab = VAB(config)
        vab.use_codebooks(codec.codebooks)
        modules = {"vab": vab, "codec": codec, **visual}
        write_checkpoint(path, header_of(recipe, config, codec_path.parent, data), modules)

    stage(path, make, **encoder_files(codec_path.parent))
    return path


def header_of(recipe: Recipe, config: ModelConfig, folder: Path, data: str | None = None) -> Header:
    made = (path for path in encoder_files(folder).values() if path.exists())
    steps = {f"{path.stem}_steps": str(steps_made(path)) for path in made}
    world = f"FoleyWorld {foleyworld.VERSION}, {recipe.clips} training clips of 10 s, procedural"
    trained_by = {"data": data or world, "trained_by": "python -m recipes.train"}
    return Header(
        config=config,
        codec_settings=recipe.codec,
        options=recipe.options_of(config),
        license=recipe.license,
        provenance=trained_by | steps,
    )
