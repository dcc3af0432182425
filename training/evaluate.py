"""`python -m training.evaluate generation|retrieval|classification`: figures, beside their bounds.

On held-out clips of FoleyWorld, or, for retrieval and classes, on shards of one's own. Progress
goes to stderr; the last line is one JSON object.
"""

import argparse
import json
import os
from pathlib import Path

from training import foleyworld
from training.checkpoint import read_checkpoint
from training.classification import classification_result, load_classifier, weights_path
from training.contrastive import load_retriever
from training.datasets.clips import TokenisedClips
from training.evaluation.embeddings import check_embedding
from training.evaluation.generation import generation_result, heard_clips, open_listener
from training.evaluation.held_out import encoded_clips, in_memory
from training.evaluation.judge import train_classifier
from training.evaluation.retrieval import retrieval_result, spread_over_classes
from training.evaluation.trial import Trial, on_device, open_model
from training.finetuning import open_shards, report, run_command, shown
from training.representation import MODALITIES
from vab_rt.config import CoarseToFineOptions, GenerateOptions
from vab_rt.errors import DataError, OptionError

JUDGE_STEPS = 1000
SAMPLING = ("guidance", "temperature", "top_k", "mask_temperature", "steps", "fine_steps")


def evaluate_generation(trial: Trial, seeds: list[int], workers: int = 1) -> dict:
    """class_agreement, onset_f1_100ms, onset_f1_50ms, fad and kld with their intervals, and those
    of each bound under `bounds`. `trial.judge` must be trained."""
    open_model(trial)  # mistakes are told before any work
    name = open_listener(trial).name
    clips = list(shown("clips heard", heard_clips(trial, seeds, workers), len(seeds)))
    result = generation_result(seeds, clips)
    for measured in (result, *result["bounds"].values()):
        measured["embedding"] = name
    return result


def evaluate_retrieval(
    checkpoint: Path, contrastive: Path, clips: TokenisedClips, device: str = "cpu"
) -> dict:
    """r1, r5, r10 under video_to_audio and audio_to_video."""
    retriever = on_device(load_retriever(contrastive, read_checkpoint(checkpoint).config), device)
    return retrieval_result(retriever, clips)


def evaluate_classification(
    checkpoint: Path,
    folder: Path,
    clips: TokenisedClips,
    probe: bool = False,
    device: str = "cpu",
) -> dict:
    """accuracy and map under a, v and av. Raises DataError for one that is not trained."""
    config = read_checkpoint(checkpoint).config
    result: dict = {"clips": len(clips)}
    for modality in MODALITIES:
        path = weights_path(folder, modality, probe)
        if not path.is_file():
            raise DataError(
                f"{path} is not there, expected the classifier; train it with python -m "
                f"training.classification {checkpoint} --shards FOLDER --modality {modality} "
                f"--out {folder}"
            )
        classifier = on_device(load_classifier(path, config, modality), device)
        result[modality] = classification_result(classifier, clips)
    return result


def held_out_clips(
    checkpoint: Path, seeds: list[int], workers: int = 1, device: str = "cpu"
) -> TokenisedClips:
    """FoleyWorld's clips by the checkpoint's own codec and image encoder."""
    encoded = encoded_clips(checkpoint, seeds, workers, device)
    return in_memory(shown("clips encoded", encoded, len(seeds)), seeds)


def trained_judge(path: Path) -> Path:
    """Trains the judge into `path` unless it is there. Raises DataError for another file."""
    report("judge", train_classifier(path, minutes=None, steps=JUDGE_STEPS))
    return path


