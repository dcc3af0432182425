"""What recipes are made of: encoders, tokens, a transformer, a bundle; each leaves a file, and a
second run finds it."""

import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from training import distributed, evaluate, foleyworld
from training.checkpoint import MOTION, Checkpoint, Header, read_checkpoint, write_checkpoint
from training.clip_training import train_clip
from training.codec_training import train_codec
from training.codecs.codec import build_codec
from training.codecs.recordings import Recordings, read_recordings, world_sounds
from training.codecs.settings import read_training
from training.command import report
from training.datasets.clips import ClipSource, TokenisedClips
from training.datasets.growing import Field, Row, drop_older, grow, is_older, read_grown
from training.datasets.rendered import Clips, rendered_clips
from training.datasets.shard_format import write_whole
from training.evaluation.classifier import KEPT
from training.evaluation.held_out import encoded_clips, with_classes
from training.evaluation.trial import Trial
from training.fitting import averaged_weights, steps_made
from training.image_encoder import TINY, ImageEncoder, build_clip
from training.model import VAB
from training.motion_training import motion_weights, train_motion
from training.names import readable
from training.pretrain import PretrainSettings, pretrain
from training.recipes import Recipe
from training.saving import save_whole
from training.visual_encoder import MotionEncoder
from vab_rt.bundle import MANIFEST, read_manifest
from vab_rt.config import ModelConfig, Tuning
from vab_rt.errors import BundleError, DataError, OptionError
from vab_rt.output import UNFINISHED, writing

CHECKOUT = Path(__file__).parents[1]
FREE = (
    *("pretrain_minutes", "fine_minutes", "contrastive_minutes", "classification_minutes"),
    *("denoiser_minutes", "evaluated_clips", "options"),
)
"""What may change between runs in one folder: no other network learns from what comes of it."""
OF_IMAGES = ("image_encoder", "image_size", "visual_dim", "motion_dim", "motion_reach")


def hold_recipe(folder: Path, recipe: msgspec.Struct, **given: Path | str | None) -> None:
    """Leaves the recipe, and what else was `given`, in `folder`, whose later runs must have the
    same: what was made with another would stay unnoticed. FREE may change.

    Raises OptionError naming what differs.
    """
    path = folder / "recipe.json"
    now = flat(msgspec.json.decode(msgspec.json.encode(recipe)))
    now |= {name: None if value is None else readable(value) for name, value in given.items()}
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(UNFINISHED):  # of a process that was killed
            leftover.unlink()
    if not path.exists() or list(folder.iterdir()) == [path]:  # nothing was made yet
        return write_whole(path, msgspec.json.format(msgspec.json.encode(now)) + b"\n")
    try:
        before = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected the recipe of this folder; delete it to go "
            "on with the one that you give"
        ) from error
    both = sorted(before.keys() & now.keys())  # a version before or after this one may have others
    differing = [name for name in both if before[name] != now[name]]
    if differing:
        name = differing[0]
        raise OptionError(
            f"{folder} was begun with {name} {before[name]!r}, expected that and not "
            f"{now[name]!r} ({len(differing)} differ in all); choose another --out, or delete "
            f"{path} to keep what was made"
        )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A.B.C: value of nested tables, without what may change between runs."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in FREE:
            continue
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def train_encoders(
    recipe: Recipe, folder: Path, images: Path | None = None
) -> dict[str, nn.Module]:
    """The codec, into `folder`/codec.pt, and the visual encoders by part: of the checkpoint
    `images`, or trained into `folder`/clip.pt and motion.pt. Where `folder`/start.pt has all,
    nothing else is needed.

    Raises OptionError where one is not of FoleyWorld.
    """
    config = recipe.codec_model
    if config.codec != "spectral" or config.image_encoder != TINY:
        raise OptionError(
            f"model {recipe.model.name} has the codec {config.codec} and the image encoder "
            f"{config.image_encoder}, expected spectral and {TINY}: recipes train these on "
            "FoleyWorld; the others come with weights of their own: put them in a checkpoint with "
            "python -m export.import_weights, and begin with --start CKPT --shards DIR"
        )
    training = read_training(config.codec, recipe.codec_training)
    start = folder / "start.pt"
    if not is_older(start, *trained_encoders(folder)):
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


