"""vab-rt generate: sound for a silent video."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vab_rt.cli.candidates import check_whole, write_candidates
from vab_rt.cli.console import print_line
from vab_rt.cli.groups import Deliver, Load, Overrides, Tell, with_groups
from vab_rt.cli.options import (
    DEFAULTS,
    Force,
    KeepTake,
    Out,
    Picture,
    Seed,
    VideoIn,
    seconds,
)
from vab_rt.cli.writing import Asked, tell, write_sound
from vab_rt.errors import OptionError

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from collections.abc import Iterator

    from vab_rt.options import GenerateOptions
    from vab_rt.pipeline import Pipeline
    from vab_rt.steps import Step


@with_groups
def generate(
    video: VideoIn,
    out: Out,
    seed: Seed = DEFAULTS.seed,
    library: Annotated[
        str | None,  # as a Path nothing would be this folder
        typer.Option(
            metavar="FOLDER",
            help="Recordings of your own: those that fit are played, in time with what is seen.",
            show_default="none",
        ),
    ] = None,
    library_strength: Annotated[
        float, typer.Option(metavar="0..1", help="How much of them is kept.")
    ] = DEFAULTS.library_strength,
    continue_: Annotated[
        Path | None,
        typer.Option(
            "--continue",
            metavar="SOUND",
            help="A sound that is the beginning; the rest goes on from it.",
            show_default="none",
        ),
    ] = None,
    start: Annotated[
        float,
        typer.Option(
            parser=seconds, metavar="TIME", help="Where to begin in the video: seconds, or 1:30.5."
        ),
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(parser=seconds, metavar="TIME", help="How long.", show_default="to the end"),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="So many sounds, by as many seeds from --seed on: OUT is the one that the model "
            "finds fits best, OUT.2.wav and so on are the others.",
            show_default="one sound",
        ),
    ] = None,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="A quick sound, of the first step; the whole one keeps what that is sure of.",
        ),
    ] = False,
    picture: Picture = None,
    take: KeepTake = True,
    force: Force = False,
    *,
    overrides: Overrides,
    deliver: Deliver,
    load: Load,
    told: Tell,
) -> None:
    """Put sound on a silent video."""
    begin = time.perf_counter()
    options = overrides.options(seed, library=library, library_strength=library_strength)
    delivery = deliver.delivery()
    load.begin()
    from vab_rt.audio import Audio
    from vab_rt.formats import as_in
    from vab_rt.video import Video

    part = Video(video, start, duration)
    given = None if continue_ is None else Audio.load(continue_)
    if continue_ is not None and given is not None:
        delivery = as_in(continue_, out, delivery)
        overrides.keep_kind(given)
        options = options.but(kinds=overrides.kind or ())

    def wanted(pipeline: "Pipeline") -> "GenerateOptions":
        if not preview:
            return options
        from vab_rt.preview import one_step, require_preview

        return one_step(require_preview(pipeline.system), options)

    def make(pipeline: "Pipeline") -> "Iterator[Step]":
        if given is None:
            return pipeline.generate_steps(part, wanted(pipeline))
        return pipeline.continue_steps(part, given, wanted(pipeline))

    asked = Asked(out, delivery, picture, take, told.is_quiet, force, as_lines=told.as_lines)
    rate_hz = given.sample_rate_hz if given else None
    if candidates is None:
        report = write_sound(part, asked, load, make, rate_hz) | {"seed": seed}
    else:
        check_whole(given)
        if preview:
            raise OptionError(
                "a preview is of one sound, expected no --candidates beside it; leave one out"
            )
        report = write_candidates(part, asked, load, options, candidates)
    if library is not None:
        report["library"] = load().library(library).report()
    report["timings_s"]["total"] = time.perf_counter() - begin
    if load.model is None and not told.is_quiet:
        print_line("the default model knows a drawn world alone: --model real knows real kinds")
    tell(report, told, overrides.kind)
