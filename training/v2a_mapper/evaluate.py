"""The questions of V2A-Mapper's paper on FoleyWorld: `python -m training.v2a_mapper.evaluate`.

How far pictures' and sounds' vectors are apart; no mapper, the regression, the prior: in fidelity,
relevance and variability; and the whole system beside VAB. Progress goes to stderr, the last line
is one JSON object; with --write it also fills the tables of docs/PAPER.md.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training import foleyworld
from training.command import run_command, shown
from training.datasets.shard_format import write_whole
from training.documents import PAPER, write_between
from training.evaluation.measures import frechet_distance
from training.evaluation.reference import Reference, mean_of
from training.v2a_mapper.checkpoint import V2ACheckpoint, read_v2a_checkpoint
from training.v2a_mapper.clap import load_clap, text_vectors
from training.v2a_mapper.gap import gap, spread
from training.v2a_mapper.listening import HeardClip, V2ATrial, heard_clips, open_models
from training.v2a_mapper.markdown import NAME, markdown
from training.v2a_mapper.measuring import cost
from training.v2a_mapper.texts import class_text
from vab_rt.errors import DataError, OptionError

RESULT = "v2a-figures.json"


def trial_of(folder: Path, vab: str | None = "", **more: Any) -> V2ATrial:
    """What is compared of a finished run; vab: the bundle that stands beside it.

    Raises DataError for a run that is not finished.
    """
    return V2ATrial(
        checkpoints=tuple(found_checkpoints(folder)),
        clap=folder / "clap.pt",
        vab=vab,
        films=folder / "films",
        **more,
    )


def evaluate(folder: Path, trial: V2ATrial, seeds: list[int], workers: int = 1) -> dict:
    """gap, sounds, variability, cost and parameters of the run in `folder`; see the functions
    below."""
    models = open_models(trial)  # mistakes are told before any work
    clips = shown("clips heard", heard_clips(trial, seeds, workers), len(seeds))
    ordered = sorted(clips, key=lambda clip: clip.number)
    dim = models.checkpoint.config.audio_dim
    bundle = folder / "bundle"
    return {
        "clips": len(seeds),
        "gap": {name: gap(*mapped_and_heard(ordered, name)) for name in models.systems},
        "sounds": sound_figures(ordered, seeds, texts_of_classes(trial.clap, dim)),
        "variability": {name: variability(ordered, name) for name in models.systems},
        "cost": {
            name: cost(str(path) or None)
            for name, path in {"v2a": bundle, "vab": trial.vab}.items()
            if path is not None and (name == "vab" or bundle.exists())
        },
        "parameters": parameters(models.checkpoint),
    }


def found_checkpoints(folder: Path) -> list[tuple[str, Path]]:
    """Those of a run, by mapper. Raises DataError where there is none."""
    paths = [folder / "ckpt.pt", *sorted(folder.glob("ckpt-*.pt"))]
    if not paths[0].exists():
        raise DataError(
            f"{paths[0]} is not there, expected a finished run; train it with: "
            f"python -m recipes.train v2a-mapper --out {folder}"
        )
    found = [(read_v2a_checkpoint(path).config.mapper, path) for path in paths]
    return sorted(found, reverse=True)  # regression, prior


def mapped_and_heard(clips: list[HeardClip], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors [N, D] that pictures are mapped to, and of the clips' true sound."""
    mapped = np.stack([clip.mapped[name] for clip in clips])
    heard = np.stack([clip.sounds["ground_truth"].vector for clip in clips])
    return torch.from_numpy(mapped), torch.from_numpy(heard)


def texts_of_classes(clap: Path, dim: int) -> NDArray[np.float32]:
    """CLAP's unit vectors of the classes' names [classes, D]."""
    return text_vectors(load_clap(clap, dim), [class_text(k) for k in foleyworld.CLASSES]).numpy()


def sound_figures(
    clips: list[HeardClip], seeds: list[int], texts: NDArray[np.float32]
) -> dict[str, dict]:
    """By system and bound: what `training.evaluate generation` measures, with `fd`, the distance of
    CLAP's vectors from those of the true sounds, and `cs`, 100 times the mean cosine of CLAP's
    vectors of a sound and of the name of the class that is seen (the nearer of two), with its
    95 % interval over the clips."""
    scenes = [foleyworld.make_scene(seed) for seed in seeds]
    reference = Reference(scenes, [clip.sounds["ground_truth"].heard for clip in clips])
    kinds = [foleyworld.CLASSES.index(scene.classes[0]) for scene in scenes]
    true = np.stack([clip.sounds["ground_truth"].vector for clip in clips]).astype(np.float64)
    figures = {}
    for name in clips[0].sounds:
        vectors = np.stack([clip.sounds[name].vector for clip in clips])
        cosines = 100 * (vectors * texts[kinds]).sum(1)  # [N]
        figures[name] = reference.measure([clip.sounds[name].heard for clip in clips]) | {
            "fd": round(frechet_distance(true, vectors.astype(np.float64)), 4),
            **mean_of("cs", cosines),
        }
    return figures


def variability(clips: list[HeardClip], name: str) -> dict:
    """Mean distance between two draws for the same clip: of the vectors that its pictures are
    mapped to, and of CLAP's vectors of the sounds, with 95 % intervals over the clips."""

    def over_clips(key: str, draws: list[list[NDArray[np.float32]]]) -> dict:
        spreads = [spread(torch.from_numpy(np.stack(x))) for x in draws if len(x) > 1]
        return mean_of(key, spreads)

    return over_clips("vector", [clip.again_mapped[name] for clip in clips]) | over_clips(
        "sound", [clip.again_heard[name] for clip in clips]
    )


def parameters(checkpoint: V2ACheckpoint) -> dict[str, int]:
    """By part."""
    return {
        part: sum(x.numel() for x in weights.values())
        for part, weights in checkpoint.weights.items()
    }


def beside_bounds(result: dict, mapper: str) -> dict:
    """The sound of one mapper, and the others' as its bounds, as for any other model."""
    sounds = result["sounds"]
    bounds = {name: figures for name, figures in sounds.items() if name != mapper}
    return sounds[mapper] | {"clips": result["clips"], "bounds": bounds}


def write_result(folder: Path, result: dict) -> None:
    write_whole(folder / RESULT, json.dumps(result).encode() + b"\n")


def read_result(path: Path) -> dict:
    """What `write_result` left. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path} is not there, expected figures; run this without --table first")
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected figures; run this without --table"
        ) from error


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.v2a_mapper.evaluate", description=__doc__
    )
    parser.add_argument("--run", type=Path, default=Path("runs/v2a-mapper"), help="a finished run")
    parser.add_argument("--clips", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0, help="first clip within the test split")
    parser.add_argument("--vab", default="", help="the bundle beside it (default: the shipped one)")
    parser.add_argument("--alone", action="store_true", help="without VAB beside it")
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--table", action="store_true", help="of the figures that are there")
    parser.add_argument("--write", action="store_true", help="the tables of docs/PAPER.md too")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.clips < 2 or arguments.workers < 1:
        raise OptionError(
            f"clips {arguments.clips} and workers {arguments.workers}: expected at least 2 and 1"
        )
    path = arguments.run / RESULT
    if not arguments.table:
        seeds = foleyworld.clip_seeds("test", arguments.seed, arguments.clips)
        vab = None if arguments.alone else arguments.vab
        trial = trial_of(arguments.run, vab)
        result = evaluate(arguments.run, trial, seeds, arguments.workers)
        write_result(arguments.run, result)
    result = read_result(path)
    if arguments.write:
        write_between(PAPER, NAME, markdown(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
