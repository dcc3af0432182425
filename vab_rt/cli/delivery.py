"""Options of what a file is to hold, for every command that writes sound."""

from typing import Annotated

import typer

from vab_rt.delivery import Delivery

DELIVERY = Delivery()

Rate = Annotated[
    int | None,
    typer.Option(
        metavar="HZ",
        help="Samples a second of OUT.",
        show_default="48000 beside a video, else the model's",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        metavar="1|2",
        help="2 is dual mono: the same sound on both sides.",
        show_default="1; with --mix as the video has",
    ),
]
Bits = Annotated[
    str | None,
    typer.Option(metavar="16|24|32f", help="Of a sample in wav.", show_default="16"),
]
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
Codec = Annotated[
    str | None,
    typer.Option(
        metavar="pcm",
        help="Uncompressed sound in mov, mkv and avi.",
        show_default="the format's own",
    ),
]
Mix = Annotated[
    str,
    typer.Option(
        metavar="replace|keep|duck",
        help="The video's own sound: dropped, kept beside ours, or lowered while ours sounds.",
    ),
]
GainDb = Annotated[float, typer.Option(metavar="DB", help="Of our sound, before it is mixed.")]
