"""What a request asks for, as its query says it: the fields of GenerateOptions by name, and a few
of the server's own."""

from typing import Any, TypeVar

import msgspec
from starlette.datastructures import QueryParams

from vab_rt.candidates import check_count
from vab_rt.config import ClipConfig, GenerateOptions, check_kinds
from vab_rt.errors import OptionError
from vab_rt.formats import FORMATS
from vab_rt.video import Video

_OF_THE_MACHINE = ("library", "library_strength")  # folders of the server are none of a client's


class SoundWish(GenerateOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of POST /v1/sounds. Raises OptionError."""

    start_s: float = 0.0
    """where to begin in the video"""
    duration_s: float | None = None
    """how long; none: to its end"""
    num_candidates: int = 1
    """so many sounds, by as many seeds from `seed` on, the one first that fits best; 1 to 32"""
    format: str = "wav"
    """of the files: as the suffixes that vab-rt generate takes"""
    path: str | None = None
    """a video below the server's --root, in place of a body"""

    def __post_init__(self) -> None:
        super().__post_init__()
        Video("video", self.start_s, self.duration_s)
        check_count(self.num_candidates)
        name = self.format.lower().removeprefix(".")
        if f".{name}" not in FORMATS:
            known = ", ".join(suffix[1:] for suffix in FORMATS)
            raise OptionError(f"format is {self.format}, expected one of {known}")
        msgspec.structs.force_setattr(self, "format", name)

    def options(self) -> GenerateOptions:
        """Those of the pipeline."""
        return options_of(self)


class RegenerateWish(GenerateOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Of POST /v1/sounds/{id}/regenerate. Raises OptionError."""

    start_s: float = 0.0
    """where the part begins that is made anew, in the sound"""
    end_s: float | None = None
    """where it ends; none: with the sound"""
    candidate: int = 1
    """of which sound, counted from 1, the best"""


Wish = TypeVar("Wish", bound=GenerateOptions)


def options_of(wish: GenerateOptions) -> GenerateOptions:
    """Those of the pipeline."""
    return GenerateOptions(
        **{name: getattr(wish, name) for name in GenerateOptions.__struct_fields__}
    )


def fields_of(kind: type[GenerateOptions]) -> list[str]:
    """The names that a query may have, those of the request first."""
    own = [name for name in kind.__struct_fields__ if name not in GenerateOptions.__struct_fields__]
    shared = [name for name in GenerateOptions.__struct_fields__ if name not in _OF_THE_MACHINE]
    return own + shared


def parse(query: QueryParams, kind: type[Wish], config: ClipConfig, **defaults: Any) -> Wish:
    """The wish of a query. Raises OptionError for what is unknown, twice there or out of range."""
    known = fields_of(kind)
    found: dict[str, Any] = dict(defaults)
    for name in query:
        values = query.getlist(name)
        if name not in known:
            raise OptionError(f"{name} is no option, expected one of {', '.join(known)}")
        if name != "kinds" and len(values) > 1:
            raise OptionError(f"{name} is there {len(values)} times, expected it once")
        found[name] = values if name == "kinds" else values[0]
    try:
        wish = msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise OptionError(f"the query does not fit: {error}; see /openapi.json") from error
    check_kinds(wish.kinds, config)
    return wish
