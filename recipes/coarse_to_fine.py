"""Two transformers and one codec: the chain of a recipe that has a `fine` model.

One codec of all levels, the coarse model on the first of them, the fine model on all with the
coarse ones given (paper section 3.3, equation 3), and both in one bundle.
"""

from pathlib import Path

from recipes.encoders import train_encoders, write_start
from recipes.results import describe, evaluate_bundle, export
from recipes.transformer import encoded, train_model
from training import distributed
from training.checkpoint import read_checkpoint
from training.configs import Recipe
from training.datasets.clips import TokenisedClips


def run(recipe: Recipe, folder: Path, images: Path | None = None) -> None:
    """Everything on FoleyWorld, into `folder`, and what is the fine model's into `folder`/fine."""
    assert recipe.fine is not None, recipe
    codec_path, fine_folder = folder / "codec.pt", folder / "fine"
    with distributed.rank_zero_first():
        visual = train_encoders(recipe, folder, images)
        start = write_start(folder / "start.pt", recipe, recipe.model, visual, codec_path)
        fine_start = write_start(fine_folder / "start.pt", recipe, recipe.fine, visual, codec_path)
        clips = encoded(folder / "train.npz", fine_start, "train", recipe.clips)
        validation = encoded(
            folder / "validation.npz", fine_start, "validation", recipe.validation_clips
        )
    num_coarse = recipe.model.num_codebooks
    coarse = train_model(
        folder,
        read_checkpoint(start),
        first_codebooks(clips, num_coarse),
        first_codebooks(validation, num_coarse),
        recipe.pretrain,
        recipe.pretrain_minutes,
        recipe.options_of(recipe.model),
    )
    begin, settings, minutes = (
        read_checkpoint(fine_start),
        recipe.fine_pretrain,
        recipe.fine_minutes,
    )
    options = recipe.options_of(recipe.fine)
    fine = train_model(fine_folder, begin, clips, validation, settings, minutes, options)
    if distributed.rank() == 0:
        export(coarse, folder / "bundle", fine)
        evaluate_bundle(recipe, folder)
        describe(folder)


def first_codebooks(clips: TokenisedClips, count: int) -> TokenisedClips:
    """The same clips as a model of fewer codebooks reads them."""
    return TokenisedClips(
        tokens=clips.tokens[:, :count], features=clips.features, labels=clips.labels
    )
