"""Many videos: which there are, where their sounds go, and the processes that make them."""

import multiprocessing
import os
import queue
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from vab_rt.errors import OptionError, OutputError
from vab_rt.paths import address_of

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".mxf", ".gif"),
)

Report = dict[str, Any]
"""What is told of a clip: has "error" where it failed."""

_DIED = "its process died, as it may on a file that crashes a decoder; try it alone"


class Job(NamedTuple):
    """A video, and the file that its sound is to be in."""

    video: Path
    out: Path


Work = Callable[[Job], Report]
"""Makes the sound of one job after another."""
OpenWorker = Callable[[], Work]
"""Opens what does so, once a process; it is pickled where there are several."""


def find_jobs(source: Path, out: Path, suffix: str) -> list[Job]:
    """The jobs of all videos below a folder, or in a list of one path a line, in order. Sounds lie
    in `out` as videos do in the folder; of a list, those that lie elsewhere in `out` itself.

    Two videos of one name, such as a.mp4 and a.mov, keep their suffixes: a.mp4.wav and a.mov.wav;
    where that is not enough, /b/a.mp4 and /c/a.mp4 keep their folders: b/a.mp4.wav and c/a.mp4.wav.
    Raises OptionError for a source that is neither or holds none, and where a video would be its
    own output.
    """
    videos = list(_videos_below(source, out) if source.is_dir() else _videos_listed(source))
    if not videos:
        known = ", ".join(name[1:] for name in SUFFIXES)
        raise OptionError(
            f"{source} holds no videos, expected files that end in one of {known}, or a list of "
            "paths, one a line"
        )
    names = [_names(video, place, suffix) for video, place in videos]
    shared = Counter(name for own in names for name in set(own))
    jobs = [
        Job(video, out / next((name for name in own if shared[name] == 1), own[-1]))
        for (video, _), own in zip(videos, names, strict=True)
    ]
    for job in jobs:
        if os.path.realpath(job.video) == os.path.realpath(job.out):
            raise OptionError(
                f"{job.video} is a video, and would be its own output, expected another folder for "
                "what is made; choose one"
            )
    return jobs


def _names(video: Path, place: Path, suffix: str) -> tuple[Path, ...]:
    """What its sound may be called, the shortest first."""
    whole = Path(*Path(os.path.abspath(video)).parts[1:])
    with_own = (each.with_name(each.name + suffix) for each in (place, whole))
    return place.with_suffix(suffix), *with_own


def _videos_below(folder: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (Path(root) / name).resolve() != out.resolve()
        )
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                path = Path(root) / name
                yield path, path.relative_to(folder)


def _videos_listed(path: Path) -> Iterator[tuple[Path, Path]]:
    try:
        lines = path.read_text("utf-8-sig", "surrogateescape").split("\n")
    except FileNotFoundError as error:
        raise OptionError(
            f"{path} does not exist, expected a folder of videos or a list of them; check the name"
        ) from error
    except OSError as error:
        raise OptionError(f"{path} cannot be read ({error.strerror}), expected a list") from error
    if any("\0" in line for line in lines):
        raise OptionError(
            f"{path} is no text, expected a folder of videos or a list of paths, one a line; for "
            "one video use vab-rt generate"
        )
    # A pipe, as <(find ...) of a shell, lies in no folder of videos.
    folder, seen = path.parent if path.is_file() else Path(), set[str]()
    for line in map(str.strip, lines):
        place, is_address = Path(line), address_of(line) is not None
        video = place if is_address else folder / place
        if place.name and not line.startswith("#") and os.path.abspath(video) not in seen:
            seen.add(os.path.abspath(video))
            is_outside = place.is_absolute() or ".." in place.parts or is_address
            yield video, Path(place.name) if is_outside else place


def share_of(jobs: list[Job], shard: str | None) -> list[Job]:
    """Every Nth job from the Ith on, of shard I/N, counted from 0. Raises OptionError."""
    if shard is None:
        return jobs
    index, _, count = shard.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise OptionError(
            f"shard is {shard}, expected I/N with I from 0 to N - 1, such as 0/4 for the first of "
            "four"
        )
    return jobs[int(index) :: int(count)]


def make_folders(jobs: list[Job]) -> None:
    """Raises OutputError."""
    for folder in sorted({job.out.parent for job in jobs}):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be made ({error.strerror}), expected a folder; choose another"
            ) from error


def run_jobs(
    jobs: list[Job], open_worker: OpenWorker, num_processes: int
) -> Iterator[tuple[Job, Report]]:
    """Each job's report, as they are finished.

    Of a job that kills its process the report has an error, and another process goes on.
    """
    if num_processes == 1:
        work = open_worker()
        for job in jobs:
            yield job, work(job)
        return
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[Job, Report] | BaseException] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    stop = threading.Event()
    threads = [
        threading.Thread(target=_feed, args=(todo, done, open_worker, stop), daemon=True)
        for _ in range(min(num_processes, len(jobs)))
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in jobs:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _feed(
    todo: "queue.SimpleQueue[Job]",
    done: "queue.SimpleQueue[tuple[Job, Report] | BaseException]",
    open_worker: OpenWorker,
    stop: threading.Event,
) -> None:
    """One process after another, until there is nothing left to do."""
    context = multiprocessing.get_context("spawn")
    while not stop.is_set() and not todo.empty():
        pool = ProcessPoolExecutor(1, context, _open, (open_worker,))
        error: BaseException | None = None
        try:
            while error is None and not stop.is_set():
                job = todo.get_nowait()
                future = pool.submit(_work, job)
                while not stop.is_set() and not wait([future], 0.1).done:
                    pass
                if not future.done():
                    return
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    done.put((job, {"error": _DIED}))
                else:
                    done.put((job, future.result()) if error is None else error)
        except queue.Empty:
            return
        finally:
            _end(pool, stop)


def _end(pool: ProcessPoolExecutor, stop: threading.Event) -> None:
    """The process ends its work, or is told to leave it."""
    if stop.is_set():
        for process in list(pool._processes.values()):
            process.terminate()
    pool.shutdown(cancel_futures=True)


_worker: Work | None = None


def _open(open_worker: OpenWorker) -> None:
    """In a process of its own, which Ctrl-C reaches as well as the first."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _unwind)
    _worker = open_worker()


def _work(job: Job) -> Report:
    assert _worker is not None, "opened with the process"
    return _worker(job)


def _unwind(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)
