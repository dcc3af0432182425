"""vab-rt generate-all: sounds for many videos, on one machine or on a share of them."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from vab_rt.cli.console import print_error, print_line, readable, tell_progress
from vab_rt.cli.groups import Deliver, Load, Overrides, with_groups
from vab_rt.cli.options import DEFAULTS, Quiet, Seed
from vab_rt.cli.writing import Asked, write_sound
from vab_rt.delivery import Delivery
from vab_rt.errors import OptionError, VabError
from vab_rt.many import Job, Report, Work, find_jobs, make_folders, run_jobs, share_of
from vab_rt.options import GenerateOptions, check_kinds
from vab_rt.signals import end_if_told
from vab_rt.threads import num_physical_cores

_EXISTS: Report = {"skipped": "it exists"}


@dataclass(frozen=True)
class Maker:
    """Opens a model, and makes the sound of one video after another with it."""

    load: Load
    options: GenerateOptions
    delivery: Delivery
    force: bool

    def __call__(self) -> Work:
        def make(job: Job) -> Report:
            end_if_told()
            try:
                return self._made(job)
            except VabError as error:
                return {"error": str(error)}
            except Exception as error:  # noqa: BLE001  # one clip's bug is no end of a night's work
                return {"error": f"{type(error).__name__}: {error}", "is_bug": True}

        return make

    def _made(self, job: Job) -> Report:
        from vab_rt.output import claimed
        from vab_rt.video import Video

        with claimed(job.out) as is_ours:
            if not is_ours or (os.path.isfile(job.out) and not self.force):
                return _EXISTS if is_ours else {"skipped": "another run makes it"}
            begin, video = time.perf_counter(), Video(job.video)
            asked = Asked(job.out, self.delivery, None, take=True, quiet=True, force=self.force)
            report = write_sound(
                video,
                asked,
                self.load,
                lambda pipeline: pipeline.generate_steps(video, self.options),
            )
            report["timings_s"]["total"] = time.perf_counter() - begin
            return report | {"seed": self.options.seed}


@with_groups
def generate_all(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|LIST",
            help="A folder, with all below it; or a text file of paths, one a line.",
            readable=False,
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder of the sounds.", readable=False)
    ],
    format_: Annotated[
        str, typer.Option("--format", metavar="SUFFIX", help="Of the sounds, as generate has it.")
    ] = "wav",
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="The Ith of N shares, counted from 0: one for each machine.",
            show_default="all",
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(help="Processes side by side, each with a model and its threads.")
    ] = 1,
    seed: Seed = DEFAULTS.seed,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a video.")] = False,
    quiet: Quiet = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Make sounds that exist once more.")
    ] = False,
    *,
    overrides: Overrides,
    deliver: Deliver,
    load: Load,
) -> None:
    """Put sound on many videos; those that have theirs are skipped."""
    # The context's: whoever else runs jobs, such as a cluster.
    run: Callable[..., Iterator[tuple[Job, Report]]] = context.obj or run_jobs
    begin = time.perf_counter()
    quiet = quiet or as_json
    tell_progress(quiet=quiet)
    delivery = deliver.delivery()
    todo = share_of(find_jobs(source, out, _suffix(format_, delivery)), shard)
    if not 1 <= jobs <= 256:
        raise OptionError(f"jobs is {jobs}, expected 1 to 256")
    load = replace(load, threads=_threads_each(load.threads, jobs))
    maker = Maker(load, overrides.options(seed), delivery, force)
    made = set() if force else {job for job in todo if os.path.isfile(job.out)}  # Path's raises
    skips: list[tuple[Job, Report]] = [(job, _EXISTS) for job in todo if job in made]
    unmade = [job for job in todo if job not in made]
    if unmade:
        _require_model(load, maker.options)
    make_folders(todo)
    failed: list[Report] = []
    num_made = num_skipped = 0
    with _bar(len(todo), is_shown=not quiet) as advance:
        for job, report in chain(skips, run(unmade, maker, jobs)):
            report = {"video": readable(job.video), **report, "output": readable(job.out)}
            num_skipped += "skipped" in report
            num_made += not {"skipped", "error"} & report.keys()
            if "error" in report:
                failed.append(report)
            if as_json:
                print_line(json.dumps(report))
            elif "error" in report:
                print_error(f"error: {report['video']}: {report['error']}")
            advance()
    total_s = time.perf_counter() - begin
    if not quiet:
        counts = f"{num_made} made, {num_skipped} skipped, {len(failed)} failed"
        print_line(f"{out}: {counts} in {total_s:.1f} s")
        for report in failed:
            print_line(f"failed: {report['video']}")
    if failed:
        raise typer.Exit(1)


def _suffix(name: str, delivery: Delivery) -> str:
    """Raises OutputError for none that there is, OptionError for what it cannot hold."""
    from vab_rt.formats import format_of

    suffix = "." + name.lower().removeprefix(".")
    format_of(Path(f"sound{suffix}"), delivery)
    return suffix


def _require_model(load: Load, options: GenerateOptions) -> None:
    """What is wrong with the model, is no kind of it, or is no device or precision that it can be
    computed in, is told once and not for each video."""
    from vab_rt.engines import check_device
    from vab_rt.engines.precision import reader_in
    from vab_rt.hub import open_model

    check_device(load.device, load.precision)
    bundle = open_model(load.model, offline=load.offline)
    if load.precision is not None:
        reader_in(bundle, load.precision)
    check_kinds(options.kinds, bundle.manifest.model)


def _threads_each(threads: int | None, jobs: int) -> int | None:
    if threads is not None or jobs == 1:
        return threads
    return max(1, num_physical_cores() // jobs)


@contextmanager
def _bar(total: int, *, is_shown: bool) -> Iterator[Callable[[], None]]:
    """On a terminal: files and the time that is left."""
    if not is_shown or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("sounds", total=total)
        yield lambda: progress.advance(task)
