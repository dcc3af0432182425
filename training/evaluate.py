"""Figures beside their bounds: `python -m training.evaluate generation|real|retrieval|...`.

On held-out clips of FoleyWorld, or on your own shards; `real`: on pictures and recordings that were
held out. `fit`: which sound fits, by the model's own score, with --sounds and --pictures of
recordings. `decoding` compares options of
decoding; `classifier` trains the network that names sounds anew, `kinds` the small one that names
real ones. Progress goes to stderr; the last line is one JSON object.
"""

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from training import foleyworld
from training.checkpoint import read_checkpoint
from training.command import run_command
from training.datasets.clips import TokenisedClips
from training.datasets.shards import ShardedClips, open_shards
from training.evaluation import decoding_report
from training.evaluation.classifier import STEPS, trained_classifier
from training.evaluation.decoding import chosen, compare_settings
from training.evaluation.decoding_settings import DEFAULT_SETTINGS
from training.evaluation.embeddings import OWN, check_embedding
from training.evaluation.evaluator import EvalConfig
from training.evaluation.fine_tuned import evaluate_classification, evaluate_retrieval
from training.evaluation.fit import evaluate_fit
from training.evaluation.generation import evaluate_generation
from training.evaluation.held_out import held_out_clips
from training.evaluation.kind_search import evaluate_kind_search
from training.evaluation.models import open_in_world
from training.evaluation.real_task import add_real, kinds_task, real_task
from training.evaluation.retrieval import spread_over_classes
from training.evaluation.table import comparison, print_figures
from training.evaluation.user_clips import evaluate_shards
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, OptionError
from vab_rt.options import COARSE_TO_FINE, GenerateOptions

SAMPLING = ("guidance", "temperature", "top_k", "mask_temperature", "steps", "fine_steps")


