"""The whole chain in one command: `python -m training.recipe default`.

world -> codec -> CLIP -> motion encoder, where the model has one -> tokens and features ->
pre-training -> ckpt.pt -> retrieval and classes -> bundle -> evaluation. Each stage leaves a file
in the run's folder; run the command again to go on where it stopped. With --start and --shards it
begins at the tokens of one's own clips. A recipe with a `fine` model trains two transformers and
leaves retrieval and classes out; v2a-mapper is the other system, see
`training/v2a_mapper/recipe.py`.
"""

import argparse
from pathlib import Path

import msgspec

from training import coarse_to_fine, distributed, evaluate
from training.checkpoint import read_checkpoint
from training.classification import finetune_classifier, weights_path
from training.command import report, run_command
from training.contrastive import finetune_contrastive, start_from
from training.datasets.clips import ClipSource, TokenisedClips
from training.datasets.growing import is_older
from training.datasets.shards import open_shards
from training.recipes import Recipe, read_recipe
from training.representation import MODALITIES
from training.stages import (
    describe,
    encoded,
    evaluate_bundle,
    export,
    hold_recipe,
    is_measured,
    keep,
    train_encoders,
    train_model,
    write_start,
)
from training.v2a_mapper import recipe as v2a_mapper
from training.v2a_mapper.recipes import is_v2a_recipe, read_v2a_recipe
from vab_rt.errors import OptionError


def run(recipe: Recipe, folder: Path, images: Path | None = None) -> None:
    """Everything on FoleyWorld, into `folder`; images: a checkpoint whose visual encoders stay.

    Raises OptionError for a model whose codec or image encoder is not trained here.
    """
    if recipe.fine is not None:
        return coarse_to_fine.run(recipe, folder, images)
    with distributed.rank_zero_first():
        visual = train_encoders(recipe, folder, images)
        start = write_start(folder / "start.pt", recipe, recipe.model, visual, folder / "codec.pt")
        clips = encoded(folder / "train.npz", start, "train", recipe.clips)
        validation = encoded(
            folder / "validation.npz", start, "validation", recipe.validation_clips
        )
    settings, minutes = recipe.pretrain, recipe.pretrain_minutes
    begin = read_checkpoint(start)
    options = recipe.options_of(recipe.model)
    checkpoint = train_model(folder, begin, clips, validation, settings, minutes, options)
    if distributed.rank() == 0:
        finetune(recipe, folder, checkpoint, clips)
        export(checkpoint, folder / "bundle")
        evaluate_bundle(recipe, folder)
        held_out = encoded(folder / "test.npz", start, "test", recipe.evaluated_clips)
        sources = (folder / "test.npz", *finetuned_weights(folder))
        tasks = ("retrieval", "classification")
        if not all(is_measured(folder, task, len(held_out), *sources) for task in tasks):
            evaluate_finetuned(folder, checkpoint, held_out)
        describe(folder)


def run_on_shards(recipe: Recipe, folder: Path, start: Path, shards: str, held_out: str) -> None:
    """The transformer's stages, on clips that `training.extract` made with `start`.

    Of a coarse-to-fine model training alone: it represents and generates nothing by itself.
    """
    begin = read_checkpoint(start)
    if begin.config != recipe.model:
        raise OptionError(
            f"{start} is of the model {begin.config.name}, expected {recipe.model.name} of the "
            "recipe with the same facts; start from a checkpoint of the same recipe"
        )
    clips = open_shards(shards, begin)
    validation = open_shards(held_out, begin).in_memory() if held_out else None
    own = {"transformer_data": f"{len(clips)} clips of {begin.config.clip_s:g} s of one's own"}
    begin = msgspec.structs.replace(begin, header=begin.header.with_provenance(own))
    options = recipe.options_of(recipe.model)
    checkpoint = train_model(
        folder, begin, clips, validation, recipe.pretrain, recipe.pretrain_minutes, options
    )
    if distributed.rank() == 0 and not recipe.model.given_codebooks:
        finetune(recipe, folder, checkpoint, clips)
        if validation is not None:
            evaluate_finetuned(folder, checkpoint, validation)
        export(checkpoint, folder / "bundle")
        describe(folder)


