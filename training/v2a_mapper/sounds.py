"""The sounds that are compared, of each held-out clip by each system, for `evaluate_clips`.

Every sound of V2A-Mapper comes out of the runtime's own loops around the checkpoint's modules, and
VAB's out of a bundle. The bounds: the true sound; that after autoencoder and vocoder; and what the
latent diffusion makes of the true sound's CLAP vector, which no mapper can beat but by chance.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training import foleyworld
from training.evaluation.evaluator import Arrays, EvalConfig, Sound
from training.evaluation.held_out import video_frames, visual_features
from training.evaluation.models import generate
from training.v2a_mapper.checkpoint import V2ACheckpoint, read_v2a_checkpoint
from training.v2a_mapper.clap import TinyClap, load_clap, sound_vectors
from training.v2a_mapper.engines import open_system
from training.v2a_mapper.mel import LogMel
from vab_rt.options import GenerateOptions
from vab_rt.pipeline import Pipeline, load
from vab_rt.v2a_mapper.system import V2AMapper, latent_noise

Vector = NDArray[np.float32]


class V2AEvalConfig(EvalConfig, frozen=True, kw_only=True):
    """checkpoints: by mapper; `none` is one of them, taken without. alone: without VAB, which
    `bundle` is, beside them. draws: further seeds of the first `varied` clips."""

    checkpoints: tuple[tuple[str, Path], ...]
    clap: Path
    alone: bool = False
    draws: int = 3
    varied: int = 24


class Models(NamedTuple):
    """systems: V2A-Mapper by mapper."""

    systems: dict[str, V2AMapper]
    checkpoint: V2ACheckpoint
    autoencoder: torch.nn.Module
    clap: TinyClap
    log_mel: LogMel
    vab: Pipeline | None


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_models(config: V2AEvalConfig) -> Models:
    """Raises VabError for a file that is not there or does not fit."""
    checkpoints = {name: read_v2a_checkpoint(path) for name, path in config.checkpoints}
    systems = {name: open_system(checkpoint) for name, checkpoint in checkpoints.items()}
    first = next(iter(checkpoints.values()))
    if first.config.visual_dim == first.config.audio_dim:
        systems = {"none": open_system(without_mapper(first))} | systems
    return Models(
        systems=systems,
        checkpoint=first,
        autoencoder=first.vae(),
        clap=load_clap(config.clap, first.config.audio_dim),
        log_mel=LogMel(first.config),
        vab=None if config.alone else load(config.bundle, threads=1),
    )


def without_mapper(checkpoint: V2ACheckpoint) -> V2ACheckpoint:
    """The same system, with the frames' vector in the place of the sound's."""
    config = msgspec.structs.replace(checkpoint.config, mapper="none")
    header = msgspec.structs.replace(checkpoint.header, config=config)
    return msgspec.structs.replace(checkpoint, header=header)


def sounds_of_clip(
    number: int, seeds: tuple[int], config: V2AEvalConfig
) -> tuple[dict[str, Sound], Arrays]:
    """By name of a system or bound: its sound, and under vector/NAME that sound's CLAP vector [D].

    mapped/NAME: the vector that a system maps the frames to. again_mapped/NAME and
    again_vector/NAME: of further seeds, that vector and the sound's [draws, D].
    """
    models, (seed,), options = open_models(config), seeds, config.options_of(number)
    true = foleyworld.make_scene(seed).audio()
    first = next(iter(models.systems.values()))
    frames = video_frames(seed, models.checkpoint.config, config.videos)
    features = np.stack(list(first.see(iter(frames))))
    sounds = {"ground_truth": true} | bounds(models, true, options)
    arrays: Arrays = {}
    others = other_seeds(options, config.draws) if number < config.varied else []
    for name, system in models.systems.items():
        mapped = system.embedding_of(features, options.seed)[0]
        sounds[name] = sound_of(system, mapped, options)
        drawn = [system.embedding_of(features, other.seed)[0] for other in others]
        made = [sound_of(system, v, other) for v, other in zip(drawn, others, strict=True)]
        arrays[f"mapped/{name}"], arrays[f"again_mapped/{name}"] = mapped, np.array(drawn)
        arrays[f"again_vector/{name}"] = np.array([vector_of(models, sound) for sound in made])
    if models.vab is not None:
        frames = video_frames(seed, models.vab.config, config.videos)
        features = visual_features(frames, models.vab)
        sounds["vab"] = generate(models.vab, features[None], options)
    vectors = {f"vector/{name}": vector_of(models, sound) for name, sound in sounds.items()}
    return sounds, arrays | vectors


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
