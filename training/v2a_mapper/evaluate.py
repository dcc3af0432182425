"""The questions of V2A-Mapper's paper on FoleyWorld: `python -m training.v2a_mapper.evaluate`.

How far frames' and sounds' vectors are apart; no mapper, the regression, the prior: in fidelity,
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
from training.command import run_command
from training.evaluation.evaluator import ClipFeatures, by_sound, evaluate_clips, open_evaluator
from training.evaluation.intervals import mean_of
from training.evaluation.measures import frechet_distance
from training.evaluation.reference import Reference
from training.marked_tables import PAPER, write_between
from training.saving import write_whole
from training.v2a_mapper.bundle_cost import cost
from training.v2a_mapper.checkpoint import V2ACheckpoint, read_v2a_checkpoint
from training.v2a_mapper.clap import load_clap, text_vectors
from training.v2a_mapper.markdown import NAME, markdown
from training.v2a_mapper.modality_gap import gap, spread
from training.v2a_mapper.sounds import V2AEvalConfig, open_models, sounds_of_clip
from training.v2a_mapper.texts import class_text
from vab_rt.errors import DataError, OptionError

RESULT = "v2a-figures.json"


def eval_config(folder: Path, **more: Any) -> V2AEvalConfig:
    """How a finished run is evaluated. Raises DataError for one that is not finished."""
    checkpoints = tuple(found_checkpoints(folder))
    clap, videos = folder / "clap.pt", folder / "videos"
    return V2AEvalConfig(checkpoints=checkpoints, clap=clap, videos=videos, **more)


def evaluate(folder: Path, config: V2AEvalConfig, seeds: list[int], workers: int = 1) -> dict:
    """gap, sounds, variability, cost and parameters of the run in `folder`; see the functions
    below."""
    models = open_models(config)  # mistakes are reported before any work
    open_evaluator(config)
    clips = evaluate_clips(sounds_of_clip, [(seed,) for seed in seeds], config, workers)
    texts = texts_of_classes(config.clap, models.checkpoint.config.audio_dim)
    costs = {} if config.alone else {"vab": config.bundle}
    if (folder / "bundle").exists():
        costs = {"v2a": str(folder / "bundle")} | costs
    return {
        "clips": len(seeds),
        "gap": {name: gap(*mapped_and_true(clips, name)) for name in models.systems},
        "sounds": sound_figures(clips, seeds, texts),
        "variability": {name: variability(clips, name) for name in models.systems},
        "cost": {name: cost(bundle) for name, bundle in costs.items()},
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


def mapped_and_true(clips: list[ClipFeatures], name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors [N, D] that frames are mapped to, and of the clips' true sound."""
    mapped, true = (arrays_of(clips, key) for key in (f"mapped/{name}", "vector/ground_truth"))
    return torch.from_numpy(mapped), torch.from_numpy(true)


def arrays_of(clips: list[ClipFeatures], key: str) -> NDArray[np.float32]:
    return np.stack([clip.arrays[key] for clip in clips])


def texts_of_classes(clap: Path, dim: int) -> NDArray[np.float32]:
    """CLAP's unit vectors of the classes' names [classes, D]."""
    return text_vectors(load_clap(clap, dim), [class_text(k) for k in foleyworld.CLASSES]).numpy()


def sound_figures(
    clips: list[ClipFeatures], seeds: list[int], texts: NDArray[np.float32]
) -> dict[str, dict]:
    """By system and bound: what `training.evaluate generation` measures, with `fd`, the distance of
    CLAP's vectors from those of the true sounds, and `cs`, 100 times the mean cosine of CLAP's
    vectors of a sound and of the name of the class that is seen (the nearer of two), with its
    95 % interval over the clips."""
    scenes, sounds = [foleyworld.make_scene(seed) for seed in seeds], by_sound(clips)
    reference = Reference(scenes, sounds["ground_truth"])
    kinds = [foleyworld.CLASSES.index(scene.classes[0]) for scene in scenes]
    true = arrays_of(clips, "vector/ground_truth").astype(np.float64)
    figures = {}
    for name, features in sounds.items():
        vectors = arrays_of(clips, f"vector/{name}")
        cosines = 100 * (vectors * texts[kinds]).sum(1)  # [N]
        figures[name] = reference.measure(features) | {
            "fd": round(frechet_distance(true, vectors.astype(np.float64)), 4),
            **mean_of("cs", cosines),
        }
    return figures


def variability(clips: list[ClipFeatures], name: str) -> dict:
    """Mean distance between two draws for the same clip: of the vectors that its frames are
    mapped to, and of CLAP's vectors of the sounds, with 95 % intervals over the clips."""

    def mean_spread(figure: str, key: str) -> dict:
        draws = [clip.arrays[f"{key}/{name}"] for clip in clips]  # of each [draws, D]
        return mean_of(figure, [spread(torch.from_numpy(x)) for x in draws if len(x) > 1])

    return mean_spread("vector", "again_mapped") | mean_spread("sound", "again_vector")


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
        vab = arguments.vab or None
        config = eval_config(arguments.run, bundle=vab, alone=arguments.alone)
        result = evaluate(arguments.run, config, seeds, arguments.workers)
        write_result(arguments.run, result)
    result = read_result(path)
    if arguments.write:
        write_between(PAPER, NAME, markdown(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
