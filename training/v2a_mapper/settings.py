"""The sizes of a V2A-Mapper's networks, beyond the facts that its graphs show."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from vab_rt.errors import OptionError


class MapperSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the two mappers; the defaults are those of the paper, as far as they are known.

    expansion: of the regression's hidden layer. The rest is of the prior: null_tokens are learned
    constants in the place of a text; norm_in is a norm before its first layer, with which it has
    48,833,408 parameters, without 48,832,896 (the paper says 48.83 million).
    """

    expansion: int = 4
    depth: int = 12
    heads: int = 12
    dim_head: int = 64
    ff_mult: int = 4
    null_tokens: int = 77
    norm_in: bool = True
    dropout: float = 0.05

    def __post_init__(self) -> None:
        for name in ("expansion", "depth", "heads", "dim_head", "ff_mult"):
            if getattr(self, name) < 1:
                raise OptionError(f"mapper {name} is {getattr(self, name)}, expected at least 1")
        if self.null_tokens < 0 or not 0 <= self.dropout < 1:
            raise OptionError(
                f"mapper null_tokens is {self.null_tokens} and dropout {self.dropout}, expected "
                "0 or more, and 0 to less than 1"
            )


class MappingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The defaults are those that DALLE2-pytorch ships for its prior; the paper's are not known.

    steps: of batches. drop: share in which the prior does not see the image, and in which not the
    noisy sound. average: how much of the averaged weights stays in a step.
    """

    batch: int = 128
    steps: int = 20_000
    peak_rate: float = 1.1e-4
    weight_decay: float = 6.02e-2
    max_norm: float = 0.5
    drop: float = 0.1
    average: float = 0.9999
    seed: int = 0

    def __post_init__(self) -> None:
        check_stage("mapper", self, ("batch", "steps"), ("drop", "average"))
        if not self.max_norm > 0:
            raise OptionError(f"mapper max_norm is {self.max_norm}, expected more than 0")


class Networks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """unet, vae, vocoder: what their constructors in diffusers and transformers take."""

    mapper: MapperSettings = MapperSettings()
    unet: dict[str, Any]
    vae: dict[str, Any]
    vocoder: dict[str, Any]


def check_stage(
    stage: str, settings: msgspec.Struct, counts: Sequence[str], shares: Sequence[str] = ()
) -> None:
    """counts are at least 1, shares 0 to 1; and what every stage has: peak_rate, weight_decay,
    seed. Raises OptionError naming the stage and the key."""
    wrong = [(name, "at least 1") for name in counts if getattr(settings, name) < 1]
    wrong += [(name, "0 to 1") for name in shares if not 0 <= getattr(settings, name) <= 1]
    rules = {"peak_rate": "more than 0", "weight_decay": "0 or more", "seed": "0 or more"}
    for name, rule in rules.items():
        value = getattr(settings, name)
        if not math.isfinite(value) or value < 0 or (value == 0 and name == "peak_rate"):
            wrong.append((name, rule))
    for name, expected in wrong:
        raise OptionError(f"{stage} {name} is {getattr(settings, name)}, expected {expected}")
