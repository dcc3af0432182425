"""Make the sounds that are compared, and hear them: of each held-out clip, by each system.

Every sound of V2A-Mapper comes out of the runtime's own loops around the checkpoint's modules, and
VAB's out of a bundle. The bounds: the true sound; that after autoencoder and vocoder; and what the
latent diffusion makes of the true sound's CLAP vector, which no mapper can beat but by chance.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training import foleyworld
from training.evaluation.classifier import KEPT, load_classifier
from training.evaluation.generation import generate
from training.evaluation.heard import Heard, Listener
from training.evaluation.held_out import film, one_thread_in_a_worker, seen
from training.processes import in_parallel
from training.saving import arrays_once
from training.v2a_mapper.checkpoint import V2ACheckpoint, read_v2a_checkpoint
from training.v2a_mapper.clap import TinyClap, load_clap, sound_vectors
from training.v2a_mapper.engines import open_system
from training.v2a_mapper.mel import LogMel
from vab_rt.config import ClipConfig, GenerateOptions
from vab_rt.pipeline import Pipeline, load
from vab_rt.v2a_mapper.system import V2AMapper, latent_noise

MAPPED = ("none", "regression", "prior")
BOUNDS = ("ground_truth", "autoencoded", "true_vector")
AGAIN = ("again_mapped", "again_heard")
Sound = NDArray[np.float32]
Vector = NDArray[np.float32]


class V2ATrial(msgspec.Struct, frozen=True, kw_only=True):
    """checkpoints: by mapper; `none` is one of them, taken without. vab: a bundle, or None for no
    comparison, "" for the shipped one. draws: further seeds of the first `varied` clips. films,
    heard: folders for pictures, and for what was heard, which the next run finds there."""

    checkpoints: tuple[tuple[str, Path], ...]
    clap: Path
    classifier: Path = KEPT
    vab: str | None = ""
    films: Path | None = None
    heard: Path | None = None
    options: GenerateOptions = GenerateOptions()
    draws: int = 3
    varied: int = 24


class HeardSound(NamedTuple):
    """What the classifier and the onset detector heard, and CLAP's vector [D]."""

    heard: Heard
    vector: Vector


class HeardClip(NamedTuple):
    """By name of a system or bound: its sound, and where it begins with pictures, the vector that
    they are mapped to. again_*: those vectors, and CLAP's of the sound, of further seeds."""

    number: int
    sounds: dict[str, HeardSound]
    mapped: dict[str, Vector]
    again_mapped: dict[str, list[Vector]]
    again_heard: dict[str, list[Vector]]


class Models(NamedTuple):
    """systems: V2A-Mapper by mapper."""

    systems: dict[str, V2AMapper]
    checkpoint: V2ACheckpoint
    autoencoder: torch.nn.Module
    clap: TinyClap
    log_mel: LogMel
    listener: Listener
    vab: Pipeline | None


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_models(trial: V2ATrial) -> Models:
    """Raises VabError for a file that is not there or does not fit."""
    checkpoints = {name: read_v2a_checkpoint(path) for name, path in trial.checkpoints}
    systems = {name: open_system(checkpoint) for name, checkpoint in checkpoints.items()}
    first = next(iter(checkpoints.values()))
    if first.config.visual_dim == first.config.audio_dim:
        systems = {"none": open_system(without_mapper(first))} | systems
    return Models(
        systems=systems,
        checkpoint=first,
        autoencoder=first.vae(),
        clap=load_clap(trial.clap, first.config.audio_dim),
        log_mel=LogMel(first.config),
        listener=Listener(load_classifier(trial.classifier)),
        vab=None if trial.vab is None else load(trial.vab or None, threads=1),
    )


def without_mapper(checkpoint: V2ACheckpoint) -> V2ACheckpoint:
    """The same system, with the pictures' vector in the place of the sound's."""
    config = msgspec.structs.replace(checkpoint.config, mapper="none")
    header = msgspec.structs.replace(checkpoint.header, config=config)
    return msgspec.structs.replace(checkpoint, header=header)


def heard_clips(trial: V2ATrial, seeds: list[int], workers: int) -> Iterator[HeardClip]:
    """Make and hear all sounds of these clips, in any order."""
    jobs = ((number, seed, trial) for number, seed in enumerate(seeds))
    yield from in_parallel(hear_once, jobs, workers)


def hear_once(job: tuple[int, int, V2ATrial]) -> HeardClip:
    """What `trial.heard` has of this clip, or else is given now."""
    number, seed, trial = job
    path = None if trial.heard is None else trial.heard / f"{number}-{seed}.npz"
    return unflattened(number, arrays_once(path, lambda: flattened(hear_clip(job))))


