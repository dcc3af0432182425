"""Options that go together, so that a command takes them as one value.

`with_groups` gives a command the fields of each dataclass that it takes, as options of its own.
"""

import copy
import inspect
import time
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args, get_type_hints

import typer

from vab_rt.cli.console import tell_progress
from vab_rt.cli.options import (
    DEFAULTS,
    DELIVERY,
    Fade,
    GainDb,
    JsonLine,
    Loudness,
    Model,
    Offline,
    Quiet,
)
from vab_rt.delivery import Delivery
from vab_rt.options import GenerateOptions
from vab_rt.threads import Begun, Helpers, is_memory_limited

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.audio import Audio
    from vab_rt.bundle import Bundle
    from vab_rt.engines import Engines
    from vab_rt.pipeline import Pipeline

_OWN = "the model's own"


@dataclass
class Overrides:
    """How a sound is decoded."""

    steps: Annotated[
        int | None, typer.Option(help="Decoding steps: more is slower.", show_default=_OWN)
    ] = DEFAULTS.steps
    fine_steps: Annotated[
        int | None,
        typer.Option(help="Steps of a coarse-to-fine system's second stage.", show_default=_OWN),
    ] = DEFAULTS.fine_steps
    guidance: Annotated[
        float | None,
        typer.Option(help="How closely to follow what is seen; 1 is off.", show_default=_OWN),
    ] = DEFAULTS.guidance
    mask_temperature: Annotated[
        float | None, typer.Option(help="Variety in the order of decoding.", show_default=_OWN)
    ] = DEFAULTS.mask_temperature
    temperature: Annotated[
        float | None, typer.Option(help="Variety of the sound.", show_default=_OWN)
    ] = DEFAULTS.temperature
    top_k: Annotated[
        int | None,
        typer.Option(help="Candidates for each token; 0 keeps all.", show_default=_OWN),
    ] = DEFAULTS.top_k
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What makes the sound, whatever is seen; as often as wanted. vab-rt kinds MODEL "
            "lists them. Of a sound that is given, seen: as if it had none.",
            show_default="that of a sound that is given, else what is seen",
        ),
    ] = None

    def keep_kind(self, sound: "Audio") -> None:
        """That of a sound which is changed or goes on, where none is said; `seen` is none."""
        if self.kind == ["seen"]:
            self.kind = None
        elif self.kind is None and sound.take is not None:
            self.kind = [*sound.take.kinds]

    def options(self, seed: int, **more: Any) -> GenerateOptions:
        """Raises OptionError."""
        named = {name: value for name, value in vars(self).items() if name != "kind"}
        return GenerateOptions(seed=seed, kinds=tuple(self.kind or ()), **named, **more)


@dataclass
class Deliver:
    """What a file is to hold."""

    rate: Annotated[
        int | None,
        typer.Option(
            metavar="HZ",
            help="Samples a second of OUT.",
            show_default="48000 beside a video, else the model's",
        ),
    ] = DELIVERY.rate_hz
    channels: Annotated[
        int | None,
        typer.Option(
            metavar="1|2",
            help="2 is dual mono: the same sound on both sides.",
            show_default="1; with --mix as the video has",
        ),
    ] = DELIVERY.num_channels
    bits: Annotated[
        str | None,
        typer.Option(metavar="16|24|32f", help="Of a sample in wav.", show_default="16"),
    ] = DELIVERY.bits
    loudness: Loudness = DELIVERY.loudness_lufs
    fade: Fade = DELIVERY.fade_s
    codec: Annotated[
        str | None,
        typer.Option(
            metavar="pcm",
            help="Uncompressed sound in mov, mkv and avi.",
            show_default="the format's own",
        ),
    ] = DELIVERY.codec
    mix: Annotated[
        str,
        typer.Option(
            metavar="replace|keep|duck",
            help="The video's own sound: dropped, kept beside ours, or lowered while ours sounds.",
        ),
    ] = DELIVERY.mix
    gain_db: GainDb = DELIVERY.gain_db

    def delivery(self) -> Delivery:
        """Raises OptionError."""
        return Delivery(
            rate_hz=self.rate,
            num_channels=self.channels,
            bits=cast(Any, self.bits),
            loudness_lufs=self.loudness,
            fade_s=self.fade,
            codec=cast(Any, self.codec),
            mix=cast(Any, self.mix),
            gain_db=self.gain_db,
        )


