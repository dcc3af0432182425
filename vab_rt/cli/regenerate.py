"""vab-rt regenerate: a part of a sound made anew."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vab_rt.cli.groups import Deliver, Load, Overrides, Tell, with_groups
from vab_rt.cli.options import Force, KeepTake, Out, Picture, VideoIn, parsed_seed, seconds
from vab_rt.cli.writing import Asked, tell, write_sound

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from collections.abc import Iterator

    from vab_rt.pipeline import Pipeline
    from vab_rt.steps import Step


@with_groups
def regenerate(
    video: VideoIn,
    sound: Annotated[
        Path,
        typer.Argument(
            metavar="SOUND",
            help="A sound of this video: one that vab-rt wrote, or any other as long.",
            readable=False,
        ),
    ],
    out: Out,
    from_: Annotated[
        float,
        typer.Option(
            "--from", parser=seconds, metavar="TIME", help="Where the part begins in the sound."
        ),
    ] = 0.0,
    to: Annotated[
        float | None,
        typer.Option(
            "--to", parser=seconds, metavar="TIME", help="Where it ends.", show_default="its end"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=parsed_seed,
            metavar="N|random",
            help="The same seed, video and sound give the same part.",
            show_default="the sound's and 1, or 0",
        ),
    ] = None,
    picture: Picture = None,
    take: KeepTake = True,
    force: Force = False,
    *,
    overrides: Overrides,
    deliver: Deliver,
    load: Load,
    told: Tell,
) -> None:
    """Make a part of a sound anew, and leave the rest as it is."""
    begin = time.perf_counter()
    delivery = deliver.delivery()
    load.begin()
    from vab_rt.audio import Audio
    from vab_rt.editing import selected
    from vab_rt.formats import as_in
    from vab_rt.video import Video

    old = Audio.load(sound)
    delivery = as_in(sound, out, delivery)
    seed = (0 if old.seed is None else (old.seed + 1) % 2**64) if seed is None else seed
    end_s = old.duration_s if to is None else to
    overrides.keep_kind(old)
    options = overrides.options(seed)
    part = selected(Video(video), old.take)

    def make(pipeline: "Pipeline") -> "Iterator[Step]":
        return pipeline.regenerate_steps(part, old, from_, end_s, options)

    asked = Asked(out, delivery, picture, take, told.is_quiet, force, as_lines=told.as_lines)
    report = write_sound(part, asked, load, make, old.sample_rate_hz)
    report |= {"seed": seed, "start_s": from_, "end_s": min(end_s, old.duration_s)}
    report["timings_s"]["total"] = time.perf_counter() - begin
    tell(report, told, overrides.kind)
