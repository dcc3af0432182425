"""Jobs spread over processes."""

import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vab_rt.errors import BackendError

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """function(job) of every job, as they are finished; with one worker, here and in order.

    At most `workers` jobs are under way, so that an interruption loses no more. Errors of a job
    are raised here. Raises BackendError when a process dies.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")  # torch does not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_live_and_die) as pool:
        under_way: set[Future[Result]] = set()
        try:
            for job in jobs:
                under_way.add(pool.submit(_on_one_thread, function, job))
                if len(under_way) == workers:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    yield from [future.result() for future in done]
            while under_way:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from [future.result() for future in done]
        except BrokenProcessPool as error:
            raise BackendError(
                f"one of {workers} processes died, expected all to finish; what is done is kept: "
                "run the same command again, with fewer workers if memory is short"
            ) from error


def in_order(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[Result]:
    """The same, in the order of the jobs; what is finished early waits."""
    early: dict[int, Result] = {}
    following = 0
    for number, result in in_parallel(
        functools.partial(_numbered, function), enumerate(jobs), workers
    ):
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _numbered(function: Callable[[Job], Result], job: tuple[int, Job]) -> tuple[int, Result]:
    number, plain = job
    return number, function(plain)


def _on_one_thread(function: Callable[[Job], Result], job: Job) -> Result:
    """There is a process for every core. Who needs torch has imported it by now."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    return function(job)


def _live_and_die() -> None:
    """Workers end at once when they are interrupted, and when their parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes run this"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
