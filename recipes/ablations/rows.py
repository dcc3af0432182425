"""The rows of an ablation: one small run, and the few settings each row changes in it."""

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from training.classification import ClassificationSettings
from training.configs import read_recipe
from training.contrastive import ContrastiveSettings
from training.pretrain import PretrainSettings
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError, VabError
from vab_rt.options import TokenOptions

ROWS = Path(__file__).parent / "rows.toml"
Stage = Literal["masked", "contrastive", "joint"]
Measure = Literal["validation", "generation", "retrieval", "classification"]
NEEDED_STAGE: dict[Measure, Stage] = {
    "validation": "masked",
    "generation": "masked",
    "retrieval": "contrastive",
}


class Setup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that decides a row's figures but the data and the number of steps."""

    model: ModelConfig
    pretrain: PretrainSettings
    contrastive: ContrastiveSettings
    classification: ClassificationSettings
    generate: TokenOptions


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """changes: values by dotted key of a Setup, over those of all rows. stages: trainings, each
    beginning with the weights of the one before; none leaves the random weights. joint is masked
    and contrastive at once, and stands alone."""

    changes: dict[str, Any] = {}
    stages: tuple[Stage, ...] = ("masked",)
    measures: tuple[Measure, ...] = ("validation", "generation")


class Ablations(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of rows. base: changes of the recipe that every row has. Steps are of each stage;
    clips are held-out ones. Raises OptionError for rows that cannot be."""

    recipe: str = "default"
    steps: int = 300
    contrastive_steps: int = 100
    classification_steps: int = 100
    clips: int = 100
    base: dict[str, Any] = {}
    rows: dict[str, Row]

    def __post_init__(self) -> None:
        for name in ("steps", "contrastive_steps", "classification_steps"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.clips < 2:
            raise OptionError(f"clips is {self.clips}, expected at least 2 to tell apart")
        for name, row in self.rows.items():
            _check_row(name, row)

    def chosen(self, names: list[str] | None) -> list[str]:
        """The rows of these names, None for all. Raises OptionError listing them."""
        unknown = [name for name in names or () if name not in self.rows]
        if unknown:
            raise OptionError(f"no row {unknown[0]!r}, expected one of: {', '.join(self.rows)}")
        return [name for name in self.rows if names is None or name in names]

    def setup(self, name: str) -> Setup:
        """What one row is. Raises OptionError naming the row, the key and what was expected."""
        recipe = read_recipe(self.recipe)
        sections = {
            "model": recipe.model,
            "pretrain": recipe.pretrain,
            "contrastive": recipe.contrastive,
            "classification": recipe.classification,
            "generate": TokenOptions(),
        }
        values = {key: msgspec.to_builtins(section) for key, section in sections.items()}
        for key, value in (self.base | self.rows[name].changes).items():
            if key not in CHANGEABLE:
                raise OptionError(
                    f"row {name} changes {key!r}, expected one of: {', '.join(CHANGEABLE)}"
                )
            section, _, field = key.partition(".")
            values[section][field] = value
        try:
            return msgspec.convert(values, Setup)
        except (msgspec.ValidationError, VabError) as error:  # both name the key
            raise OptionError(f"row {name}: {error}") from error


def _changeable() -> tuple[str, ...]:
    """Dotted keys of a Setup, without facts of the tokens and what a number of steps decides."""
    seeing = "visual_rate_hz image_stride aligned_visual"
    shape = f"{seeing} width layers expert_layers heads alibi sinusoids"
    sampling = "guidance temperature top_k mask_temperature steps seed"
    fields = {"model": shape.split(), "generate": sampling.split()}
    settings = {
        "pretrain": PretrainSettings,
        "contrastive": ContrastiveSettings,
        "classification": ClassificationSettings,
    }
    for section, type_ in settings.items():
        decided = ("epochs", "validate_every")
        fields[section] = [name for name in type_.__struct_fields__ if name not in decided]
    return tuple(
        f"{section}.{field}" for section in Setup.__struct_fields__ for field in fields[section]
    )


CHANGEABLE = _changeable()


def _check_row(name: str, row: Row) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise OptionError(f"row {name!r}, expected a name of a to z, 0 to 9, dots and hyphens")
    if len(set(row.stages)) < len(row.stages):
        raise OptionError(f"row {name} has the stages {', '.join(row.stages)}, expected each once")
    if "joint" in row.stages and len(row.stages) > 1:
        raise OptionError(f"row {name} has stages beside joint, expected joint alone")
    for measure in row.measures:
        stage = NEEDED_STAGE.get(measure)
        if stage is not None and not {stage, "joint"} & {*row.stages}:
            raise OptionError(
                f"row {name} measures {measure}, expected {stage!r} among its stages, which are "
                f"{', '.join(row.stages) or 'none'}"
            )


def read_ablations(path: Path = ROWS) -> Ablations:
    """Raises OptionError naming the file and the key at fault, also of every row's changes."""
    try:
        ablations = msgspec.toml.decode(path.read_bytes(), type=Ablations)
        for name in ablations.rows:
            ablations.setup(name)
    except OSError as error:
        raise OptionError(
            f"{path} cannot be read ({error.strerror}), expected a .toml file of rows, as {ROWS} is"
        ) from error
    except (msgspec.DecodeError, OptionError) as error:
        raise OptionError(f"{path}: {error}") from error
    return ablations
