"""vab-rt timeline: sounds for the clips of a video editor's timeline, on a track of their own."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from vab_rt.cli.console import (
    print_error,
    print_line,
    readable,
    with_count,
)
from vab_rt.cli.groups import Load, Overrides, Tell, with_groups
from vab_rt.cli.options import DEFAULTS, DELIVERY, Fade, Force, GainDb, KeepTake, Loudness, Seed
from vab_rt.cli.writing import Asked, write_sound
from vab_rt.delivery import Delivery
from vab_rt.errors import MediaError, OptionError, VabError, is_out_of_memory
from vab_rt.options import GenerateOptions, check_kinds
from vab_rt.seconds import told_s
from vab_rt.signals import end_if_told
from vab_rt.timelines import open_timeline, require_format
from vab_rt.timelines.clips import STILL, Clip, Sound, Unheard

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.pipeline import Pipeline
    from vab_rt.steps import Step
    from vab_rt.timelines.timeline import Timeline

_NAME_LENGTH = 50  # characters of a clip's name in that of its sound: 200 bytes of 255 at most


class Made(NamedTuple):
    """What became of a clip."""

    number: int
    total: int
    clip: Clip
    outcome: Sound | Unheard
    report: dict[str, Any]


@dataclass(frozen=True)
class Maker:
    """Makes the sound of one clip after another, with one model."""

    load: "Callable[[], Pipeline]"
    options: GenerateOptions
    delivery: Delivery
    take: bool
    force: bool

    def each(
        self, clips: list[Clip], timeline: "Timeline", folder: Path, scratch: Path
    ) -> Iterator[Made]:
        """Into a folder, with names that no other file of the timeline has."""
        for number, clip in enumerate(clips, 1):
            end_if_told()
            report: dict[str, Any] = {}
            outcome: Sound | Unheard
            if isinstance(clip.media, Unheard):
                outcome = clip.media
            else:
                path = folder / self._name(number, clip, timeline.taken_names)
                try:
                    media = timeline.fetched(clip.media, scratch)
                    outcome = self._made(clip, media, path, report)
                except (MediaError, OptionError) as error:
                    outcome = Unheard(str(error))
                except Exception as error:
                    if isinstance(error, VabError) or is_out_of_memory(error):
                        raise
                    # One clip's bug is no end of a film's work.
                    outcome = Unheard(f"{type(error).__name__}: {error}")
            yield Made(number, len(clips), clip, outcome, report)

    def _name(self, number: int, clip: Clip, taken: frozenset[str]) -> str:
        words = re.sub(r"\W+", "_", clip.name.rpartition(".")[0] or clip.name).strip("_")
        stem = f"{words[:_NAME_LENGTH] or 'clip'}_{number:04d}_seed{self.options.seed}"
        name, again = f"{stem}.wav", 1
        while name in taken:
            again += 1
            name = f"{stem}_{again}.wav"
        return name

    def _made(self, clip: Clip, media: Path, path: Path, report: dict[str, Any]) -> Sound | Unheard:
        from vab_rt.timelines.sound_folder import as_long
        from vab_rt.video import Video

        if clip.start_s < 0:
            raise OptionError(
                f"it begins {told_s(-clip.start_s)} s before its media, expected a part of it; "
                "trim it in the editor"
            )
        video = Video(media, float(clip.start_s), float(clip.length_s))
        if video.info.is_still:
            return STILL

        def make(pipeline: "Pipeline") -> "Iterator[Step]":
            num_samples = round(clip.length_s * pipeline.config.sample_rate_hz)
            return as_long(pipeline.generate_steps(video, self.options), max(1, num_samples))

        asked = Asked(path, self.delivery, None, self.take, quiet=True, force=self.force)
        report |= write_sound(video, asked, self.load, make)
        source = str(clip.media)
        seed, start_s = self.options.seed, float(clip.start_s)
        facts = {"seed": seed, "model": report["model"], "source": source, "start_s": start_s}
        return Sound(clip, path, report["sample_rate_hz"], facts)


@with_groups
def timeline(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="The timeline: .otio, .otioz, .xml of Final Cut Pro 7 as Premiere and Resolve "
            "write it, .fcpxml, or .mlt of Shotcut.",
            readable=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The same timeline with one more track, in the same format. Sounds lie in "
            "NAME.sound beside it.",
            readable=False,
        ),
    ],
    track: Annotated[
        str, typer.Option(metavar="NAME", help="Of the new audio track, which is the last.")
    ] = "vab-rt",
    video_track: Annotated[
        int,
        typer.Option(metavar="N", help="Whose clips get sound; 1 is the lowest."),
    ] = 1,
    seed: Seed = DEFAULTS.seed,
    rate: Annotated[int, typer.Option(metavar="HZ", help="Samples a second.")] = 48_000,
    loudness: Loudness = DELIVERY.loudness_lufs,
    fade: Fade = DELIVERY.fade_s,
    gain_db: GainDb = DELIVERY.gain_db,
    take: KeepTake = True,
    force: Force = False,
    *,
    overrides: Overrides,
    load: Load,
    told: Tell,
) -> None:
    """Put sound on the clips of a video editor's timeline."""
    begin = time.perf_counter()
    from vab_rt.output import whole_file, writing
    from vab_rt.timelines.sound_folder import sound_folder

    delivery = Delivery(rate_hz=rate, loudness_lufs=loudness, fade_s=fade, gain_db=gain_db)
    _check_formats(source, out)
    opened = open_timeline(source)
    clips = opened.clips(video_track, track)
    maker = Maker(load, overrides.options(seed), delivery, take, force)
    found = list[Made]()
    with sound_folder(opened, source, out, force=force) as (folder, scratch):
        if any(isinstance(clip.media, Path) for clip in clips):
            pipeline = load()  # what is wrong with it, or asked of it, is told once for all
            check_kinds(maker.options.kinds, pipeline.config)
            pipeline.system.options(maker.options)
        each = maker.each(clips, opened, folder, scratch)
        for made in with_count(each, "sounds", quiet=told.is_quiet, as_lines=told.as_lines):
            found.append(made)
            _tell_unheard(made, quiet=told.is_quiet)
        sounds = [made.outcome for made in found if isinstance(made.outcome, Sound)]
        _require_sounds(source, sounds)
        opened.add(sounds, track)
        with whole_file(out, force=force) as part, writing(out):
            opened.write(part, out)
    total_s = time.perf_counter() - begin
    faults = sum(isinstance(one.outcome, Unheard) and one.outcome.is_fault for one in found)
    if told.as_json:
        times = {"load": load().load_s, "total": total_s}
        report = {"output": readable(out), "seed": seed, "track": track, "timings_s": times}
        print_line(json.dumps(report | {"clips": [_told(one) for one in found]}))
    elif not told.quiet:
        skipped = len(found) - len(sounds) - faults
        counts = f"{len(sounds)} sounds, {skipped} skipped, {faults} failed"
        print_line(f"{out}: {counts} in {total_s:.1f} s on {load().device}, seed {seed}")
    if faults:
        raise typer.Exit(1)


