"""vab-rt generate: sound for a silent video."""

import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vab_rt.cli.console import print_line, readable, tell_progress, with_progress
from vab_rt.cli.options import (
    DEFAULTS,
    Device,
    FineSteps,
    Force,
    Guidance,
    JsonLine,
    Kind,
    MaskTemperature,
    Model,
    Offline,
    Picture,
    Quiet,
    Seed,
    Steps,
    Temperature,
    TopK,
    VideoIn,
)
from vab_rt.config import GenerateOptions
from vab_rt.signals import end_if_told

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.pipeline import Pipeline
    from vab_rt.video import Video


def generate(
    video: VideoIn,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="wav, flac, mp3, m4a or ogg; or mp4, mov, mkv or webm, which get a copy of the "
            "video stream beside the sound.",
            readable=False,  # ours to check, with an error that says more
        ),
    ],
    model: Model = None,
    offline: Offline = False,
    seed: Seed = DEFAULTS.seed,
    steps: Steps = DEFAULTS.steps,
    fine_steps: FineSteps = DEFAULTS.fine_steps,
    guidance: Guidance = DEFAULTS.guidance,
    mask_temperature: MaskTemperature = DEFAULTS.mask_temperature,
    temperature: Temperature = DEFAULTS.temperature,
    top_k: TopK = DEFAULTS.top_k,
    kind: Kind = None,
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
    start: Annotated[
        float, typer.Option(metavar="S", help="Where to begin in the video, in seconds.")
    ] = 0.0,
    duration: Annotated[
        float | None,
        typer.Option(metavar="S", help="How many seconds.", show_default="to the end"),
    ] = None,
    picture: Picture = None,
    device: Device = "auto",
    as_json: JsonLine = False,
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Put sound on a silent video."""
    begin = time.perf_counter()
    options = GenerateOptions(
        seed=seed,
        steps=steps,
        fine_steps=fine_steps,
        guidance=guidance,
        mask_temperature=mask_temperature,
        temperature=temperature,
        top_k=top_k,
        kinds=tuple(kind or ()),
        library=None if library is None else str(library),
        library_strength=library_strength,
    )
    tell_progress(logging.WARNING if quiet or as_json else logging.INFO)
    from vab_rt.video import Video

    part = Video(video, start, duration)

    def load() -> "Pipeline":
        from vab_rt.pipeline import load

        return load(model, device, offline=offline)

    report = _generate(part, out, picture, load, options, quiet=quiet or as_json, force=force)
    report["timings_s"]["total"] = time.perf_counter() - begin
    if as_json:
        print_line(json.dumps(report))
    elif not quiet:
        total_s = report["timings_s"]["total"]
        device = report["device"]
        for recording in report["library"]:
            license = recording["license_file"]
            print_line(f"played: {recording['file']}" + (f" (see {license})" if license else ""))
        if report["kinds"]:
            print_line("seen: " + ", ".join(f"{kind} {p:.0%}" for kind, p in _likeliest(report)))
        print_line(f"{out}: {report['duration_s']:.2f} s of sound in {total_s:.1f} s on {device}")


def _generate(
    video: "Video",
    out: Path,
    picture: Path | None,
    load: "Callable[[], Pipeline]",
    options: GenerateOptions,
    *,
    quiet: bool,
    force: bool,
) -> dict[str, Any]:
    """Streams from the video to the file; returns what `--json` tells, but for the total time."""
    from vab_rt.audio import AudioWriter, plan_output
    from vab_rt.picture import PictureWriter, plan_picture

    plan = plan_output(out, video=video, force=force)
    shown = picture and plan_picture(picture, video, out=out, force=force)
    pipeline = load()
    rate_hz = pipeline.config.sample_rate_hz
    drawn = PictureWriter(shown, rate_hz) if shown else None
    write_s = 0.0
    timings_s: dict[str, float] = {}
    seen: Counter[str] = Counter()
    with drawn or nullcontext(), AudioWriter(plan, rate_hz) as writer:
        for step in with_progress(pipeline.generate_steps(video, options), quiet=quiet):
            end_if_told()
            timings_s = step.timings_s
            if step.audio is not None:
                seen.update({kind: p * len(step.audio) for kind, p in step.kinds.items()})
                before = time.perf_counter()
                writer.write(step.audio)
                if drawn:
                    drawn.write(step.audio)
                write_s += time.perf_counter() - before
        before = time.perf_counter()
    write_s += time.perf_counter() - before
    return {
        "output": readable(out),
        "duration_s": writer.num_samples / writer.sample_rate_hz,
        "sample_rate_hz": writer.sample_rate_hz,
        "model": pipeline.config.name,
        "device": pipeline.device,
        "seed": options.seed,
        "library": [] if options.library is None else pipeline.library(options.library).report(),
        "kinds": {kind: p / seen.total() for kind, p in seen.most_common()},
        "timings_s": {"load": pipeline.load_s, **timings_s, "write": write_s},
    }


def _likeliest(report: dict[str, Any]) -> list[tuple[str, float]]:
    """The kinds that a line has room for: three, without those that are hardly there."""
    return [(kind, p) for kind, p in list(report["kinds"].items())[:3] if p >= 0.05]
