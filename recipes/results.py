"""What a trained model leaves: its bundle, the figures of its evaluation, and a card with both."""

import json
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from export.build_engines import build_graphs, line_of
from export.card import card_of, read_evaluations, write_card
from export.options import parse_arguments
from training import foleyworld
from training.configs import Recipe
from training.evaluation.classifier import KEPT
from training.evaluation.evaluator import EvalConfig
from training.evaluation.generation import evaluate_generation
from training.saving import write_whole
from training.stage import is_made, stage
from vab_rt.bundle import open_bundle


def export(checkpoint: Path, bundle: Path, fine: Path | None = None) -> None:
    """Into the folder `bundle`. Raises VabError."""
    pair = [] if fine is None else ["--fine", str(fine)]
    words = [str(checkpoint), *pair, "--store", "int8", "--force"]

    def make() -> None:
        for graph in build_graphs(*parse_arguments(words), bundle):
            print(line_of(graph), flush=True)

    stage(bundle, make, checkpoint=checkpoint, fine=fine)


def evaluate_bundle(recipe: Recipe, folder: Path) -> None:
    """Generation by `folder`/bundle, on held-out clips of unseen seeds."""
    count, kept = recipe.evaluated_clips, folder / "evaluated"
    seeds = foleyworld.clip_seeds("test", 0, count)
    config = EvalConfig(bundle=str(folder / "bundle"), videos=folder / "videos", kept=kept)
    measure = partial(evaluate_generation, config, seeds, os.cpu_count() or 1)
    of = {"clips": count, "fine": folder / "fine" / "ckpt.pt", "classifier": KEPT}
    keep(folder, "generation", measure, parts=[kept], **of)


def keep(
    folder: Path, task: str, measure: Callable[[], dict], *, parts: Iterable[Path] = (), **of: Any
) -> None:
    """The figures of a task in `folder`, taken once of the same checkpoint and whatever else they
    are `of`; parts: see `stage`."""
    path = folder / f"evaluation-{task}.json"

    def make() -> None:
        result = json.dumps(measure())
        write_whole(path, result.encode() + b"\n")
        print(f"{task}: {result}", flush=True)

    stage(path, make, parts=parts, checkpoint=folder / "ckpt.pt", **of)
    for part in parts:
        shutil.rmtree(part, ignore_errors=True)


def describe(folder: Path) -> None:
    """The card of `folder`/bundle, with all that was measured of this checkpoint."""
    measured = sorted(folder.glob("evaluation-*.json"))
    files = [path for path in measured if is_made(path, checkpoint=folder / "ckpt.pt")]
    manifest = open_bundle(str(folder / "bundle")).manifest
    write_card(folder / "bundle", card_of(manifest, read_evaluations(files)))
