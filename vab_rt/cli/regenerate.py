"""vab-rt regenerate: a part of a sound made anew."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vab_rt.cli.console import tell_progress
from vab_rt.cli.delivery import (
    DELIVERY,
    Bits,
    Channels,
    Codec,
    Fade,
    GainDb,
    Loudness,
    Mix,
    Rate,
    delivery_of,
)
from vab_rt.cli.generate import Asked, loader, tell, write_sound
from vab_rt.cli.options import (
    DEFAULTS,
    Device,
    FineSteps,
    Force,
    Guidance,
    JsonLine,
    KeepTake,
    Kind,
    MaskTemperature,
    Model,
    Offline,
    Out,
    Picture,
    Progress,
    Quiet,
    Steps,
    Temperature,
    Threads,
    TopK,
    VideoIn,
    seconds,
    seed_of,
)
from vab_rt.config import GenerateOptions

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from collections.abc import Iterator

    from vab_rt.pipeline import Pipeline
    from vab_rt.steps import Step


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
    model: Model = None,
    offline: Offline = False,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=seed_of,
            metavar="N|random",
            help="The same seed, video and sound give the same part.",
            show_default="the sound's and 1, or 0",
        ),
    ] = None,
    steps: Steps = DEFAULTS.steps,
    fine_steps: FineSteps = DEFAULTS.fine_steps,
    guidance: Guidance = DEFAULTS.guidance,
    mask_temperature: MaskTemperature = DEFAULTS.mask_temperature,
    temperature: Temperature = DEFAULTS.temperature,
    top_k: TopK = DEFAULTS.top_k,
    kind: Kind = None,
    rate: Rate = DELIVERY.rate_hz,
    channels: Channels = DELIVERY.num_channels,
    bits: Bits = DELIVERY.bits,
    loudness: Loudness = DELIVERY.loudness_lufs,
    fade: Fade = DELIVERY.fade_s,
    codec: Codec = DELIVERY.codec,
    mix: Mix = DELIVERY.mix,
    gain_db: GainDb = DELIVERY.gain_db,
    picture: Picture = None,
    device: Device = "auto",
    threads: Threads = None,
    take: KeepTake = True,
    as_json: JsonLine = False,
    progress: Progress = "bar",
    quiet: Quiet = False,
    force: Force = False,
) -> None:
    """Make a part of a sound anew, and leave the rest as it is."""
    begin = time.perf_counter()
    delivery = delivery_of(rate, channels, bits, loudness, fade, codec, mix, gain_db)
    tell_progress(logging.WARNING if quiet or as_json else logging.INFO)
    from vab_rt.audio import Audio
    from vab_rt.editing import selected
    from vab_rt.formats import as_in
    from vab_rt.video import Video

    old = Audio.load(sound)
    delivery = as_in(sound, out, delivery)
    seed = (0 if old.seed is None else (old.seed + 1) % 2**64) if seed is None else seed
    end_s = old.duration_s if to is None else to
    options = GenerateOptions(
        seed=seed,
        steps=steps,
        fine_steps=fine_steps,
        guidance=guidance,
        mask_temperature=mask_temperature,
        temperature=temperature,
        top_k=top_k,
        kinds=tuple(kind or ()),
    )
    part = selected(Video(video), old.take)

    def make(pipeline: "Pipeline") -> "Iterator[Step]":
        return pipeline.regenerate_steps(part, old, from_, end_s, options)

    load = loader(model, device, offline=offline, threads=threads)
    lines = progress == "lines"
    asked = Asked(out, delivery, picture, take, quiet or as_json, force, as_lines=lines)
    report = write_sound(part, asked, load, make, old.sample_rate_hz)
    report |= {"seed": seed, "start_s": from_, "end_s": end_s}
    report["timings_s"]["total"] = time.perf_counter() - begin
    tell(report, as_json=as_json, quiet=quiet, kinds=kind)