@dataclass
class Load:
    """The model, and what it runs on."""

    model: Model = None
    offline: Offline = False
    device: Annotated[
        str,
        typer.Option(
            help="auto, cpu, cuda, tensorrt, tensorrt-rtx (cuda:1: the second GPU), openvino, "
            "coreml, directml or migraphx; never another than asked for."
        ),
    ] = "auto"
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="fp32|int8",
            help="What the CPU multiplies in: int8 is faster where the processor has instructions "
            "for it, and makes another sound of the same seed.",
            show_default=_OWN,
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(help="Of the CPU.", show_default="one a physical core that it may use"),
    ] = None

    def __post_init__(self) -> None:
        self._opening: Begun[tuple[Bundle, Engines, float]] | None = None

    def begin(self) -> None:
        """Opens it beside what a command does until it asks; what is wrong is told only then. Not
        of a hub, as what comes from there can take long."""
        from vab_rt.hub import is_on_hub

        if is_on_hub(self.model) or is_memory_limited():
            return
        from vab_rt.engines import import_libraries

        import_libraries(self.device)  # first of all: graphs open beside what else is imported
        self._opening = Helpers(1).begin(partial(self._open, wait=False))

    def __call__(self) -> "Pipeline":
        """Loaded when it is first asked for."""
        return self._pipeline

    @cached_property
    def _pipeline(self) -> "Pipeline":
        opened = self._open() if self._opening is None else self._opening.result()
        from vab_rt.pipeline import assembled

        return assembled(*opened, self.threads)

    def _open(self, *, wait: bool = True) -> "tuple[Bundle, Engines, float]":
        """With no import but those it needs: graphs are read beside the others, and without `wait`
        beside what is done before each of them runs."""
        from vab_rt.engines import open_engines
        from vab_rt.hub import open_model

        begin = time.perf_counter()
        bundle = open_model(self.model, offline=self.offline)
        engines = open_engines(
            bundle, self.device, self.threads, precision=self.precision, wait=wait
        )
        return bundle, engines, time.perf_counter() - begin


@dataclass
class Tell:
    """What is told, and how."""

    as_json: JsonLine = False
    progress: Annotated[
        Literal["bar", "lines"],
        typer.Option(help="A bar on terminals, or lines of `percentage: N` on standard error."),
    ] = "bar"
    quiet: Quiet = False

    def __post_init__(self) -> None:
        tell_progress(quiet=self.is_quiet)

    @property
    def is_quiet(self) -> bool:
        return self.quiet or self.as_json

    @property
    def as_lines(self) -> bool:
        return self.progress == "lines"


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of its dataclasses in their places, all by name; `--help` shows
    them under what the dataclass says of itself."""
    hints = _hints(command)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for each in inspect.signature(command).parameters.values():
        if each.name not in groups:
            parameters.append(each.replace(kind=each.KEYWORD_ONLY, annotation=hints[each.name]))
            continue
        group = groups[each.name]
        own = {name: _in_panel(hint, group) for name, hint in _hints(group).items()}
        parameters += [_parameter(field, own[field.name]) for field in fields(group)]

    def flattened(**words: Any) -> None:
        made = {
            name: group(**{field.name: words.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**words, **made)

    return as_command(flattened, command, parameters)


def as_command(
    run: Callable[..., None], command: Callable[..., None], parameters: list[inspect.Parameter]
) -> Callable[..., None]:
    """`run`, which takes words by name, with the name and help of a command and these parameters,
    each with its own annotation."""
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _hints(of: Any) -> dict[str, Any]:
    return get_type_hints(of, include_extras=True)


def _in_panel(hint: Any, group: Any) -> Any:
    """An option that `--help` shows in the panel of its group."""
    option = copy.copy(get_args(hint)[1])
    option.rich_help_panel = group.__doc__.rstrip(".")
    return Annotated[get_args(hint)[0], option]


def _parameter(field: Field[Any], hint: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, kind, default=default, annotation=hint)
