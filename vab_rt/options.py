"""What a caller wants of a model, and what else is given by the call, checked."""

import difflib
import numbers
import os
import reprlib
from typing import Any, TypeVar

import msgspec

from vab_rt.config import MAX_GUIDANCE, ClipConfig
from vab_rt.errors import OptionError
from vab_rt.paths import as_path

MAX_STEPS = 1024
MAX_THREADS = 1024


def _check(
    options: msgspec.Struct, kind: type[float], field: str, least: float, most: float, expected: str
) -> None:
    found = getattr(options, field)
    if found is not None:
        checked = number(field, found, kind, least, most, expected)
        msgspec.structs.force_setattr(options, field, checked)


def number(
    option: str, found: Any, kind: type[float], least: float, most: float, expected: str
) -> float:
    """The same as one of Python's own. Raises OptionError for another kind, or out of range."""
    is_number = isinstance(found, numbers.Integral if kind is int else numbers.Real)
    if not is_number:
        words = "a whole number" if kind is int else "a number"
        raise OptionError(f"{option} is {found!r}, expected {words}, {expected}")
    if not least <= found <= most:
        raise OptionError(f"{option} is {found}, expected {expected}")
    return found if isinstance(found, int | float) else kind(found)


def check_kind(option: str, found: Any, kind: type, expected: str) -> None:
    """Raises OptionError for what is of another kind."""
    if not isinstance(found, kind):
        raise OptionError(f"{option} is {reprlib.repr(found)}, expected {expected}")


def check_threads(threads: Any) -> int | None:
    """Raises OptionError."""
    if threads is None:
        return None
    return int(number("threads", threads, int, 1, MAX_THREADS, f"1 to {MAX_THREADS}"))