def flattened(clip: HeardClip) -> dict[str, NDArray[Any]]:
    """sounds/SOUND/MEASURE, its `vector` among them, and FIELD/SYSTEM of the other fields."""
    arrays = {
        f"sounds/{name}/{measure}": array
        for name, sound in clip.sounds.items()
        for measure, array in (sound.heard._asdict() | {"vector": sound.vector}).items()
    }
    for field in ("mapped", *AGAIN):
        arrays |= {f"{field}/{name}": np.array(x) for name, x in getattr(clip, field).items()}
    return arrays


def unflattened(number: int, arrays: dict[str, NDArray[Any]]) -> HeardClip:
    fields: dict[str, dict] = {field: {} for field in ("sounds", "mapped", *AGAIN)}
    for key, array in arrays.items():
        field, name, *measure = key.split("/")
        if measure:
            fields[field].setdefault(name, {})[measure[0]] = array
        else:
            fields[field][name] = list(array) if field in AGAIN else array
    for name, measures in fields["sounds"].items():
        vector = measures.pop("vector")
        fields["sounds"][name] = HeardSound(Heard(**measures), vector)
    return HeardClip(number, **fields)


def hear_clip(job: tuple[int, int, V2ATrial]) -> HeardClip:
    number, seed, trial = job
    one_thread_in_a_worker()
    models, true = open_models(trial), foleyworld.make_scene(seed).audio()
    options = msgspec.structs.replace(trial.options, seed=trial.options.seed + number)
    features = features_of(models.checkpoint.config, seed, trial, models)
    sounds = {"ground_truth": true} | bounds(models, true, options)
    mapped, again_mapped, again_heard = {}, {}, {}
    others = other_seeds(options, trial.draws) if number < trial.varied else []
    for name, system in models.systems.items():
        mapped[name] = system.embedding_of(features, options.seed)[0]
        sounds[name] = sound_of(system, mapped[name], options)
        drawn = [system.embedding_of(features, other.seed)[0] for other in others]
        again_mapped[name] = drawn
        again_heard[name] = [
            vector_of(models, sound_of(system, vector, other))
            for vector, other in zip(drawn, others, strict=True)
        ]
    if models.vab is not None:
        features = seen(film(seed, models.vab.config, trial.films), models.vab)
        sounds["vab"] = generate(models.vab, features[None], options)
    heard = {name: hear(models, sound) for name, sound in sounds.items()}
    return HeardClip(number, heard, mapped, again_mapped, again_heard)


def features_of(
    config: ClipConfig, seed: int, trial: V2ATrial, models: Models
) -> NDArray[np.float32]:
    """Of a clip's pictures as the runtime sees them [F, visual_dim]."""
    frames = film(seed, config, trial.films)
    return np.stack(list(next(iter(models.systems.values())).see(iter(frames))))


def other_seeds(options: GenerateOptions, draws: int) -> list[GenerateOptions]:
    """Seeds that no clip has of its own."""
    return [
        msgspec.structs.replace(options, seed=options.seed + (draw << 32))
        for draw in range(1, draws + 1)
    ]


def sound_of(system: V2AMapper, vector: Vector, options: GenerateOptions) -> Sound:
    """Sound [S] for a unit vector [audio_dim]."""
    start = latent_noise(system.config, options.seed)
    *_, (_, latents) = system.denoise_latents(vector[None], start, system.options(options))
    return system.render(latents)[0]


@torch.inference_mode()
def bounds(models: Models, true: Sound, options: GenerateOptions) -> dict[str, Sound]:
    system = next(iter(models.systems.values()))
    log_mels = models.log_mel(torch.from_numpy(true)[None])  # [1, frames, mels]
    latents = models.autoencoder.encode(log_mels[:, None]).latent_dist.mean
    scaled = latents * models.autoencoder.config.scaling_factor
    vector = sound_vectors(models.clap, log_mels.numpy())[0].numpy()
    return {
        "autoencoded": system.render(scaled.numpy())[0],
        "true_vector": sound_of(system, vector, options),
    }


@torch.inference_mode()
def vector_of(models: Models, sound: Sound) -> Vector:
    """CLAP's unit vector [D] of a sound [S]."""
    log_mels = models.log_mel(torch.from_numpy(sound)[None])
    return sound_vectors(models.clap, log_mels.numpy())[0].numpy()


def hear(models: Models, sound: Sound) -> HeardSound:
    return HeardSound(models.listener(sound), vector_of(models, sound))
