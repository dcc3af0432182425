"""`python -m training.evaluate real|kinds`: their options, and what they leave."""

import argparse
from pathlib import Path

from training.evaluation.evaluator import EvalConfig
from training.evaluation.kind_ear import KEPT, made_ear
from training.evaluation.models import open_any_model
from training.evaluation.real import RealConfig, clip_config, evaluate_real
from training.evaluation.real_clips import MOST
from training.evaluation.real_figures import real_result
from training.evaluation.spectrograms import drawn_clips, sheet
from training.saving import write_whole
from vab_rt.errors import OptionError


def add_real(parser: argparse.ArgumentParser) -> None:
    real = parser.add_argument_group("real, kinds", "of real recordings")
    real.add_argument("--sounds", type=Path, help="recordings, KIND/FILE, and sounds.csv")
    real.add_argument("--pictures", type=Path, help="pictures, KIND/FILE, and pictures.csv")
    real.add_argument("--classifier", help="yamnet:FILE, whose scores count")
    real.add_argument(
        "--features",
        type=Path,
        help=".npz with logits, feature, label: seen of kinds without pictures",
    )
    real.add_argument("--table", type=Path, help="CSV of ImageNet's classes and their kinds")
    real.add_argument("--codec", type=Path, help="a codec.pt: the bounds alone, without a model")
    real.add_argument("--config", default="real", help="with --codec or --bounds: the recipe")
    real.add_argument("--bounds", action="store_true", help="without a model")
    real.add_argument("--per-kind", type=int, default=10, help="clips of each kind")
    real.add_argument("--kept", type=Path, help="a folder to go on from")
    real.add_argument("--sheet", type=Path, help="a PNG of spectrograms goes here")


def real_task(arguments: argparse.Namespace, model: EvalConfig) -> dict:
    """The figures, and the sheet where it is asked for. Raises VabError."""
    config = real_config(arguments, model)
    figures, facts = evaluate_real(config, arguments.workers), clip_config(config)
    if arguments.sheet is not None:
        write_whole(arguments.sheet, sheet(drawn_clips(figures.clips), facts.clip_s))
    return {"model": facts.name, "per_kind": config.clips} | real_result(figures)


def kinds_task(arguments: argparse.Namespace, model: EvalConfig) -> dict:
    """An ear for the model's kinds, in --out, and what it makes of the model. Raises VabError."""
    if arguments.sounds is None:
        raise OptionError("kinds lacks --sounds, expected a folder of recordings, KIND/FILE")
    pipeline = open_any_model(model).pipeline
    return made_ear(arguments.out or KEPT, arguments.sounds, pipeline, arguments.workers)


def real_config(arguments: argparse.Namespace, model: EvalConfig) -> RealConfig:
    """Raises OptionError for what is missing or fits nothing else."""
    given = {"--sounds": arguments.sounds, "--pictures": arguments.pictures}
    for option, value in {**given, "--classifier": arguments.classifier}.items():
        if value is None:
            raise OptionError(
                f"real lacks {option}, expected --sounds DIR --pictures DIR --classifier "
                "yamnet:FILE"
            )
    if not 1 <= arguments.per_kind <= MOST:
        raise OptionError(f"per-kind is {arguments.per_kind}, expected 1 to {MOST}")
    alone = arguments.bounds or arguments.codec is not None
    return RealConfig(
        classifier=arguments.classifier,
        sounds=arguments.sounds,
        pictures=arguments.pictures,
        model=None if alone else model,
        recipe=arguments.config,
        codec=arguments.codec,
        rows=arguments.features,
        table=arguments.table,
        clips=arguments.per_kind,
        kept=arguments.kept,
    )
