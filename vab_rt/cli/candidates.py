"""generate --candidates: several sounds of a video, each to a file, the best to OUT."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vab_rt.cli.console import readable, with_progress
from vab_rt.cli.writing import Asked, write_sound
from vab_rt.errors import OptionError, OutputError
from vab_rt.options import check_count
from vab_rt.signals import end_if_told

if TYPE_CHECKING:  # imported where they are used, so that --help is quick
    from vab_rt.audio import Audio
    from vab_rt.options import GenerateOptions
    from vab_rt.pipeline import Pipeline
    from vab_rt.steps import Step
    from vab_rt.video import Video


def write_candidates(
    video: "Video",
    asked: Asked,
    load: "Callable[[], Pipeline]",
    options: "GenerateOptions",
    count: int,
) -> dict[str, Any]:
    """The report of the best, with all under `candidates`, best first."""
    from vab_rt.audio_file import plan_output
    from vab_rt.candidates import ranked_steps, seed_of
    from vab_rt.picture import plan_picture
    from vab_rt.take import path_of

    outputs = [nth_output(asked.out, number) for number in range(1, check_count(count) + 1)]
    for path in outputs:  # all or none
        plan_output(
            path,
            video=video,
            force=asked.force,
            delivery=asked.delivery,
            keeps_take=asked.take,
        )
    _check_apart(outputs)
    if asked.take:
        _check_apart(map(path_of, outputs))
    if asked.picture is not None:
        plan_picture(asked.picture, video, out=asked.out, force=asked.force)
    steps = load().candidate_steps(video, options, num_candidates=count)
    told = with_progress(steps, quiet=asked.quiet, as_lines=asked.as_lines, num_candidates=count)
    reports, candidates = [], []
    for path, one in zip(outputs, ranked_steps(_told(told)), strict=True):
        picture = asked.picture if path == asked.out else None
        to = replace(asked, out=path, picture=picture, as_lines=False)
        reports.append(write_sound(video, to, load, _made(one.steps)))
        seed = seed_of(options.seed, one.candidate)
        candidates.append({"output": readable(path), "seed": seed, "score": one.score})
    timings_s = {
        stage: max(report["timings_s"][stage] for report in reports)
        for stage in reports[0]["timings_s"]
    }
    best = {"seed": candidates[0]["seed"], "timings_s": timings_s, "candidates": candidates}
    return reports[0] | best


def check_whole(given: "Audio | None") -> None:
    """Raises OptionError where there is a sound to go on with."""
    if given is not None:
        raise OptionError(
            "candidates are sounds made whole, expected no sound to go on with; leave out "
            "--candidates, or --continue"
        )


def nth_output(out: Path, number: int) -> Path:
    """OUT, and from 2 on OUT.2.wav ... for OUT.wav."""
    return out if number == 1 else out.with_name(f"{out.stem}.{number}{out.suffix}")


def _check_apart(paths: Iterable[Path]) -> None:
    """Raises OutputError for two that links make one file."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(os.path.realpath(path), path)
        if other != path:
            raise OutputError(
                f"{other} and {path} are one file, expected one for each candidate; take the link "
                "away, or choose a new name"
            )


def _made(steps: "list[Step]") -> "Callable[[Pipeline], Iterator[Step]]":
    return lambda pipeline: iter(steps)


def _told(steps: "Iterator[Step]") -> "Iterator[Step]":
    for step in steps:
        end_if_told()
        yield step
