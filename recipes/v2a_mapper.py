"""The whole chain of a V2A-Mapper: `python -m recipes.train v2a-mapper`.

CLIP -> pairs of frames and sound -> CLAP -> autoencoder -> latent diffusion -> vocoder -> both
mappers -> ckpt.pt and ckpt-OTHER.pt -> bundle -> evaluation. Each stage leaves a file in the run's
folder; run the command again to go on where it stopped.
"""

import datetime
import os
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from recipes.results import describe, export, keep
from training import foleyworld
from training.clip_training import train_clip
from training.codecs.recordings import read_recordings, world_sounds
from training.command import report
from training.datasets.rendered import rendered_clips
from training.evaluation.classifier import KEPT
from training.fitting import steps_made
from training.image_encoder import TINY
from training.stage import stage
from training.v2a_mapper.autoencoder import (
    load_autoencoder,
    scaling_factor,
    train_autoencoder,
    write_latents,
)
from training.v2a_mapper.checkpoint import V2AHeader, write_v2a_checkpoint
from training.v2a_mapper.clap import TinyClap, load_clap, sound_vectors, text_vectors, train_clap
from training.v2a_mapper.config import V2ARecipe
from training.v2a_mapper.denoiser import Sounds, load_denoiser, train_denoiser
from training.v2a_mapper.evaluate import beside_bounds, eval_config, evaluate, write_result
from training.v2a_mapper.mapping import Matched, load_mapper, train_mapper
from training.v2a_mapper.pairs import Pairs, load_picture_encoder, made_pairs
from training.v2a_mapper.settings import Networks
from training.v2a_mapper.vocoder import Recorded, load_vocoder, train_vocoder
from vab_rt.errors import OptionError
from vab_rt.output import whole_file, writing

MAPPERS = ("regression", "prior")
TRAINED = ("clap", "vae", "unet", "vocoder")


def run(recipe: V2ARecipe, folder: Path) -> None:
    """Train, export and evaluate everything on FoleyWorld, into `folder`."""
    checkpoint = train(recipe, folder)
    export(checkpoint, folder / "bundle")
    kept, count = folder / "evaluated", recipe.evaluated_clips

    def measure() -> dict:
        seeds = foleyworld.clip_seeds("test", 0, count)
        result = evaluate(folder, eval_config(folder, kept=kept), seeds, os.cpu_count() or 1)
        write_result(folder, result)
        return beside_bounds(result, recipe.model.mapper)

    both = {kind: checkpoint_path(recipe, folder, kind) for kind in MAPPERS}
    keep(folder, "generation", measure, parts=[kept], clips=count, classifier=KEPT, **both)
    describe(folder)


def train(recipe: V2ARecipe, folder: Path) -> Path:
    """Everything on FoleyWorld, into `folder`; the path of the checkpoint with the recipe's mapper.

    Raises OptionError for a mapper that is none, encoders that are not of FoleyWorld, and parts of
    clips longer than a clip.
    """
    if recipe.model.mapper not in MAPPERS:
        raise OptionError(f"mapper is {recipe.model.mapper!r}, expected {' or '.join(MAPPERS)}")
    if recipe.model.image_encoder != TINY:
        raise OptionError(
            f"model {recipe.model.name} has the image encoder {recipe.model.image_encoder}, "
            f"expected {TINY}: recipes train one on FoleyWorld; others come with weights of their "
            "own: put them in a checkpoint with python -m export.import_weights, docs/WEIGHTS.md"
        )
    recipe.check_crops()
    folder.mkdir(parents=True, exist_ok=True)
    clip, workers = trained_clip(recipe, folder), os.cpu_count() or 1
    pairs = made_pairs(folder / "pairs", "train", recipe.clips, recipe.model, clip, workers)
    clap = trained_clap(recipe, folder, pairs)
    vectors = kept_vectors(folder, clap, pairs)
    latents = trained_autoencoder(recipe, folder, pairs)
    sounds = Sounds(latents, scaling_factor(latents), vectors, text_vectors(clap, [""])[0])
    stage = train_denoiser(
        folder,
        sounds,
        recipe.model,
        recipe.networks.unet,
        recipe.denoiser,
        recipe.denoiser_minutes,
    )
    report("denoiser", stage)
    hear(recipe, folder, latents, workers)
    for kind in MAPPERS:
        config = msgspec.structs.replace(recipe.model, mapper=kind)
        features = torch.from_numpy(pairs.features.astype(np.float32))
        matched = Matched(features, vectors, config)
        settings = getattr(recipe, kind)
        report(kind, train_mapper(folder, matched, recipe.networks.mapper, settings))
    return write_checkpoints(recipe, folder, clip, sounds)


