"""Decoding options that may change with the step, and the decoding by them."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from vab_rt.decoding import guided, remask_count
from vab_rt.engines.precision import check_precision
from vab_rt.errors import OptionError
from vab_rt.options import TokenOptions
from vab_rt.pipeline import Pipeline
from vab_rt.sampling_arguments import StepSettings
from vab_rt.systems.vab import carry_over

GUIDED = "guidance=1.5 temperature=0.6"
DEFAULT_SETTINGS = (
    "steps=16 guidance=1.5 temperature=0.8",
    "steps=8 guidance=1.5 temperature=0.8",
    f"steps=8 {GUIDED}",
    "steps=8 guidance=1 temperature=0.6",
    f"steps=8 {GUIDED} first=4",
    f"steps=8 {GUIDED} last=4",
    "steps=8 guidance=2..1 temperature=0.6",
    "steps=8 guidance=1.5 temperature=0.8..0.4",
    f"steps=6 {GUIDED}",
    f"steps=4 {GUIDED}",
    f"steps=2 {GUIDED}",
)
"""The first is the reference."""


class Setting(msgspec.Struct, frozen=True):
    """guidance and temperature [steps], of every step; guidance 1 runs one branch alone. precision:
    see `vab_rt.load`."""

    name: str
    guidance: tuple[float, ...]
    temperature: tuple[float, ...]
    top_k: int
    mask_temperature: float
    precision: str | None = None

    @property
    def num_guided(self) -> int:
        return sum(g != 1 for g in self.guidance)

    @property
    def passes(self) -> int:
        """Through the backbone: two in a guided step, one in any other."""
        return len(self.guidance) + self.num_guided


def read_setting(text: str, defaults: TokenOptions) -> Setting:
    """From words NAME=VALUE: steps, guidance, temperature, top_k, mask_temperature. A..B goes from
    A in the first step to B in the last; first=N and last=N guide these steps alone; precision=int8
    is of the CPU. What is not named is as in the defaults. Raises OptionError.
    """
    words = dict(word.partition("=")[::2] for word in text.split())
    options = ("steps", "guidance", "temperature", "top_k", "mask_temperature")
    for name in words:
        if name not in (*options, "first", "last", "precision"):
            raise OptionError(
                f"setting {text!r} has {name}, expected {', '.join(options)}, first, last or "
                "precision"
            )
    chosen = {name: words.get(name, str(getattr(defaults, name))) for name in options}
    try:
        steps, top_k, mask_temperature = (
            kind(chosen[name])
            for kind, name in ((int, "steps"), (int, "top_k"), (float, "mask_temperature"))
        )
        guidance, temperature = (ramp(chosen[name], steps) for name in options[1:3])
        first, last = (int(words.get(name, 0)) for name in ("first", "last"))
    except ValueError as error:
        raise OptionError(
            f"setting {text!r} cannot be read ({error}), expected numbers, such as "
            "steps=8 guidance=2..1 temperature=0.6 first=4"
        ) from error
    if first or last:
        guidance = [g if i < first or i >= steps - last else 1.0 for i, g in enumerate(guidance)]
    TokenOptions(steps=steps, top_k=top_k, mask_temperature=mask_temperature)  # raises OptionError
    for g, t in zip(guidance, temperature, strict=True):
        TokenOptions(guidance=g, temperature=t)
    precision = words.get("precision")
    if precision is not None:
        check_precision(precision, "cpu")
    ramps = tuple(guidance), tuple(temperature)
    return Setting(text, *ramps, top_k, mask_temperature, precision)


def ramp(text: str, steps: int) -> list[float]:
    begin, _, end = text.partition("..")
    return np.linspace(float(begin), float(end or begin), steps).tolist()


def decode(
    pipeline: Pipeline, features: NDArray[np.float32], setting: Setting, seed: int
) -> NDArray[np.int32]:
    """Tokens [1, K, T] for features [1, F, visual_dim], as `decode_masked` does for one that stays
    the same in all steps."""
    engines, config, s = pipeline.system.engines, pipeline.system.config, setting
    tokens = carry_over(None, config)
    flat, steps = tokens.reshape(1, -1), len(s.guidance)
    branches = {g: config.branches(g) for g in s.guidance}
    ways = {g: guided(engines["backbone"], {"features": features}, b) for g, b in branches.items()}
    for step, guidance in enumerate(s.guidance):
        settings = StepSettings(
            seeds=np.array([seed], np.uint64),
            step=step,
            guidance=guidance if len(branches[guidance]) > 1 else 1.0,
            temperature=s.temperature[step],
            top_k=s.top_k,
            mask_temperature=s.mask_temperature * (1 - (step + 1) / steps),
            num_remask=np.array([remask_count(step, steps, flat.size)], np.int32),
        )
        logits = [x if x is None else x.reshape(*flat.shape, -1) for x in ways[guidance](tokens)]
        engines.sample_step(flat, *logits, settings)
    return tokens
