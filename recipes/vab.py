"""The chain of a recipe of VAB, on FoleyWorld or, from the tokens on, on your own clips."""

from functools import partial
from pathlib import Path

import msgspec

from recipes import coarse_to_fine
from recipes.encoders import check_foleyworld, train_encoders, write_start
from recipes.results import describe, evaluate_bundle, export, keep
from recipes.transformer import encoded, train_model
from training import distributed
from training.checkpoint import read_checkpoint
from training.classification import finetune_classifier, weights_path
from training.command import report
from training.configs import Recipe, check_steps
from training.contrastive import finetune_contrastive, start_from
from training.datasets.clips import ClipSource, TokenisedClips
from training.datasets.shards import open_shards
from training.evaluation.fine_tuned import evaluate_classification, evaluate_retrieval
from training.kinds import with_kinds_of
from training.representation import MODALITIES
from training.stage import begin
from vab_rt.errors import OptionError


def run(recipe: Recipe, folder: Path, images: Path | None = None) -> None:
    """Everything on FoleyWorld, into `folder`; images: a checkpoint whose visual encoders stay.

    Raises OptionError for a recipe that does not fit, see `check_foleyworld`.
    """
    check_foleyworld(recipe)
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
    options = recipe.options_of(recipe.model)
    checkpoint = train_model(
        folder,
        read_checkpoint(start),
        clips,
        validation,
        settings,
        minutes,
        options,
        recipe.distilled,
    )
    if distributed.rank() == 0:
        finetune(recipe, folder, checkpoint, clips)
        export(checkpoint, folder / "bundle")
        evaluate_bundle(recipe, folder)
        held_out = encoded(folder / "test.npz", start, "test", recipe.evaluated_clips)
        evaluate_finetuned(folder, checkpoint, held_out)
        describe(folder)


def run_on_shards(recipe: Recipe, folder: Path, start: Path, shards: str, held_out: str) -> None:
    """The transformer's stages, on clips that `training.extract` made with `start`.

    Of a coarse-to-fine model training alone: it represents and generates nothing by itself. A
    model of kinds is not fine-tuned, as in `recipes/real.py`.
    """
    given = read_checkpoint(start)
    recipe = msgspec.structs.replace(recipe, model=with_kinds_of(recipe.model, given.config))
    facts = msgspec.structs.asdict(given.config), msgspec.structs.asdict(recipe.model)
    if other := [name for name in facts[0] if facts[0][name] != facts[1][name]]:
        had, expected = (of[other[-1]] for of in facts)
        raise OptionError(
            f"{start} is of the model {given.config.name}, expected {recipe.model.name} of the "
            f"recipe with the same facts ({other[-1]} is {had!r}, expected {expected!r}); start "
            "from a checkpoint of the same recipe"
        )
    clips = open_shards(shards, given)
    is_tuned = not recipe.model.kinds and not recipe.model.given_codebooks
    if is_tuned:
        check_steps(recipe, len(clips))
    validation = open_shards(held_out, given).in_memory() if held_out else None
    own = {"transformer_data": f"{len(clips)} clips of {given.config.clip_s:g} s of the user's own"}
    given = msgspec.structs.replace(given, header=given.header.with_provenance(own))
    options = recipe.options_of(recipe.model)
    checkpoint = train_model(
        folder,
        given,
        clips,
        validation,
        recipe.pretrain,
        recipe.pretrain_minutes,
        options,
        recipe.distilled,
    )
    if distributed.rank() == 0 and not recipe.model.given_codebooks:
        if is_tuned:
            finetune(recipe, folder, checkpoint, clips)
            if validation is not None:
                evaluate_finetuned(folder, checkpoint, validation)
        export(checkpoint, folder / "bundle")
        describe(folder)


def finetune(recipe: Recipe, folder: Path, checkpoint: Path, clips: ClipSource) -> None:
    """Retrieval, and classes where the clips have any; of other weights they begin again."""
    contrastive, weights = folder / "contrastive.pt", folder / "vab.pt"
    for path in (contrastive, *(weights_path(folder, modality) for modality in MODALITIES)):
        begin(path, weights=weights)
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


def evaluate_finetuned(folder: Path, checkpoint: Path, clips: TokenisedClips) -> None:
    contrastive = folder / "contrastive.pt"
    of = {"tokens": clips.tokens, "features": clips.features, "labels": clips.labels}
    found = partial(evaluate_retrieval, checkpoint, contrastive, clips)
    keep(folder, "retrieval", found, contrastive=contrastive, **of)
    if clips.labels.shape[1]:
        classes = partial(evaluate_classification, checkpoint, folder, clips)
        of |= {modality: weights_path(folder, modality) for modality in MODALITIES}
        keep(folder, "classification", classes, **of)
