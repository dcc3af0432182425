"""`python -m vab_rt.on_ray`: vab-rt generate-all on a Ray cluster, or on this machine.

Rows of Ray Data are paths on storage that all machines see; each actor of a pool has one model.
What is wrong with a video is its row; a worker that dies takes its clip once more, and a clip that
kills it again is in no row, which is how it is found.
"""

import inspect
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO, cast

import typer

from vab_rt.cli import main
from vab_rt.cli.generate_all import generate_all
from vab_rt.cli.groups import as_command
from vab_rt.errors import BackendError, OptionError, not_installed
from vab_rt.many import Job, OpenWorker, Report

MOST_GPUS = 16  # of one machine
_LOG = logging.getLogger(__name__)
_LOST = (
    "the worker that had it died, and so did the next one, as they may on a file that crashes a "
    "decoder; try it alone"
)
# What the environment says already stays. Ray reports to its makers unless it is told not to.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",  # else a traceback for each clip that is lost
    "RAY_worker_niceness": "0",  # 15 by default: a worker would starve beside anything else
}


def on_ray(
    context: typer.Context,
    workers: Annotated[int, typer.Option(help="Actors, each with a model.")],
    gpus_per_worker: Annotated[
        float, typer.Option(metavar="G", min=0, help="1, or 0.5 where two share a GPU.")
    ] = 0.0,
    threads: Annotated[
        int, typer.Option(min=1, help="Cores of each worker, which Ray keeps for it.")
    ] = 1,
    **asked: Any,
) -> None:
    """Put sound on many videos, by the workers of a Ray cluster; those that have theirs are
    skipped. RAY_ADDRESS says which cluster; without it one is started on this machine."""
    if not 1 <= workers <= 256:
        raise OptionError(f"workers is {workers}, expected 1 to 256")
    if not 0 <= gpus_per_worker <= MOST_GPUS:
        raise OptionError(
            f"gpus-per-worker is {gpus_per_worker:g}, expected 0 to {MOST_GPUS}; 1 for a GPU each"
        )
    asked["device"] = _device(asked["device"], gpus_per_worker)
    if asked["model"] is not None and Path(asked["model"]).is_dir():
        asked["model"] = str(Path(asked["model"]).absolute())
    context.obj = partial(run_on_ray, num_cpus=threads, num_gpus=gpus_per_worker)
    generate_all(context=context, jobs=workers, threads=threads, shard=None, **asked)


def _device(device: str, gpus_per_worker: float) -> str:
    """Workers see only the GPUs that Ray keeps for them. Raises OptionError."""
    if device == "auto":
        return "cuda" if gpus_per_worker else "cpu"
    needs_gpus = device not in ("cpu", "openvino", "openvino:cpu")
    if needs_gpus != (gpus_per_worker > 0):
        raise OptionError(
            f"device is {device} and there are {gpus_per_worker:g} GPUs for each worker, expected "
            "cpu or openvino and none, or another and some; see --gpus-per-worker"
        )
    return device


def run_on_ray(
    jobs: list[Job],
    open_worker: OpenWorker,
    num_workers: int,
    *,
    num_cpus: int = 1,
    num_gpus: float = 0.0,
) -> Iterator[tuple[Job, Report]]:
    """As `vab_rt.many.run_jobs`, but each worker has so many cores and GPUs of a Ray cluster.

    Raises BackendError where there is no Ray or it fails, OptionError where it has no room.
    """
    if not jobs:
        return
    with _stdout_of_this_thread(), _cluster() as ray:
        _check_room(ray.nodes(), num_workers, num_cpus, num_gpus)
        rows = _rows(ray.data, jobs, open_worker, num_workers, num_cpus=num_cpus, num_gpus=num_gpus)
        missing = dict(enumerate(jobs))
        try:
            for row in rows.iter_rows():
                yield missing.pop(row["number"]), json.loads(row["report"])
        except ray.exceptions.RayError as error:
            raise BackendError(
                f"Ray failed ({error}), expected a cluster that lasts; what is made is kept, so "
                "run the same command again"
            ) from error
    yield from ((job, {"error": _LOST}) for job in missing.values())


