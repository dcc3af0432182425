"""Where the time of a run goes: seconds by stage, though the stages feed each other lazily."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Adds up the seconds of each stage. A stage within a stage stops the outer one's time."""

    def __init__(self, *stages: str) -> None:
        self.seconds = dict.fromkeys(stages, 0.0)
        self._running: str | None = None
        self._since = 0.0

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        outer = self._running
        self._switch(stage)
        try:
            yield
        finally:
            self._switch(outer)

    def each(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """The items; the time to produce each counts for the stage."""
        while True:
            with self.time(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def _switch(self, stage: str | None) -> None:
        now = time.perf_counter()
        if self._running is not None:
            self.seconds[self._running] += now - self._since
        self._running, self._since = stage, now
