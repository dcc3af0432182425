"""`python -m bench foleygen`: the paper's autoregressive baseline beside VAB, in quality.

FoleyGen is trained on the tokens and features of a finished run, with its VAB's batches, optimizers
and, without --minutes, its minutes. Then both make the sound of the same held-out clips from the
same features, with the same codec, and are measured as `python -m training.evaluate generation`
does. Run it again to go on where it stopped. It leaves RUN/foleygen.pt and RUN/foleygen-test.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from bench.options import at_least_one, parser_of
from bench.peers.autoregressive import Autoregressive
from bench.peers.foleygen import FoleyGen
from bench.peers.foleygen_training import load_foleygen, train_foleygen
from bench.report import print_facts
from training import foleyworld
from training.command import report, shown
from training.configs import Recipe, read_recipe
from training.datasets.clips import TokenisedClips
from training.evaluation.evaluator import EvalConfig, open_evaluator
from training.evaluation.intervals import means_of
from training.evaluation.models import generate, open_model
from training.evaluation.reference import Reference
from training.evaluation.table import comparison
from training.fitting import minutes_spent, steps_made
from training.saving import write_whole
from training.stage import begin
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, OptionError
from vab_rt.options import GenerateOptions, TokenOptions
from vab_rt.pipeline import Pipeline

OPTIONS = TokenOptions(guidance=3.0, temperature=1.0, top_k=250)
"""As MusicGen samples, whose delay pattern this is (arXiv:2306.05284)."""
SAMPLING = ("guidance", "temperature", "top_k")
BATCH = 16  # clips decoded side by side, for the measures
TIMED_CLIPS = 3  # decoded alone, for the time


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    recipe, run = read_recipe(args.recipe), args.run
    chosen = {key: getattr(args, key) for key in SAMPLING}
    options = msgspec.structs.replace(OPTIONS, **chosen)
    check_files(run, args.recipe, args.split)
    evaluation = EvalConfig(checkpoint=run / "ckpt.pt")
    pipeline = open_model(evaluation).pipeline  # mistakes are reported before any work
    config = foleygen_config(recipe, pipeline.config, args.stride)
    minutes = minutes_spent(run / "vab.pt") if args.minutes is None else args.minutes
    held_out = first_clips(run / f"{args.split}.npz", args.clips)
    facts = print_facts()
    name = "foleygen" if args.stride is None else f"foleygen-stride{args.stride}"
    foleygen = trained(run, run / f"{name}.pt", config, recipe, minutes)
    seeds = foleyworld.clip_seeds(args.split, 0, args.clips)
    found = compare(evaluation, foleygen, held_out, seeds, options)
    found["foleygen"] |= training_facts(run / f"{name}.pt")
    found["foleygen"]["options"] = chosen
    found["vab"] |= training_facts(run / "vab.pt")
    result = {"clips": args.clips, "split": args.split, **found, **facts}
    write_whole(run / f"{name}-{args.split}.json", json.dumps(result).encode() + b"\n")
    bounds = {name: found[name] for name in ("vab", "codec")}
    print(comparison(found["foleygen"] | {"bounds": bounds}))
    if args.json:
        print(json.dumps(result))


def check_files(run: Path, recipe: str, split: str) -> None:
    """Raises DataError for the first that a finished run would have left."""
    for name in ("ckpt.pt", "vab.pt", "train.npz", "validation.npz", f"{split}.npz"):
        if not (run / name).is_file():
            raise DataError(
                f"{run / name} is not there, expected a finished run; train it with: python -m "
                f"recipes.train {recipe} --out {run}"
            )


def foleygen_config(recipe: Recipe, config: ModelConfig, stride: int | None) -> ModelConfig:
    """The run's own model, which the recipe must have, with as many features a position of the
    prefix. Raises OptionError, and BundleError for a stride that does not fit."""
    if recipe.model != config:
        raise OptionError(
            f"the run has the model {config.name}, expected {recipe.model.name} of the recipe with "
            "the same facts; name its own with --recipe"
        )
    return msgspec.structs.replace(config, image_stride=stride or config.image_stride)


def first_clips(path: Path, count: int) -> TokenisedClips:
    """Raises OptionError where there are fewer."""
    clips = TokenisedClips.load(path)
    if not 2 <= count <= len(clips):
        raise OptionError(
            f"clips is {count}, expected 2 to {len(clips)}, as {path} has; choose another --clips"
        )
    return TokenisedClips(clips.tokens[:count], clips.features[:count], clips.labels[:count])


def trained(
    run: Path, checkpoint: Path, config: ModelConfig, recipe: Recipe, minutes: float
) -> FoleyGen:
    """Begins again where the run's tokens were made again."""
    begin(checkpoint, tokens=run / "train.npz")
    clips, validation = (TokenisedClips.load(run / f"{s}.npz") for s in ("train", "validation"))
    stage = train_foleygen(checkpoint, clips, validation, config, recipe.pretrain, minutes)
    report("foleygen", stage)
    return load_foleygen(checkpoint, config)


