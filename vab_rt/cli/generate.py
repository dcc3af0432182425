"""vab-rt generate: sound for a silent video."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vab_rt.cli.candidates import check_whole, tell_candidates, write_candidates
from vab_rt.cli.console import print_line, readable, with_progress
from vab_rt.cli.groups import Deliver, Load, Tell, Wishes, with_groups
from vab_rt.cli.options import (
    DEFAULTS,
    Duration,
    Force,
    KeepTake,
    Out,
    Picture,
    Seed,
    Start,
    VideoIn,
)
from vab_rt.delivery import Delivery
from vab_rt.signals import end_if_told

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.pipeline import Pipeline
    from vab_rt.steps import Step
    from vab_rt.video import Video


@with_groups
def generate(
    video: VideoIn,
    out: Out,
    seed: Seed = DEFAULTS.seed,
    library: Annotated[
        Path | None,
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
    start: Start = 0.0,
    duration: Duration = None,
    candidates: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="So many sounds, by as many seeds from --seed on: OUT is the one that the model "
            "finds fits best, OUT.2.wav and so on are the others.",
            show_default="one sound",
        ),
    ] = None,
    picture: Picture = None,
    take: KeepTake = True,
    force: Force = False,
    *,
    wishes: Wishes,
    deliver: Deliver,
    load: Load,
    told: Tell,
) -> None:
    """Put sound on a silent video."""
    begin = time.perf_counter()
    recordings = None if library is None else str(library)
    options = wishes.options(seed, library=recordings, library_strength=library_strength)
    delivery = deliver.delivery()
    from vab_rt.audio import Audio
    from vab_rt.formats import as_in
    from vab_rt.video import Video

    part = Video(video, start, duration)
    given = None if continue_ is None else Audio.load(continue_)
    if continue_ is not None:
        delivery = as_in(continue_, out, delivery)

    def make(pipeline: "Pipeline") -> "Iterator[Step]":
        if given is None:
            return pipeline.generate_steps(part, options)
        return pipeline.continue_steps(part, given, options)

    asked = Asked(out, delivery, picture, take, told.is_quiet, force, as_lines=told.as_lines)
    rate_hz = given.sample_rate_hz if given else None
    if candidates is None:
        report = write_sound(part, asked, load, make, rate_hz) | {"seed": seed}
    else:
        check_whole(given)
        report = write_candidates(
            part, asked, load, options, candidates, lambda to, of: write_sound(part, to, load, of)
        )
    if library is not None:
        report["library"] = load().library(library).report()
    report["timings_s"]["total"] = time.perf_counter() - begin
    tell(report, told, wishes.kind)


@dataclass(frozen=True)
class Asked:
    """Where a sound goes, and what is told of it."""

    out: Path
    delivery: Delivery
    picture: Path | None
    take: bool
    quiet: bool
    force: bool
    as_lines: bool = False


def write_sound(
    video: "Video",
    asked: Asked,
    load: "Callable[[], Pipeline]",
    make: "Callable[[Pipeline], Iterator[Step]]",
    rate_hz: int | None = None,
) -> dict[str, Any]:
    """Streams what `make` makes for a video to a file; returns what `--json` tells of it. rate_hz:
    of the sound; None: the model's."""
    from vab_rt.audio import AudioWriter, plan_output
    from vab_rt.picture import PictureWriter, plan_picture

    out, picture, force = asked.out, asked.picture, asked.force
    plan = plan_output(
        out, video=video, force=force, delivery=asked.delivery, keeps_take=asked.take
    )
    shown = picture and plan_picture(picture, video, out=out, force=force)
    pipeline = load()
    rate_hz = rate_hz or pipeline.config.sample_rate_hz
    drawn = PictureWriter(shown, rate_hz) if shown else None
    from vab_rt.steps import Seen

    write_s, seen = 0.0, Seen()
    steps, step = make(pipeline), None  # what is wrong with the call shows before any file is made
    with drawn or nullcontext(), AudioWriter(plan, rate_hz) as writer:
        shown_steps = with_progress(steps, quiet=asked.quiet, as_lines=asked.as_lines)
        for step in seen.watch(shown_steps):
            end_if_told()
            if step.audio is not None:
                before = time.perf_counter()
                writer.write(step.audio)
                if drawn:
                    drawn.write(step.audio)
                write_s += time.perf_counter() - before
        before = time.perf_counter()
    if asked.take and step is not None and step.take is not None:
        writer.keep(step.take)
    write_s += time.perf_counter() - before
    return {
        "output": readable(out),
        "duration_s": writer.num_samples / writer.sample_rate_hz,
        "sample_rate_hz": writer.rate_hz,
        "gain_db": writer.gain_db,
        "model": pipeline.config.name,
        "device": pipeline.device,
        "library": [],
        "kinds": seen.shares(),
        "timings_s": {"load": pipeline.load_s, **seen.timings_s, "write": write_s},
    }


def tell(report: dict[str, Any], told: Tell, kinds: list[str] | None = None) -> None:
    """What was written, for people or as one JSON object. kinds: what was asked for instead of
    what is seen."""
    if told.as_json:
        print_line(json.dumps(report))
    elif not told.quiet:
        out, length_s = report["output"], report["duration_s"]
        total_s = report["timings_s"]["total"]
        device, seed = report["device"], report["seed"]
        for recording in report["library"]:
            license = recording["license_file"]
            print_line(f"played: {recording['file']}" + (f" (see {license})" if license else ""))
        if report["kinds"] and not kinds:
            print_line("seen: " + ", ".join(f"{kind} {p:.0%}" for kind, p in _likeliest(report)))
        print_line(f"{out}: {length_s:.2f} s of sound in {total_s:.1f} s on {device}, seed {seed}")
        tell_candidates(report.get("candidates", []))


def _likeliest(report: dict[str, Any]) -> list[tuple[str, float]]:
    """The kinds that a line has room for: three, without those that are hardly there."""
    return [(kind, p) for kind, p in list(report["kinds"].items())[:3] if p >= 0.05]
