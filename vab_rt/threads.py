"""Threads that work beside the one that asks, and that it can be interrupted beside.

A signal makes Python raise between any two of its instructions, so also while the condition of a
future of `concurrent.futures` is being locked: it then stays locked, and whoever needs that future
waits for ever. Here nothing but queues and flags written in C is between the threads.
"""

import math
import os
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Item = TypeVar("Item")


class Begun(Generic[T]):
    """Work that a thread has, or will have."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._results.append(self._work())
        except BaseException as error:  # noqa: BLE001  # whoever asked has it
            self._error = error
        self._ended.put(None)

    @property
    def is_done(self) -> bool:
        """Whether it has ended well."""
        return bool(self._results)

    def wait(self) -> None:
        """Until it has ended, well or not."""
        while not self._results and self._error is None:
            try:
                self._ended.get()
            finally:
                if self._results or self._error is not None:  # it was no signal that ended the wait
                    self._ended.put(None)  # for whoever else waits

    def result(self) -> T:
        """What the work returned; raises what it raised."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._results[0]


class Helpers:
    """A few threads, started at once and ended with this object. Python waits for ever for one that
    memory ran out for while it started, and graphs that are loaded take all there is."""

    def __init__(self, count: int) -> None:
        self._todo: SimpleQueue[Begun[Any] | None] = SimpleQueue()
        weakref.finalize(self, _end, self._todo, count)
        for _ in range(count):
            Thread(target=_run_all, args=(self._todo,), daemon=True).start()

    def begin(self, work: Callable[[], T]) -> Begun[T]:
        begun = Begun(work)
        self._todo.put(begun)
        return begun

    def map(self, work: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
        """The results of every item, in their order. Nothing is left running, whatever is
        raised."""
        begun: list[Begun[T]] = []
        try:
            for item in items:
                begun.append(self.begin(partial(work, item)))
            return [one.result() for one in begun]
        finally:
            for one in begun:
                one.wait()


def is_memory_limited() -> bool:
    """Whether memory can run out for this process alone, as by ulimit -v. C libraries that then
    first run in another thread end the process, where the main one would have told."""
    try:
        import resource
    except ImportError:  # of Unix alone
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def num_physical_cores() -> int:
    """Physical cores that this process may use, all of a container's share of them; logical ones
    where the system tells no more."""
    return max(1, min(_num_allowed_cores(), quota_of(Path("/sys/fs/cgroup/cpu.max"))))


def quota_of(cpu_max: Path) -> int:
    """Cores' worth of time that a container has (cgroup v2), rounded up; many where none is set."""
    try:
        quota, period = map(int, cpu_max.read_text().split())
    except (OSError, ValueError):  # no such file, or "max"
        return 1 << 16
    return max(1, math.ceil(quota / max(1, period)))


def allowed_cores() -> set[int]:
    """Logical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return {*range(os.cpu_count() or 1)}


def _num_allowed_cores() -> int:
    allowed = allowed_cores()
    siblings = (
        Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in allowed
    )
    try:
        return len({path.read_text() for path in siblings})
    except OSError:
        return len(allowed)


def _run_all(todo: "SimpleQueue[Begun[Any] | None]") -> None:
    while begun := todo.get():
        begun.run()
        del begun  # its result is not kept until there is more to do


def _end(todo: "SimpleQueue[Begun[Any] | None]", count: int) -> None:
    for _ in range(count):
        todo.put(None)