def trained_encoders(folder: Path) -> list[Path]:
    """The files of codec and visual encoders that are there: of a folder that was copied to
    another machine without them, none."""
    names = ("codec", "clip", "motion")
    return [path for name in names if (path := folder / f"{name}.pt").exists()]


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
) -> Path:
    """A checkpoint with trained encoders whose transformer is untrained, made once."""
    if is_older(path, *trained_encoders(codec_path.parent)):
        codec = build_codec(config, recipe.codec)
        load_codebooks(codec, averaged_weights(codec_path))
        torch.manual_seed(recipe.pretrain.seed)
        vab = VAB(config)
        vab.use_codebooks(codec.codebooks)
        modules = {"vab": vab, "codec": codec, **visual}
        path.parent.mkdir(exist_ok=True)
        write_checkpoint(path, header_of(recipe, config, codec_path.parent), modules)
    return path


def load_codebooks(codec: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """The weights of a codec of as many codebooks or more, of which `codec` takes the first."""
    codec.load_state_dict({name: weights[name] for name in codec.state_dict()})


def header_of(recipe: Recipe, config: ModelConfig, folder: Path) -> Header:
    steps = {f"{path.stem}_steps": str(steps_made(path)) for path in trained_encoders(folder)}
    world = f"FoleyWorld {foleyworld.VERSION}, {recipe.clips} training clips of 10 s, procedural"
    trained_by = {"data": world, "trained_by": "python -m training.recipe"}
    return Header(
        config=config,
        codec_settings=recipe.codec,
        options=recipe.options_of(config),
        licence=recipe.licence,
        provenance=trained_by | steps,
    )


def encoded(path: Path, start: Path, split: str, count: int) -> TokenisedClips:
    """Clips of a split by the encoders in `start`, kept in `path` until these change."""
    rows = path.with_name(f"{path.stem}-{count}")
    if not is_older(path, start):
        kept = TokenisedClips.load(path)
        if len(kept) == count:
            shutil.rmtree(rows, ignore_errors=True)
            return kept
    config, seeds = read_checkpoint(start).config, foleyworld.clip_seeds(split, 0, count)
    fields = {
        "tokens": Field("<i2", (config.num_codebooks, config.num_token_steps)),
        "features": Field("<f2", (config.num_frames, config.visual_dim)),
    }

    def rows_from(first: int) -> Iterator[Row]:
        for clip in encoded_clips(start, seeds[first:], os.cpu_count() or 1, "cpu"):
            yield Row({"tokens": clip.tokens, "features": clip.features})

    drop_older(rows, start)
    arrays, _ = read_grown(grow(rows, fields, count, rows_from), ("tokens", "features"))
    with_classes(arrays["tokens"], arrays["features"], seeds).save(path)
    shutil.rmtree(rows)
    return TokenisedClips.load(path)


def train_model(
    folder: Path,
    start: Checkpoint,
    clips: ClipSource,
    validation: TokenisedClips | None,
    settings: PretrainSettings,
    minutes: float | None,
    options: Tuning,
) -> Path:
    """Pre-train the transformer of `start`; the path of the finished checkpoint, whose model wants
    to be decoded with these `options`."""
    report(
        f"pretrain {start.config.name}",
        pretrain(folder, clips, validation, start.vab(), settings, minutes),
    )
    path = folder / "ckpt.pt"
    if distributed.rank() == 0 and is_older(path, folder / "vab.pt", start.path):
        vab = VAB(start.config)
        vab.load_state_dict(averaged_weights(folder / "vab.pt"))
        modules = {"vab": vab, "codec": start.codec(), **start.visual_parts()}
        made = {
            "date": datetime.date.today().isoformat(),
            "pretraining_steps": str(steps_made(folder / "vab.pt")),
        }
        header = msgspec.structs.replace(start.header.with_provenance(made), options=options)
        write_checkpoint(path, header, modules)
    elif distributed.rank() == 0:
        recommend(path, options)
    distributed.barrier()
    return path


def recommend(path: Path, options: Tuning) -> None:
    """Write other options into a checkpoint, which stays as old as its weights."""
    checkpoint = read_checkpoint(path)
    if checkpoint.header.options == options:
        return
    times, header = path.stat(), msgspec.structs.replace(checkpoint.header, options=options)
    save_whole(path, msgspec.to_builtins(header) | checkpoint.weights)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def evaluate_bundle(recipe: Recipe, folder: Path) -> None:
    """Generation by `folder`/bundle on held-out clips of unseen seeds, once for a checkpoint."""
    graphs, count = sorted((folder / "bundle").glob("*.onnx")), recipe.evaluated_clips
    if is_measured(folder, "generation", count, *graphs):
        return
    seeds = foleyworld.clip_seeds("test", 0, count)
    heard = folder / "heard"
    drop_older(heard, KEPT, *graphs)
    trial = Trial(bundle=str(folder / "bundle"), films=folder / "films", heard=heard)
    keep(folder, "generation", evaluate.evaluate_generation(trial, seeds, os.cpu_count() or 1))
    shutil.rmtree(heard)


def is_measured(folder: Path, task: str, clips: int, *sources: Path) -> bool:
    """Whether that is done, on so many clips and since the sources were made."""
    path = result_path(folder, task)
    try:
        return not is_older(path, *sources) and json.loads(path.read_bytes())["clips"] == clips
    except (ValueError, KeyError, TypeError):  # no result of ours
        return False


def keep(folder: Path, task: str, result: dict) -> None:
    write_whole(result_path(folder, task), json.dumps(result).encode() + b"\n")
    print(f"{task}: {json.dumps(result)}", flush=True)


def result_path(folder: Path, task: str) -> Path:
    return folder / f"evaluation-{task}.json"


def describe(folder: Path) -> None:
    """The card of `folder`/bundle, with all that was measured of this checkpoint."""
    measured = sorted(folder.glob("evaluation-*.json"))
    files = [str(path.resolve()) for path in measured if not is_older(path, folder / "ckpt.pt")]
    command = [sys.executable, "-m", "export.card", str((folder / "bundle").resolve()), *files]
    if subprocess.run(command, cwd=CHECKOUT, check=False).returncode:
        raise DataError(f"{folder / 'bundle'} has no card, see above; expected {folder}/bundle")


def export(checkpoint: Path, bundle: Path, fine: Path | None = None) -> None:
    """Into `bundle`, unless it is made of the same. The layer above this one, so it is run, not
    imported."""
    if is_exported(bundle, checkpoint_sha256=checkpoint, fine_checkpoint_sha256=fine):
        return
    pair = [] if fine is None else ["--fine", str(fine.resolve())]
    command = [sys.executable, "-m", "export.build_engines", str(checkpoint.resolve())]
    options = ["--out", str(bundle.resolve()), "--store", "fp16", "--force"]
    if subprocess.run([*command, *pair, *options], cwd=CHECKOUT, check=False).returncode:
        raise DataError(f"{checkpoint} was not exported, see above; expected {bundle}")


def is_exported(bundle: Path, **checkpoints: Path | None) -> bool:
    """Whether `bundle` names the hash of each checkpoint in its provenance."""
    try:
        named = read_manifest(bundle / MANIFEST).provenance
    except BundleError:  # there is none, or a damaged one
        return False
    return named == named | {key: sha256(path) for key, path in checkpoints.items() if path}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