def _rows(
    data: Any,
    jobs: list[Job],
    open_worker: OpenWorker,
    num_workers: int,
    **resources: float,
) -> Any:
    """A dataset of reports, one a block, as they are finished."""
    settings = data.DataContext.get_current()
    settings.max_errored_blocks = -1  # a clip that is lost does not end the others
    settings.enable_progress_bars = False
    given = data.from_items(list(map(_row, range(len(jobs)), jobs)), override_num_blocks=len(jobs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the last two, until Ray 2.64
        return given.map(
            _Worker,
            fn_constructor_args=(open_worker,),
            # One at a time: a clip that waits behind one that kills would die with it.
            compute=data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=1),
            **resources,
            max_task_retries=1,  # without end by default
            max_restarts=-1,
        )


class _Worker:
    """An actor: a process with a model."""

    def __init__(self, open_worker: OpenWorker) -> None:
        self.work = open_worker()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        job = Job(*(Path(os.fsdecode(row[name])) for name in Job._fields))
        return {"number": row["number"], "report": json.dumps(self.work(job))}


def _row(number: int, job: Job) -> dict[str, Any]:
    """Workers have another current folder, and names need not be text."""
    paths = {name: os.fsencode(path.absolute()) for name, path in job._asdict().items()}
    return {"number": number, **paths}


@contextmanager
def _cluster() -> Iterator[Any]:
    """Ray, connected: to a cluster, or to one that is started here for as long."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise not_installed("vab_rt.on_ray needs Ray Data", "'vab-rt[ray]'", error) from error
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BackendError(
            f"Ray does not start ({error}), expected a cluster or a machine for one; see "
            "RAY_ADDRESS, or ray status"
        ) from error
    signal.signal(signal.SIGTERM, before)  # Ray's own exits with 15
    try:
        yield ray
    finally:
        with redirect_stdout(sys.stderr):  # where it tells what it has held back
            ray.shutdown()


def _check_room(
    nodes: list[dict[str, Any]], num_workers: int, num_cpus: int, num_gpus: float
) -> None:
    """Ray itself would wait for ever. Raises OptionError where no machine has room for a worker."""
    room = 0
    for node in (node["Resources"] for node in nodes if node["Alive"]):
        by_cpus = int(node.get("CPU", 0) / num_cpus)
        room += min(by_cpus, int(node.get("GPU", 0) / num_gpus)) if num_gpus else by_cpus
    wanted = f"{num_cpus} cores (--threads) and {num_gpus:g} GPUs (--gpus-per-worker)"
    if not room:
        raise OptionError(
            f"Ray has no machine with {wanted}, expected room for one worker at least; ask for less"
        )
    if room < num_workers:
        _LOG.warning("room for %d of %d workers of %s", room, num_workers, wanted)


class _StdoutOfThread:
    """Ray prints from threads of its own, in between our lines: that goes to stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._thread = stream, threading.current_thread()

    def write(self, text: str) -> int:
        is_ours = threading.current_thread() is self._thread
        return (self._stream if is_ours else sys.stderr).write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _stdout_of_this_thread() -> Iterator[None]:
    before = sys.stdout
    sys.stdout = cast(TextIO, _StdoutOfThread(before))
    try:
        yield
    finally:
        sys.stdout = before


def _with_options_of_generate_all(own: Callable[..., None]) -> Callable[..., None]:
    """A command with its own options and those that it only passes on."""
    first = [each for each in _parameters(own) if each.kind is not each.VAR_KEYWORD]
    names = {each.name for each in first} | {"jobs", "shard"}
    rest = [each for each in _parameters(generate_all) if each.name not in names]
    both = [each.replace(kind=each.KEYWORD_ONLY) for each in (*first, *rest)]

    def command(**words: Any) -> None:
        own(**words)

    return as_command(command, own, both)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(_with_options_of_generate_all(on_ray))

if __name__ == "__main__":
    main(app)
