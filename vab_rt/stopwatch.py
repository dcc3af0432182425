"""Where the time of a run goes: seconds per stage, though the stages feed each other lazily."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Stopwatch:
    """Adds up the seconds of each stage; a stage may be entered any number of times."""

    def __init__(self, *stages: str) -> None:
        self.seconds = dict.fromkeys(stages, 0.0)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begin

    def each(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """The items; the time to produce each counts for the stage."""
        while True:
            with self.time(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def calls(self, stage: str, function: Callable[P, T]) -> Callable[P, T]:
        """The function; the time in each call counts for the stage."""

        def timed(*args: P.args, **kwargs: P.kwargs) -> T:
            with self.time(stage):
                return function(*args, **kwargs)

        return timed
