"""What the command line prints: lines, progress, and what the library logs."""

import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vab_rt.streams import harmless

if TYPE_CHECKING:
    from vab_rt.sound_index import Progress
    from vab_rt.steps import Step


def print_line(line: str) -> None:
    """Shows a name that the terminal cannot show with replacement characters."""
    encoding = sys.stdout.encoding or "utf-8"
    print(readable(line).encode(encoding, "replace").decode(encoding))


def readable(name: str | Path) -> str:
    """A name as text: bytes in it that are no characters become U+FFFD."""
    return re.sub("[\ud800-\udfff]", "\ufffd", str(name))


class _ErrorLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        begin = "warning: " if record.levelno >= logging.WARNING else ""
        print_error(begin + record.getMessage())


def tell_progress(level: int) -> None:
    """What the library logs, such as that it builds an engine, goes to stderr."""
    log = logging.getLogger("vab_rt")
    log.setLevel(level)
    log.handlers = [_ErrorLines()]


def print_error(line: str) -> None:
    print(harmless(" ".join(line.splitlines())), file=sys.stderr)


def print_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    print_error(f"warning: {message}")


def with_progress(
    steps: "Iterator[Step]", *, quiet: bool, as_lines: bool = False, num_candidates: int = 1
) -> "Iterator[Step]":
    """The same steps; on a terminal a bar shows how far they are. as_lines: `percentage: N` on
    stderr, whatever else is quiet, as Kdenlive's clip jobs read it."""
    if as_lines:
        yield from _with_lines(steps, num_candidates)
        return
    if quiet or not sys.stderr.isatty():
        yield from steps
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=None)
        for step in steps:
            done, total = _progress_of(step, num_candidates)
            progress.update(task, description="sound", completed=done, total=total)
            yield step


def with_count(
    steps: "Iterator[Progress]", description: str, *, quiet: bool
) -> "Iterator[Progress]":
    """The same; on a terminal a bar shows how many of them are done."""
    if quiet or not sys.stderr.isatty():
        yield from steps
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None)
        for step in steps:
            progress.update(task, completed=step.number, total=step.total)
            yield step


def _with_lines(steps: "Iterator[Step]", num_candidates: int) -> "Iterator[Step]":
    told = -1
    for step in steps:
        done, total = _progress_of(step, num_candidates)
        percentage = told if total is None else 100 * done // total
        if percentage > told:
            told = percentage
            print_error(f"percentage: {told}")
        yield step


def _progress_of(step: "Step", num_candidates: int) -> tuple[int, int | None]:
    """Steps made, and those of the whole as far as that is known."""
    each = num_candidates * step.num_steps
    total = None if step.num_windows is None else step.num_windows * each
    return step.window * each + step.candidate * step.num_steps + step.step + 1, total
