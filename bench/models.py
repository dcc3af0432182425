"""Models to measure, by the name of their recipe; read without the libraries that train them."""

import tomllib
from pathlib import Path

import msgspec

from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


def read_model(recipe: str) -> ModelConfig:
    """The model of a recipe of VAB. Raises OptionError naming those that there are."""
    path = CONFIGS / f"{recipe}.toml"
    if not path.is_file():
        raise OptionError(f"no recipe {recipe!r}; expected one of: {', '.join(model_names())}")
    facts = tomllib.loads(path.read_text())["model"]
    try:
        return msgspec.convert(facts, ModelConfig)
    except msgspec.ValidationError as error:
        raise OptionError(f"{path} has no model of VAB ({error}), expected one") from error


def model_names() -> list[str]:
    return sorted(p.stem for p in CONFIGS.glob("*.toml") if not p.stem.startswith("v2a-mapper"))