def main(words: list[str] | None = None) -> None:
    run_command(_run, _parser(), words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--model",
        "--bundle",
        dest="bundle",
        help="a bundle's folder or name (default: the shipped one)",
    )
    model.add_argument("--ckpt", type=Path, help="a checkpoint (default of the other tasks: RUN's)")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/default"), help="holds videos, ckpt.pt"
    )
    parser.add_argument("--split", default="test", choices=list(foleyworld.SPLITS))
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="first clip within the split")
    parser.add_argument("--shards", help="your own clips, from training.extract")
    parser.add_argument("--media", type=Path, help="the media that these shards were made of")
    parser.add_argument("--weights", type=Path, help="folder of the fine-tuned weights")
    parser.add_argument("--probe", action="store_true", help="linear probes, not fine-tuned")
    parser.add_argument(
        "--embedding",
        nargs="+",
        default=[OWN],
        help="classifier, vggish:FILE, passt:FILE or clap:FOLDER: FAD by the first, KLD by the "
        "first that has classes",
    )
    parser.add_argument("--unconditional", action="store_true", help="also without the video")
    parser.add_argument("--out", type=Path, help="what is trained goes here, as .npz")
    for name in SAMPLING:
        default = getattr(COARSE_TO_FINE, name)
        shown = f"(default: the model's own, mostly {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), help=shown)
    parser.add_argument(
        "--settings",
        nargs="+",
        default=DEFAULT_SETTINGS,
        metavar="WORDS",
        help="of decoding, the first is the reference, such as 'steps=16 guidance=1.5' 'steps=8 "
        "guidance=2..1 temperature=0.6' 'steps=8 first=4'",
    )
    parser.add_argument("--write", action="store_true", help="docs/DECODING.md, of decoding")
    add_real(parser)
    parser.add_argument("--workers", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--device", default="cpu", help="of a checkpoint: cpu or cuda")
    parser.add_argument("--precision", help="of a bundle: fp32 or int8 (default: its own)")
    parser.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.clips < 2 or arguments.workers < 1:
        raise OptionError(
            f"clips {arguments.clips} and workers {arguments.workers}: expected at least 2 and 1"
        )
    result = TASKS[arguments.task](arguments)
    if not arguments.json and "bounds" in result:
        print(comparison(result))
    elif not arguments.json:
        print_figures(result)
    print(json.dumps(result))


def _generation(arguments: argparse.Namespace) -> dict:
    if arguments.media is not None and arguments.shards is None:
        raise OptionError(f"--media {arguments.media} is of the clips of --shards, expected both")
    if arguments.ckpt is None and arguments.device != "cpu":
        raise OptionError(
            f"--device {arguments.device} is of a checkpoint, expected --ckpt FILE with it; the "
            "graphs of a bundle are measured on the CPU"
        )
    config = _eval_config(arguments)
    for text in config.embeddings:
        _, weights = check_embedding(text)
        if weights is not None and not weights.exists():
            raise OptionError(f"--embedding {text}: {weights} is not there; check the path")
    if arguments.shards is not None:
        codec_config = open_in_world(config).pipeline.system.codec_config
        shards = _shards_of(arguments.shards, config, codec_config)
        return evaluate_shards(config, shards, arguments.clips, arguments.media, arguments.workers)
    return evaluate_generation(config, _seeds(arguments), arguments.workers)


def _fit(arguments: argparse.Namespace) -> dict:
    config, sounds, pictures = _eval_config(arguments), arguments.sounds, arguments.pictures
    if (sounds is None) != (pictures is None):
        raise OptionError("fit of recordings needs --sounds DIR and --pictures DIR, expected both")
    if sounds is not None:
        return evaluate_kind_search(config, sounds, pictures, arguments.per_kind, arguments.workers)
    return evaluate_fit(config, _seeds(arguments), arguments.workers)


def _eval_config(arguments: argparse.Namespace) -> EvalConfig:
    """Raises OptionError."""
    if arguments.ckpt is not None and arguments.precision is not None:
        raise OptionError(
            f"--precision {arguments.precision} came with --ckpt, expected it with --model: a "
            "checkpoint is computed as PyTorch does it; leave one of the two out"
        )
    return EvalConfig(
        bundle=arguments.bundle,
        checkpoint=arguments.ckpt,
        embeddings=tuple(arguments.embedding),
        options=GenerateOptions(**{name: getattr(arguments, name) for name in SAMPLING}),
        videos=arguments.run / "videos",
        device=arguments.device,
        unconditional=arguments.unconditional,
        precision=arguments.precision,
    )


def _decoding(arguments: argparse.Namespace) -> dict:
    if arguments.ckpt is not None:
        raise OptionError("decoding compares options of a bundle, expected --model, not --ckpt")
    if arguments.precision is not None:
        raise OptionError(
            f"--precision {arguments.precision} came with decoding, expected it in its --settings, "
            f'as "steps=4 precision={arguments.precision}"'
        )
    config = EvalConfig(bundle=arguments.bundle)
    seeds = foleyworld.clip_seeds("validation", arguments.seed, arguments.clips)
    texts = list(arguments.settings)
    compared = compare_settings(config, texts, seeds, arguments.run, arguments.workers)
    if arguments.write:
        decoding_report.write_document(compared, len(seeds), open_in_world(config).pipeline)
    if not arguments.json:
        print(*decoding_report.table(compared), sep="\n")
    return {
        "clips": len(seeds),
        "chosen": chosen(compared).setting,
        "settings": msgspec.to_builtins(compared),
    }


def _shards_of(location: str, config: EvalConfig, codec: ModelConfig) -> ShardedClips:
    """A bundle cannot tell the weights that its clips must come from, a checkpoint can."""
    if config.checkpoint is None:
        return ShardedClips(location, codec)
    return open_shards(location, read_checkpoint(config.checkpoint))


def _classifier(arguments: argparse.Namespace) -> dict:
    if arguments.out is None:
        raise OptionError("classifier needs --out FILE.npz, expected where to put what is trained")
    return trained_classifier(arguments.out, arguments.steps or STEPS, arguments.clips)


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
    return foleyworld.clip_seeds(arguments.split, arguments.seed, arguments.clips)


TASKS: dict[str, Callable[[argparse.Namespace], dict]] = {
    "generation": _generation,
    "fit": _fit,
    "real": lambda given: real_task(given, _eval_config(given)),
    "kinds": lambda given: kinds_task(given, _eval_config(given)),
    "decoding": _decoding,
    "retrieval": _retrieval,
    "classification": _classification,
    "classifier": _classifier,
}


if __name__ == "__main__":
    main()