def main(words: list[str] | None = None) -> None:
    run_command(_run, _parser(), words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("task", choices=["generation", "retrieval", "classification"])
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--bundle", help="a bundle's folder or name (default: the shipped one)")
    model.add_argument("--ckpt", type=Path, help="a checkpoint (default of the other tasks: RUN's)")
    parser.add_argument("--run", type=Path, default=Path("runs/default"), help="holds the judge")
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="first clip within the test split")
    parser.add_argument("--shards", help="clips of one's own, for retrieval and classification")
    parser.add_argument("--weights", type=Path, help="folder of the fine-tuned weights")
    parser.add_argument("--probe", action="store_true", help="linear probes, not fine-tuned")
    parser.add_argument(
        "--embedding", default="judge", help="judge, vggish:FILE, passt:FILE or clap:FOLDER"
    )
    for name in SAMPLING:
        default = getattr(CoarseToFineOptions(), name)
        shown = f"(default: the model's own, mostly {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=shown)
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--device", default="cpu", help="of a checkpoint: cpu or cuda")
    parser.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.clips < 2 or arguments.workers < 1:
        raise OptionError(
            f"clips {arguments.clips} and workers {arguments.workers}: expected at least 2 and 1"
        )
    task = {
        "generation": _generation,
        "retrieval": _retrieval,
        "classification": _classification,
    }
    result = task[arguments.task](arguments)
    if not arguments.json:
        print_table(result)
    print(json.dumps(result))


def _generation(arguments: argparse.Namespace) -> dict:
    if arguments.shards is not None:
        raise OptionError("--shards is for retrieval and classification; generation has no truth")
    if arguments.ckpt is None and arguments.device != "cpu":
        raise OptionError(
            f"--device {arguments.device} is of a checkpoint, expected --ckpt FILE with it; the "
            "graphs of a bundle are measured on the CPU"
        )
    trial = Trial(
        judge=arguments.run / "judge.pt",
        bundle=arguments.bundle,
        checkpoint=arguments.ckpt,
        embedding=arguments.embedding,
        options=GenerateOptions(**{name: getattr(arguments, name) for name in SAMPLING}),
        films=arguments.run / "films",
        device=arguments.device,
    )
    _, weights = check_embedding(trial.embedding)
    if weights is not None and not weights.exists():
        raise OptionError(f"--embedding {trial.embedding}: {weights} is not there; check the path")
    open_model(trial)
    seeds = _seeds(arguments)  # mistakes are told before a judge is trained
    trained_judge(trial.judge)
    return evaluate_generation(trial, seeds, arguments.workers)


def _retrieval(arguments: argparse.Namespace) -> dict:
    checkpoint, folder = _fine_tuned(arguments)
    path = folder / "contrastive.pt"
    if not path.is_file():
        raise DataError(
            f"{path} is not there, expected the fine-tuned retriever; train it with python -m "
            f"training.contrastive {checkpoint} --shards FOLDER --out {folder}"
        )
    return evaluate_retrieval(checkpoint, path, _clips(arguments, checkpoint), arguments.device)


def _classification(arguments: argparse.Namespace) -> dict:
    checkpoint, folder = _fine_tuned(arguments)
    clips = _clips(arguments, checkpoint)
    return evaluate_classification(checkpoint, folder, clips, arguments.probe, arguments.device)


def _fine_tuned(arguments: argparse.Namespace) -> tuple[Path, Path]:
    if arguments.bundle is not None:
        raise OptionError(
            f"--bundle {arguments.bundle}: a bundle only generates, expected --ckpt with a "
            "checkpoint, and the fine-tuned weights beside it or in --weights"
        )
    checkpoint = arguments.ckpt or arguments.run / "ckpt.pt"
    return checkpoint, arguments.weights or checkpoint.parent


def _clips(arguments: argparse.Namespace, checkpoint: Path) -> TokenisedClips:
    if arguments.shards is None:
        return held_out_clips(checkpoint, _seeds(arguments), arguments.workers, arguments.device)
    clips = open_shards(arguments.shards, read_checkpoint(checkpoint)).in_memory()
    rows = spread_over_classes(clips.labels, arguments.clips)
    chosen = clips.take(rows)
    return TokenisedClips(tokens=chosen.tokens, features=chosen.features, labels=chosen.labels)


def _seeds(arguments: argparse.Namespace) -> list[int]:
    return foleyworld.clip_seeds("test", arguments.seed, arguments.clips)


def print_table(result: dict) -> None:
    """One line for the model and one for each part of the result that has figures of its own."""
    parts = {"": result, **result, **result.get("bounds", {})}
    for name, row in parts.items():
        if isinstance(row, dict):
            figures = [f"{key} {value}" for key, value in row.items() if isinstance(value, float)]
            if figures:
                print(f"{name or 'generated':15}", "  ".join(figures))


if __name__ == "__main__":
    main()