def trained_clip(recipe: V2ARecipe, folder: Path) -> Path:
    """The file of CLIP's weights: of the ready run, where that got beyond it, or trained here."""
    ready = Path(recipe.ready)
    own = folder / "clip.pt"
    if not own.exists() and (ready / "clip.pt").exists() and (ready / "start.pt").exists():
        load_picture_encoder(ready / "clip.pt", recipe.model)  # refused before any work
        return ready / "clip.pt"
    world = ready / "world" if (ready / "world").exists() else folder / "world"
    clips = rendered_clips(world, "train", recipe.rendered_clips, recipe.model)
    report("clip", train_clip(folder, clips, recipe.model, recipe.clip_minutes, 0))
    return own


def trained_clap(recipe: V2ARecipe, folder: Path, pairs: Pairs) -> TinyClap:
    dim = recipe.model.audio_dim
    report("clap", train_clap(folder, pairs, dim, recipe.clap, recipe.clap_minutes))
    return load_clap(folder / "clap.pt", dim)


def kept_vectors(folder: Path, clap: TinyClap, pairs: Pairs) -> Tensor:
    """CLAP's vectors of all sounds [N, audio_dim], kept until CLAP or the clips change."""
    path = folder / "vectors.npy"

    def make() -> None:
        with whole_file(path, force=True) as part, writing(path), part.open("wb") as file:
            np.save(file, sound_vectors(clap, pairs.mels).numpy())

    stage(path, make, clap=folder / "clap.pt", clips=len(pairs))
    return torch.from_numpy(np.load(path, allow_pickle=False))


def trained_autoencoder(recipe: V2ARecipe, folder: Path, pairs: Pairs) -> np.ndarray:
    """The latents of all clips [N, T, C, M], left on disk."""
    sizes, path = recipe.networks.vae, folder / "latents.npy"
    minutes = recipe.autoencoder_minutes
    report("autoencoder", train_autoencoder(folder, pairs, sizes, recipe.autoencoder, minutes))
    vae = load_autoencoder(folder / "vae.pt", sizes)
    stage(path, partial(write_latents, vae, pairs, path), vae=folder / "vae.pt", clips=len(pairs))
    return np.load(path, mmap_mode="r")


def hear(recipe: V2ARecipe, folder: Path, latents: np.ndarray, workers: int) -> None:
    """Train the vocoder, on sound that belongs to the first of the latents."""
    count = min(recipe.vocoder_clips, len(latents))
    audio = read_recordings(world_sounds(folder / "sounds", count, workers)).audio
    vae = load_autoencoder(folder / "vae.pt", recipe.networks.vae)
    stage = train_vocoder(
        folder,
        Recorded(audio[:count], latents[:count]),
        vae,
        recipe.model,
        recipe.networks.vocoder,
        recipe.vocoder,
        recipe.vocoder_minutes,
    )
    report("vocoder", stage)


def write_checkpoints(recipe: V2ARecipe, folder: Path, clip: Path, sounds: Sounds) -> Path:
    """One of each mapper; the path of the recipe's own."""
    for kind in MAPPERS:
        path = checkpoint_path(recipe, folder, kind)
        networks = {name: folder / f"{name}.pt" for name in (*TRAINED, kind)}
        make = partial(write_one, path, recipe, folder, kind, clip, sounds)
        options = msgspec.structs.asdict(recipe.options)  # with those left to the model
        stage(path, make, clip=clip, options=options, **networks)
    return checkpoint_path(recipe, folder, recipe.model.mapper)


def write_one(
    path: Path, recipe: V2ARecipe, folder: Path, kind: str, clip: Path, sounds: Sounds
) -> None:
    networks, config = recipe.networks, msgspec.structs.replace(recipe.model, mapper=kind)
    vae_sizes = networks.vae | {"scaling_factor": sounds.scale}
    modules = {
        "image_encoder": load_picture_encoder(clip, config),
        "mapper": load_mapper(folder / f"{kind}.pt", config, networks.mapper),
        "unet": load_denoiser(folder / "unet.pt", networks.unet),
        "vae": load_autoencoder(folder / "vae.pt", vae_sizes),
        "vocoder": load_vocoder(folder / "vocoder.pt", networks.vocoder),
    }
    networks = msgspec.structs.replace(networks, vae=vae_sizes)
    write_v2a_checkpoint(path, header_of(recipe, folder, kind, networks), modules, sounds.null)


def checkpoint_path(recipe: V2ARecipe, folder: Path, kind: str) -> Path:
    """ckpt.pt has the recipe's own mapper, ckpt-KIND.pt another one."""
    return folder / ("ckpt.pt" if kind == recipe.model.mapper else f"ckpt-{kind}.pt")


def header_of(recipe: V2ARecipe, folder: Path, kind: str, networks: Networks) -> V2AHeader:
    steps = {f"{name}_steps": str(steps_made(folder / f"{name}.pt")) for name in (*TRAINED, kind)}
    world = f"FoleyWorld {foleyworld.VERSION}, {recipe.clips} training clips of 10 s, procedural"
    made = {"date": datetime.date.today().isoformat(), "trained_by": "python -m recipes.train"}
    return V2AHeader(
        config=msgspec.structs.replace(recipe.model, mapper=kind),
        networks=networks,
        options=recipe.options,
        provenance={"data": world} | made | steps,
        license=recipe.license,
    )
