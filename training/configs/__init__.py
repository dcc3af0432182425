"""The recipes beside this file: a model, and how every stage of its training runs."""

import math
from pathlib import Path
from typing import Any, Self

import msgspec

from training import pretrain
from training.classification import ClassificationSettings
from training.contrastive import ContrastiveSettings
from training.distill import DistillSettings
from training.fitting import warm_up_share
from training.motion_training import MotionSettings
from training.pretrain import PretrainSettings
from training.representation import num_steps
from training.saving import with_new_keys
from vab_rt.config import ModelConfig
from vab_rt.contract import check_pair
from vab_rt.errors import OptionError, VabError
from vab_rt.options import COARSE_TO_FINE, TokenOptions, Tuning, fill_in

CONFIGS = Path(__file__).parent


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run. Minutes are per stage, on whatever machine it is; None: the stage's own epochs.

    codec, codec_training: see `build_codec` and `codecs/settings.py`. rendered_clips: what
    codec and visual encoders learn from; clips: what the transformer learns from. fine: a second
    transformer, which goes on from the tokens of the first; the codec is then the one of both.
    distill_minutes: then the model's guidance is distilled into one pass; None: it is not.
    options: how the model wants to be decoded; what is left out is as `TokenOptions` has it.
    """

    model: ModelConfig
    fine: ModelConfig | None = None
    options: Tuning = Tuning()
    codec: dict[str, Any] = {}
    codec_training: dict[str, Any] = {}
    pretrain: PretrainSettings = PretrainSettings()
    fine_pretrain: PretrainSettings = PretrainSettings()
    distill: DistillSettings = DistillSettings()
    motion: MotionSettings = MotionSettings()
    contrastive: ContrastiveSettings = ContrastiveSettings()
    classification: ClassificationSettings = ClassificationSettings()
    rendered_clips: int = 3000
    clips: int = 5000
    validation_clips: int = 96
    evaluated_clips: int = 500
    codec_minutes: float = 12
    clip_minutes: float = 11
    motion_minutes: float = 12
    pretrain_minutes: float | None = None
    fine_minutes: float | None = None
    distill_minutes: float | None = None
    contrastive_minutes: float | None = None
    classification_minutes: float | None = None
    license: str = "Apache-2.0"

    def __post_init__(self) -> None:
        check_budgets(self)
        check_warm_ups(self)
        if self.fine is not None:
            check_pair(self.model, self.fine)
        check_options(self)
        check_distilled(self)

    @property
    def codec_model(self) -> ModelConfig:
        """The model that has all the codec's codebooks."""
        return self.fine or self.model

    def options_of(self, config: ModelConfig) -> Tuning:
        """What the checkpoint of one of the models carries: fine_steps are of the fine one."""
        if config.given_codebooks:
            return Tuning(fine_steps=self.options.fine_steps)
        return msgspec.structs.replace(self.options, fine_steps=None)

    @property
    def distilled(self) -> tuple[DistillSettings, float] | None:
        """How the transformer is distilled, and for how long; None: it is not."""
        return None if self.distill_minutes is None else (self.distill, self.distill_minutes)

    def with_minutes(self, pretrain: float) -> Self:
        """The same with so many minutes of pre-training, of both transformers where there are two
        in the proportion that they have here."""
        if self.fine is None:
            return msgspec.structs.replace(self, pretrain_minutes=pretrain)
        coarse, fine = self.pretrain_minutes or 1, self.fine_minutes or 1
        share = pretrain * fine / (coarse + fine)
        return msgspec.structs.replace(self, pretrain_minutes=pretrain - share, fine_minutes=share)


def check_budgets(recipe: msgspec.Struct) -> None:
    """Raises OptionError for minutes or counts that a stage would refuse hours later."""
    for name, value in msgspec.structs.asdict(recipe).items():
        if name.endswith("_minutes") and value is not None and not 0 < value < math.inf:
            raise OptionError(f"{name} is {value:g}, expected more than 0")
        least = 2 if name == "evaluated_clips" else 1
        if name.endswith("clips") and value < least:
            raise OptionError(f"{name} is {value}, expected at least {least}")


def check_warm_ups(recipe: Recipe) -> None:
    """Raises OptionError for one in steps where minutes are the budget."""
    for stage in ("pretrain", "fine_pretrain", "distill", "contrastive", "classification"):
        if minutes_of(recipe, stage) is not None:
            warm_up_share(getattr(recipe, stage).warm_up, None, stage)


def check_steps(recipe: Recipe, count: int) -> None:
    """Raises OptionError for a warm-up that does not fit a stage's epochs of so many clips."""
    steps = {"pretrain": pretrain.num_steps(count, recipe.pretrain)}
    if recipe.fine is not None:
        steps["fine_pretrain"] = pretrain.num_steps(count, recipe.fine_pretrain)
    else:
        for stage in ("contrastive", "classification"):
            s = getattr(recipe, stage)
            steps[stage] = num_steps(count, s.epochs, s.batch)
    for stage, most in steps.items():
        if minutes_of(recipe, stage) is None:
            warm_up_share(getattr(recipe, stage).warm_up, most, stage)


def minutes_of(recipe: Recipe, stage: str) -> float | None:
    return getattr(recipe, f"{stage.removesuffix('_pretrain')}_minutes")


def check_options(recipe: Recipe) -> None:
    """Raises OptionError for an option that what the recipe trains has no use for."""
    if recipe.model.given_codebooks:
        others = recipe.options.named().keys() - {"fine_steps"}
        if others:
            raise OptionError(
                f"options has {', '.join(sorted(others))}, expected fine_steps alone: "
                f"{recipe.model.name} is decoded with the rest as its coarse model has them"
            )
        return
    defaults = TokenOptions() if recipe.fine is None else COARSE_TO_FINE
    fill_in(recipe.options, defaults, recipe.model.name)


def check_distilled(recipe: Recipe) -> None:
    """Raises OptionError where distilling leaves no model, or one that refuses its own options."""
    if recipe.distill_minutes is None:
        return
    if recipe.fine is not None:
        raise OptionError(
            f"distill_minutes is {recipe.distill_minutes:g}, expected none in a recipe of two "
            "transformers; leave it out, and give their checkpoints to training.distill"
        )
    recipe.distill.require_learned(recipe.options, recipe.model.name)


def recipe_names() -> list[str]:
    """The names of VAB's recipes; the others in the folder are V2A-Mapper's."""
    names = (path.stem for path in CONFIGS.glob("*.toml"))
    return sorted(name for name in names if not name.startswith("v2a-mapper"))


def read_recipe(name: str) -> Recipe:
    """A recipe by name or path. Raises OptionError naming the file and the key at fault."""
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(recipe_names())
        raise OptionError(f"no recipe {name!r}; expected a .toml file or one of: {known}")
    try:
        content = with_new_keys(msgspec.toml.decode(path.read_bytes()))
        if "networks" in content:
            known = ", ".join(recipe_names())
            raise OptionError(f"it is of a V2A-Mapper, expected one of VAB, such as {known}")
        return msgspec.convert(content, Recipe)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, VabError) as error:  # name the key
        raise OptionError(f"{path}: {error}") from error
