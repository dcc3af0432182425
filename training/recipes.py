"""The files in `configs/`: a model, and how every stage of its training runs."""

from pathlib import Path
from typing import Any, Self

import msgspec

from training.classification import ClassificationSettings
from training.contrastive import ContrastiveSettings
from training.pretrain import PretrainSettings
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

CONFIGS = Path(__file__).parent / "configs"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run. Minutes are per stage, on whatever machine it is; None: the stage's own epochs.

    codec, codec_training: see the codec's settings and `codec_settings.py`. rendered_clips: what
    codec and image encoder learn from; clips: what the transformer learns from.
    """

    model: ModelConfig
    codec: dict[str, Any] = {}
    codec_training: dict[str, Any] = {}
    pretrain: PretrainSettings = PretrainSettings()
    contrastive: ContrastiveSettings = ContrastiveSettings()
    classification: ClassificationSettings = ClassificationSettings()
    rendered_clips: int = 3000
    clips: int = 5000
    validation_clips: int = 96
    evaluated_clips: int = 500
    codec_minutes: float = 12
    clip_minutes: float = 11
    pretrain_minutes: float | None = None
    contrastive_minutes: float | None = None
    classification_minutes: float | None = None
    licence: str = "Apache-2.0"

    def with_minutes(self, pretrain: float) -> Self:
        return msgspec.structs.replace(self, pretrain_minutes=pretrain)


def read_recipe(name: str) -> Recipe:
    """A recipe by name or path. Raises OptionError naming the file and the key at fault."""
    path = Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
        raise OptionError(f"no recipe {name!r}; expected a .toml file or one of: {known}")
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except msgspec.DecodeError as error:  # msgspec names the key and what it expected
        raise OptionError(f"{path}: {error}") from error
