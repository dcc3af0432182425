"""What a trained model leaves: its bundle, the figures of its evaluation, and a card with both."""

import hashlib
import json
import os
import shutil
from pathlib import Path

from export.build_engines import build_graphs, line_of
from export.card import card_of, read_evaluations, write_card
from export.wanted import parse_arguments
from training import evaluate, foleyworld
from training.configs import Recipe
from training.datasets.growing import drop_older, is_older
from training.datasets.shard_format import write_whole
from training.evaluation.classifier import KEPT
from training.evaluation.evaluator import EvalConfig
from vab_rt.bundle import MANIFEST, open_bundle, read_manifest
from vab_rt.errors import BundleError


def evaluate_bundle(recipe: Recipe, folder: Path) -> None:
    """Generation by `folder`/bundle on held-out clips of unseen seeds, once for a checkpoint."""
    graphs, count = sorted((folder / "bundle").glob("*.onnx")), recipe.evaluated_clips
    if is_measured(folder, "generation", count, *graphs):
        return
    seeds = foleyworld.clip_seeds("test", 0, count)
    kept = folder / "evaluated"
    drop_older(kept, KEPT, *graphs)
    config = EvalConfig(bundle=str(folder / "bundle"), videos=folder / "videos", kept=kept)
    keep(folder, "generation", evaluate.evaluate_generation(config, seeds, os.cpu_count() or 1))
    shutil.rmtree(kept)


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


def export(checkpoint: Path, bundle: Path, fine: Path | None = None) -> None:
    """Into `bundle`, unless it is made of the same. Raises VabError."""
    if is_exported(bundle, checkpoint_sha256=checkpoint, fine_checkpoint_sha256=fine):
        return
    pair = [] if fine is None else ["--fine", str(fine)]
    words = [str(checkpoint), *pair, "--store", "fp16", "--force"]
    for graph in build_graphs(*parse_arguments(words), bundle):
        print(line_of(graph), flush=True)


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


def describe(folder: Path) -> None:
    """The card of `folder`/bundle, with all that was measured of this checkpoint."""
    measured = sorted(folder.glob("evaluation-*.json"))
    files = [path for path in measured if not is_older(path, folder / "ckpt.pt")]
    manifest = open_bundle(str(folder / "bundle")).manifest
    write_card(folder / "bundle", card_of(manifest, read_evaluations(files)))