def finetune(recipe: Recipe, folder: Path, checkpoint: Path, clips: ClipSource) -> None:
    """Retrieval, and classes where the clips have any; of an older checkpoint they begin again."""
    contrastive = folder / "contrastive.pt"
    for path in finetuned_weights(folder):
        if is_older(path, checkpoint):
            path.unlink(missing_ok=True)
    vab, minutes = (
        read_checkpoint(checkpoint).vab().to(distributed.device()),
        recipe.contrastive_minutes,
    )
    report("contrastive", finetune_contrastive(folder, vab, clips, recipe.contrastive, minutes))
    start_from(contrastive, vab)  # helps sound alone most (the paper's table 11)
    has_classes = clips.batch(0, 1, 0).labels.shape[1] > 0
    for modality in MODALITIES if has_classes else ():
        stage = finetune_classifier(
            folder, vab, clips, modality, recipe.classification, recipe.classification_minutes
        )
        report(f"classify {modality}", stage)


def finetuned_weights(folder: Path) -> list[Path]:
    return [
        folder / "contrastive.pt",
        *(weights_path(folder, modality) for modality in MODALITIES),
    ]


def evaluate_finetuned(folder: Path, checkpoint: Path, clips: TokenisedClips) -> None:
    contrastive = folder / "contrastive.pt"
    keep(folder, "retrieval", evaluate.evaluate_retrieval(checkpoint, contrastive, clips))
    if clips.labels.shape[1]:
        keep(folder, "classification", evaluate.evaluate_classification(checkpoint, folder, clips))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.recipe", description=__doc__)
    parser.add_argument("name", help="a recipe of training/configs, or a .toml file")
    parser.add_argument("--out", type=Path, help="the run's folder (default runs/NAME)")
    parser.add_argument("--minutes", type=float, help="pre-training minutes, all runs together")
    parser.add_argument(
        "--start", type=Path, help="a checkpoint whose codec and visual encoders stay"
    )
    parser.add_argument(
        "--image-encoder", type=Path, help="a checkpoint whose visual encoders stay"
    )
    parser.add_argument("--shards", help="clips that training.extract made with START")
    parser.add_argument("--held-out", default="", help="shards to validate and evaluate on")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    if is_v2a_recipe(arguments.name):
        return _run_v2a(arguments)
    recipe = read_recipe(arguments.name)
    if arguments.minutes is not None:
        recipe = recipe.with_minutes(arguments.minutes)
    if arguments.shards is not None and (recipe.fine or arguments.image_encoder):
        what = "--image-encoder" if arguments.image_encoder else "a recipe of two transformers"
        raise OptionError(f"{what} is for FoleyWorld, expected none with --start and --shards")
    if (arguments.start is None) != (arguments.shards is None):
        raise OptionError("--start and --shards go together: a checkpoint and clips made with it")
    folder = arguments.out or Path("runs") / Path(arguments.name).stem
    with distributed.init_distributed():
        with distributed.rank_zero_first():
            hold_recipe(
                folder,
                recipe,
                image_encoder=arguments.image_encoder,
                start=arguments.start,
                shards=arguments.shards,
            )
        if arguments.shards is None:
            run(recipe, folder, arguments.image_encoder)
        else:
            run_on_shards(recipe, folder, arguments.start, arguments.shards, arguments.held_out)
    print(f"checkpoint: {folder / 'ckpt.pt'}")
    if recipe.model.given_codebooks:
        print(f"next: python -m export.build_engines COARSE.pt --fine {folder / 'ckpt.pt'}")
    else:
        print(f"bundle: {folder / 'bundle'}")


def _run_v2a(arguments: argparse.Namespace) -> None:
    if arguments.start or arguments.shards or arguments.image_encoder:
        raise OptionError(
            f"--start, --shards and --image-encoder are of VAB, expected none with "
            f"{arguments.name}; its recipe names the run whose image encoder it takes, under ready"
        )
    recipe = read_v2a_recipe(arguments.name)
    if arguments.minutes is not None:
        recipe = recipe.with_minutes(arguments.minutes)
    folder = arguments.out or Path("runs") / Path(arguments.name).stem
    hold_recipe(folder, recipe)
    v2a_mapper.run(recipe, folder)
    print(f"checkpoint: {folder / 'ckpt.pt'}\nbundle: {folder / 'bundle'}")


if __name__ == "__main__":
    main()
