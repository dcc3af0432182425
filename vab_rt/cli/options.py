"""Options that several commands have, with their help."""

import os
from pathlib import Path
from typing import Annotated

import typer

from vab_rt.delivery import Delivery
from vab_rt.options import GenerateOptions

DEFAULTS, DELIVERY = GenerateOptions(), Delivery()
_MODEL = "Folder of a bundle, name of a shipped model, or hf:ORG/NAME@REVISION on a hub."
_SHIPPED = "the shipped one"


def seconds(text: str | float) -> float:
    """90, 1:30 and 00:01:30.5 are the same but for half a second."""
    try:
        total, *more = map(float, str(text).split(":"))
    except ValueError as error:
        raise _no_time(text) from error
    if len(more) > 2 or not all(0 <= part < 60 for part in more):
        raise _no_time(text)
    for part in more:
        total = 60 * total + part
    return total


def _no_time(text: str | float) -> typer.BadParameter:
    return typer.BadParameter(f"{text!r} is no time, such as 90, 1:30 or 00:01:30.5")


def parsed_seed(text: str | int) -> int:
    """A whole number, or one that is drawn."""
    if text == "random":
        return int.from_bytes(os.urandom(4), "little")
    try:
        return int(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no whole number, nor random") from error


VideoIn = Annotated[
    Path,  # checked by us, with an error that says more
    typer.Argument(metavar="IN", help="The silent video.", readable=False),
]
Out = Annotated[
    Path,
    typer.Argument(
        metavar="OUT",
        help="wav, flac, mp3, m4a, ogg, opus, aac, aiff or mka; or mp4, mov, m4v, mkv, webm or "
        "avi, which get a copy of the video stream beside the sound.",
        readable=False,
    ),
]
ModelArgument = Annotated[str | None, typer.Argument(help=_MODEL, show_default=_SHIPPED)]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME|DIR|hf:NAME", help=_MODEL, show_default=_SHIPPED),
]
Offline = Annotated[bool, typer.Option("--offline", help="Of a hub, only what was fetched before.")]
Seed = Annotated[
    int,
    typer.Option(
        parser=parsed_seed,
        metavar="N|random",
        help="The same seed and video give the same sound.",
    ),
]
Picture = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A png of the result: frames above the spectrogram of the sound, its strokes marked.",
        show_default="none",
    ),
]
JsonLine = Annotated[
    bool, typer.Option("--json", help="The last line of output is one JSON object.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
KeepTake = Annotated[
    bool,
    typer.Option(
        "--take/--no-take",
        help="Keep what the sound was made of in OUT.vab.json, for vab-rt regenerate.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and warnings only.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")]
Loudness = Annotated[
    float | None,
    typer.Option(
        metavar="LUFS",
        help="Integrated loudness by EBU R 128, such as -23.",
        show_default="as the model has it",
    ),
]
Fade = Annotated[
    float, typer.Option(metavar="S", help="In so many seconds the sound comes, and goes.")
]
GainDb = Annotated[float, typer.Option(metavar="DB", help="Of our sound, before it is mixed.")]
