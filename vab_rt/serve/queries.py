"""What a request asks for, as its query says it: the fields of GenerateOptions by name, and a few
of the server's own; as it is ordered of the worker, and what comes of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import msgspec

from vab_rt.delivery import Delivery
from vab_rt.errors import OptionError
from vab_rt.formats import FORMATS
from vab_rt.options import GenerateOptions, check_count
from vab_rt.seconds import check_part

if TYPE_CHECKING:  # the worker does without
    from starlette.datastructures import QueryParams

PREVIEWS = ("mp4", "webm")
"""Formats of which some browser plays each."""
_OF_THE_MACHINE = ("library", "library_strength")  # folders of the server are none of a client's


class SoundQuery(GenerateOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The query of POST /v1/sounds. Raises OptionError."""

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
        check_part(self.start_s, self.duration_s)
        check_count(self.num_candidates)
        msgspec.structs.force_setattr(self, "format", _format(self.format))


class RegenerateQuery(GenerateOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The query of POST /v1/sounds/{id}/regenerate. Raises OptionError."""

    start_s: float = 0.0
    """where the part begins that is made anew, in the sound"""
    end_s: float | None = None
    """where it ends; none: with the sound"""
    candidate: int = 1
    """of which sound, counted from 1, the best"""


class ContentQuery(Delivery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The query of GET /v1/sounds/{id}/content. Raises OptionError."""

    candidate: int = 1
    """which sound, counted from 1, the best"""
    format: str | None = None
    """of the file; none: the one that the sound was asked for in"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.format is not None:
            msgspec.structs.force_setattr(self, "format", _format(self.format))

    def delivery(self) -> Delivery:
        """How the file is to hold it."""
        return Delivery(**{name: getattr(self, name) for name in Delivery.__struct_fields__})


class PreviewQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The query of GET /v1/sounds/{id}/preview. Raises OptionError."""

    format: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*PREVIEWS]})] = PREVIEWS[0]
    """of the file"""

    def __post_init__(self) -> None:
        if self.format not in PREVIEWS:
            known = ", ".join(PREVIEWS)
            raise OptionError(f"format is {self.format}, expected one of {known}")


class NoQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The query of all other requests."""


Query = TypeVar("Query", bound=msgspec.Struct)


def _format(name: str) -> str:
    """As FORMATS has it, without the dot."""
    plain = name.lower().removeprefix(".")
    if f".{plain}" not in FORMATS:
        known = ", ".join(suffix[1:] for suffix in FORMATS)
        raise OptionError(f"format is {name}, expected one of {known}")
    return plain


def options_of(query: GenerateOptions) -> GenerateOptions:
    """Those of the pipeline."""
    return GenerateOptions(
        **{name: getattr(query, name) for name in GenerateOptions.__struct_fields__}
    )


def fields_of(kind: type[msgspec.Struct]) -> list[str]:
    """The names that a query may have, those of the request first."""
    (base,) = kind.__bases__
    assert issubclass(base, msgspec.Struct), "a query has fields, or those of the runtime and more"
    own = [name for name in kind.__struct_fields__ if name not in base.__struct_fields__]
    shared = [name for name in base.__struct_fields__ if name not in _OF_THE_MACHINE]
    return own + shared


def parse(query: "QueryParams", kind: type[Query], **defaults: Any) -> Query:
    """What is asked for. Raises OptionError for what is unknown, twice there or out of range."""
    known = fields_of(kind)
    found: dict[str, Any] = dict(defaults)
    for name in query:
        values = query.getlist(name)
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "none with this request"
            raise OptionError(f"{name} is no option, expected {expected}")
        if name != "kinds" and len(values) > 1:
            raise OptionError(f"{name} is there {len(values)} times, expected it once")
        found[name] = values if name == "kinds" else values[0]
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise OptionError(f"the query does not fit: {error}; see /openapi.json") from error


class EditOrder(NamedTuple):
    """Which seconds of a finished sound to make anew. sound: a file in the job's folder."""

    of: str
    candidate: int
    start_s: float
    end_s: float
    sound: Path

    def report(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("of", "candidate", "start_s", "end_s")}


@dataclass(frozen=True)
class Order:
    """What is to be made, and where. folder: of this job alone; its video may lie elsewhere."""

    folder: Path
    video: Path
    options: GenerateOptions
    start_s: float
    duration_s: float | None
    num_candidates: int
    format: str
    shown: str = "the video"
    """what messages call the video"""
    edit: EditOrder | None = None

    def output(self, number: int) -> Path:
        """The file of a candidate, counted from 1."""
        return self.folder / f"sound.{number}.{self.format}"

    def without_paths(self, message: str) -> str:
        """The same for those who must not know where files are."""
        message = message.replace(str(self.video), self.shown)
        return message.replace(f"{self.folder}/", "").replace(
            str(self.folder), "the server's folder"
        )


class SoundFile(NamedTuple):
    """A finished file."""

    path: Path
    seed: int
    score: float | None


@dataclass(frozen=True)
class Made:
    """sounds: best first. video_has_sound: some to mix with."""

    sounds: list[SoundFile]
    video_has_sound: bool
    duration_s: float
    sample_rate_hz: int
    kinds: dict[str, float]
    warnings: list[str]
    timings_s: dict[str, float]