class Tuning(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """How a model decodes. None leaves a choice to the model. Raises OptionError."""

    steps: int | None = None
    """decoding steps, 1 to 1024: more is slower"""
    fine_steps: int | None = None
    """steps for the fine codebooks of a coarse-to-fine system, 1 to 1024"""
    guidance: float | None = None
    """classifier-free guidance scale, 0 to 100; 1 is off, and takes half the time"""
    temperature: float | None = None
    """of token sampling, 0.01 to 100: variety of the sound"""
    top_k: int | None = None
    """candidates for each token; 0 keeps all"""
    mask_temperature: float | None = None
    """of the Gumbel noise on confidences, 0 to 1000, annealed to 0: variety in the order"""

    def __post_init__(self) -> None:
        _check(self, int, "steps", 1, MAX_STEPS, f"1 to {MAX_STEPS}")
        _check(self, int, "fine_steps", 1, MAX_STEPS, f"1 to {MAX_STEPS}")
        _check(self, float, "guidance", 0, MAX_GUIDANCE, f"0 to {MAX_GUIDANCE:g}")
        _check(self, float, "temperature", 0.01, 100, "0.01 to 100")
        _check(self, int, "top_k", 0, 2**31 - 1, "0 (keep all) or more")
        _check(self, float, "mask_temperature", 0, 1000, "0 to 1000")

    def named(self) -> dict[str, Any]:
        """What is not left to the model."""
        return {key: x for key, x in msgspec.structs.asdict(self).items() if x is not None}


class GenerateOptions(
    Tuning, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=False
):
    """What the caller wants. What is left None is as the model has it. Raises OptionError."""

    seed: int = 0
    """0 to 2**64 - 1; the same seed and video give the same sound"""
    kinds: tuple[str, ...] = ()
    """what makes the sound, whatever is seen: names that the model knows; one may be a str"""
    library: str | None = None
    """a folder of recordings: those that fit are played, in time with what is seen"""
    library_strength: float = 0.5
    """how much of them is kept, 0 to 1"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.library is not None:  # a path is taken as well
            as_path("library", self.library, "a folder of recordings")
            msgspec.structs.force_setattr(self, "library", os.fspath(self.library))
        share = number("library_strength", self.library_strength, float, 0, 1, "0 to 1")
        msgspec.structs.force_setattr(self, "library_strength", share)
        kinds = (self.kinds,) if isinstance(self.kinds, str) else self.kinds
        if not isinstance(kinds, tuple | list) or not all(isinstance(kind, str) for kind in kinds):
            raise OptionError(f"kinds is {kinds!r}, expected names, such as ('dog',)")
        msgspec.structs.force_setattr(self, "kinds", tuple(kinds))
        seed = number("seed", self.seed, int, 0, 2**64 - 1, "0 to 2**64 - 1")
        msgspec.structs.force_setattr(self, "seed", seed)

    def but(self, **fields: Any) -> "GenerateOptions":
        """The same with other fields. Raises OptionError for one that there is not."""
        for name in fields:
            if name not in self.__struct_fields__:
                part = name in ("start_s", "duration_s")
                raise OptionError(
                    f"{name} is no option, expected one of {', '.join(self.__struct_fields__)}; "
                    + (f"give vab_rt.Video(path, {name}=...)" if part else "check the spelling")
                )
        return msgspec.structs.replace(self, **fields)


class TokenOptions(GenerateOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a system that decodes tokens, with nothing left open (paper section 4.1):
    fine_steps alone is None where there is no second stage.

    The defaults live here and nowhere else; a bundle may recommend others.
    """

    steps: int = 16
    guidance: float = 1.5
    temperature: float = 0.8
    top_k: int = 256
    mask_temperature: float = 10.5


COARSE_TO_FINE = TokenOptions(fine_steps=36)
"""The defaults of a system whose second model decodes the fine codebooks (paper section 4.1)."""


def overridden(options: GenerateOptions | None, fields: dict[str, Any]) -> GenerateOptions:
    """Options, but for what fields name. Raises OptionError."""
    options = GenerateOptions() if options is None else options
    check_kind("options", options, GenerateOptions, "vab_rt.GenerateOptions; or fields, as seed=7")
    return options.but(**fields)


def check_count(num_candidates: Any) -> int:
    """How many sounds of one video. Raises OptionError."""
    return int(number("num_candidates", num_candidates, int, 1, 32, "1 to 32"))


def check_top(top: Any) -> int:
    """How many files a search tells, at most. Raises OptionError."""
    return int(number("top", top, int, 1, 10_000, "1 to 10000"))


def check_kinds(kinds: tuple[str, ...], config: ClipConfig) -> None:
    """Raises OptionError for a kind that the model does not know."""
    for kind in kinds:
        if not kind:
            raise OptionError(
                "kind is '', expected a name; choose one that vab-rt kinds MODEL lists"
            )
        if not config.kind_names:
            raise OptionError(
                f"kind is {kind}, but model {config.name} has no names for what it sees, expected "
                "none; leave it out, or choose a model that has, such as real (vab-rt kinds real)"
            )
        if kind not in config.kind_names:
            near = difflib.get_close_matches(kind, config.kind_names, 3, 0.5)
            hint = f", such as {' or '.join(near)}" if near else ""
            raise OptionError(
                f"kind is {kind}, which {config.name} does not know, expected one that vab-rt "
                f"kinds MODEL lists{hint}"
            )


Options = TypeVar("Options", bound=GenerateOptions)


def fill_in(overrides: Tuning, defaults: Options, system: str) -> Options:
    """The defaults, but for what the overrides name.

    Raises OptionError for an override that the system does not know: it has no default for it.
    """
    named = overrides.named()
    known = [key for key in Tuning.__struct_fields__ if getattr(defaults, key) is not None]
    for key in Tuning.__struct_fields__:
        if key in named and key not in known:
            raise OptionError(
                f"{key} is {named[key]}, which {system} has no use for, expected one of "
                f"{', '.join(known)}; leave it out"
            )
    return msgspec.structs.replace(defaults, **named)