def compare(
    evaluation: EvalConfig,
    foleygen: FoleyGen,
    clips: TokenisedClips,
    seeds: list[int],
    options: TokenOptions,
) -> dict[str, dict[str, Any]]:
    """The measures of both and of the codec's reconstruction, and the mean difference, clip by
    clip, of what a clip has a figure of; generate_s: see `seconds`."""
    pipeline, evaluator = open_model(evaluation).pipeline, open_evaluator(evaluation)
    features, count = clips.features.astype(np.float32), len(clips)
    scenes = [foleyworld.make_scene(seed) for seed in seeds]
    reference = Reference(scenes, [evaluator(scene.audio()) for scene in scenes])
    drawn = shown("FoleyGen's clips", tokens_of(foleygen, features, options), count)
    ours = shown("VAB's clips", sounds_of(pipeline, features), count)
    sounds = {
        "foleygen": [evaluator(pipeline.render(tokens[None])[0]) for tokens in drawn],
        "vab": [evaluator(audio) for audio in ours],
        "codec": [evaluator(pipeline.render(t[None])[0]) for t in clips.tokens.astype(np.int32)],
    }
    found: dict[str, dict[str, Any]] = {n: reference.measure(s) for n, s in sounds.items()}
    first, second = (reference.per_clip(sounds[name]) for name in ("foleygen", "vab"))
    differences = {name: values - second[name] for name, values in first.items()}
    alone = Autoregressive(foleygen, options)
    found["foleygen"]["generate_s"] = seconds(
        lambda one, seed: sound_of(alone, pipeline, one, seed), features
    )
    found["vab"]["generate_s"] = seconds(
        lambda one, seed: generate(pipeline, one, GenerateOptions(seed=seed)), features
    )
    return found | {"foleygen_minus_vab": means_of(differences)}


def tokens_of(
    foleygen: FoleyGen, features: NDArray[np.float32], options: TokenOptions
) -> Iterator[NDArray[np.int32]]:
    """Tokens [K, T] of each clip of features [N, F, visual_dim]; a batch has the seed of its first
    clip."""
    for first in range(0, len(features), BATCH):
        part = torch.from_numpy(features[first : first + BATCH])
        tokens = Autoregressive(foleygen, options, batch=len(part)).tokens(part, first)
        yield from tokens.cpu().numpy().astype(np.int32)


def sounds_of(pipeline: Pipeline, features: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """VAB's sound [S] of each clip of features [N, F, visual_dim], with its own options."""
    for seed, one in enumerate(features):
        yield generate(pipeline, one[None], GenerateOptions(seed=seed))


def sound_of(
    way: Autoregressive, pipeline: Pipeline, features: NDArray[np.float32], seed: int
) -> NDArray[np.float32]:
    """Sound [S] for the features of one clip [1, F, visual_dim]."""
    tokens = way.tokens(torch.from_numpy(features), seed)
    return pipeline.render(tokens.cpu().numpy().astype(np.int32))[0]


def seconds(
    make: Callable[[NDArray[np.float32], int], object], features: NDArray[np.float32]
) -> float:
    """The median of what a clip takes alone, from its features to its sound; in torch."""
    taken = []
    for seed in range(min(TIMED_CLIPS, len(features))):
        begin = time.perf_counter()
        make(features[seed : seed + 1], seed)
        taken.append(time.perf_counter() - begin)
    return round(statistics.median(taken), 3)


def training_facts(checkpoint: Path) -> dict[str, float]:
    return {"minutes": round(minutes_spent(checkpoint), 2), "steps": steps_made(checkpoint)}


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("foleygen", __doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/default"), help="a finished run")
    parser.add_argument("--recipe", default="default", help="the recipe of that run")
    parser.add_argument("--minutes", type=float, help="of training (default: as its VAB had)")
    parser.add_argument("--clips", type=at_least_one, default=300, help="first ones of --split")
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    parser.add_argument("--stride", type=at_least_one, help="features a position (default: VAB's)")
    for name in SAMPLING:
        value = getattr(OPTIONS, name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), default=value, help=f"(default {value})")
    return parser
