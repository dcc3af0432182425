"""A sound to its file, and what is told of it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vab_rt.cli.console import print_line, readable, with_progress
from vab_rt.cli.groups import Tell
from vab_rt.delivery import Delivery
from vab_rt.signals import end_if_told

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.picture import PictureWriter
    from vab_rt.pipeline import Pipeline
    from vab_rt.steps import Step
    from vab_rt.video import Video


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
    from vab_rt.audio_file import AudioWriter, plan_output

    out, force = asked.out, asked.force
    plan = plan_output(
        out, video=video, force=force, delivery=asked.delivery, keeps_take=asked.take
    )
    draw = None if asked.picture is None else _drawing(asked.picture, video, out, force)
    pipeline = load()
    rate_hz = rate_hz or pipeline.config.sample_rate_hz
    drawn = draw and draw(rate_hz)
    from vab_rt.steps import Summary

    write_s, summary = 0.0, Summary()
    steps, step = make(pipeline), None  # what is wrong with the call shows before any file is made
    with drawn or nullcontext(), AudioWriter(plan, rate_hz) as writer:
        shown_steps = with_progress(steps, quiet=asked.quiet, as_lines=asked.as_lines)
        for step in summary.watch(shown_steps):
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
        "precision": pipeline.precision,
        "library": [],
        "kinds": summary.shares(),
        "timings_s": {"load": pipeline.load_s, **summary.timings_s, "write": write_s},
    }


def tell(report: dict[str, Any], told: Tell, kinds: list[str] | None = None) -> None:
    """What was written, for people or as one JSON object. kinds: what was asked for instead of
    what is seen."""
    if told.as_json:
        print_line(json.dumps(report))
    elif not told.quiet:
        out, length_s = report["output"], report["duration_s"]
        total_s = report["timings_s"]["total"]
        device, precision, seed = report["device"], report["precision"], report["seed"]
        device += "" if precision == "fp32" else f" in {precision}"
        for recording in report["library"]:
            license = recording["license_file"]
            print_line(f"played: {recording['file']}" + (f" (see {license})" if license else ""))
        if report["kinds"] and not kinds:
            seen = ", ".join(f"{kind} {p:.0%}" for kind, p in _likeliest(report))
            print_line(f"seen: {seen} (--kind NAME says otherwise)")
        print_line(f"{out}: {length_s:.2f} s of sound in {total_s:.1f} s on {device}, seed {seed}")
        for one in report.get("candidates", []):
            print_line(f"{one['output']}: seed {one['seed']}, score {one['score']:.3f}")


def _likeliest(report: dict[str, Any]) -> list[tuple[str, float]]:
    """The kinds that a line has room for: three, without those that are hardly there."""
    return [(kind, p) for kind, p in list(report["kinds"].items())[:3] if p >= 0.05]


def _drawing(
    picture: Path, video: "Video", out: Path, force: bool
) -> "Callable[[int], PictureWriter]":
    """What begins the picture of a sound, whose rate it is told."""
    from vab_rt.picture import PictureWriter, plan_picture

    return partial(PictureWriter, plan_picture(picture, video, out=out, force=force))