def _check_formats(source: Path, out: Path) -> None:
    """Raises OptionError: a timeline keeps its format, and with it all that only that knows."""
    if require_format(source) != require_format(out):
        raise OptionError(
            f"{out} is of another format than {source}, expected {source.suffix} again, in which "
            "nothing is lost; convert it with your editor, or with otioconvert"
        )


def _require_sounds(source: Path, sounds: list[Sound]) -> None:
    if not sounds:
        raise MediaError(
            f"{source} has no clip that got a sound, expected one on the chosen video track; "
            "choose another with --video-track"
        )


def _at(time_s: Fraction) -> str:
    minutes, seconds = divmod(float(time_s), 60)
    return f"{int(minutes)}:{seconds:06.3f}"


def _tell_unheard(made: Made, *, quiet: bool) -> None:
    if isinstance(made.outcome, Unheard):
        fault = made.outcome.is_fault
        if fault or not quiet:
            name = readable(made.clip.name) or "a clip without a name"
            where = f"{name} at {_at(made.clip.begin_s)}"
            print_error(f"{'error' if fault else 'skipped'}: {where}: {made.outcome.reason}")


def _told(made: Made) -> dict[str, Any]:
    """What --json tells of a clip."""
    clip, outcome = made.clip, made.outcome
    facts = {
        "clip": readable(clip.name),
        "begin_s": float(clip.begin_s),
        "duration_s": float(clip.length_s),
        "start_s": float(clip.start_s),
    }
    if isinstance(outcome, Unheard):
        return facts | {"error" if outcome.is_fault else "skipped": outcome.reason}
    files = {"media": readable(str(clip.media)), "output": readable(outcome.path)}
    return facts | files | {key: made.report[key] for key in ("gain_db", "kinds")}
