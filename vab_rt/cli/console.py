"""What the command line prints: lines, progress, and what the library logs."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vab_rt.streams import harmless

if TYPE_CHECKING:
    from vab_rt.steps import Step

Item = TypeVar("Item")


class Numbered(Protocol):
    """One of several, that is done."""

    @property
    def number(self) -> int: ...

    @property
    def total(self) -> int: ...


Counted = TypeVar("Counted", bound=Numbered)
Position = tuple[int, int | None]
"""How many are done, of how many as far as that is known."""


def print_line(line: str) -> None:
    """Shows what the terminal cannot show, and what would steer it, as replacement characters."""
    encoding = sys.stdout.encoding or "utf-8"
    text = harmless(readable(line)).encode(encoding, "replace").decode(encoding)
    print(text, flush=True)  # for those who wait for it


def readable(name: str | Path) -> str:
    """A name as text: bytes in it that are no characters become U+FFFD."""
    return "".join("\ufffd" if "\ud800" <= one <= "\udfff" else one for one in str(name))


class _ErrorLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        begin = "warning: " if record.levelno >= logging.WARNING else ""
        print_error(begin + record.getMessage())


def tell_progress(*, quiet: bool = False) -> None:
    """What the library logs, such as that it builds an engine, goes to stderr; quiet: its warnings
    alone."""
    log = logging.getLogger("vab_rt")
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.handlers = [_ErrorLines()]


def print_error(line: str) -> None:
    print(harmless(readable(" ".join(line.splitlines()))), file=sys.stderr)


def print_warning(message: Warning | str, *details: Any, **more: Any) -> None:
    print_error(f"warning: {message}")


def with_progress(
    steps: "Iterator[Step]", *, quiet: bool, as_lines: bool = False, num_candidates: int = 1
) -> "Iterator[Step]":
    """The same steps; on a terminal a bar shows how far they are. as_lines: `percentage: N` on
    stderr, whatever else is quiet, as Kdenlive's clip jobs read it."""

    def position(step: "Step") -> Position:
        return step.position(num_candidates)

    return _shown(steps, position, "sound", "reading", quiet=quiet, as_lines=as_lines)


def with_count(
    steps: Iterator[Counted], description: str, *, quiet: bool, as_lines: bool = False
) -> Iterator[Counted]:
    """The same; on a terminal a bar shows how many of them are done. as_lines: as with_progress."""

    def position(step: Counted) -> Position:
        return step.number, step.total

    return _shown(steps, position, description, description, quiet=quiet, as_lines=as_lines)


def _shown(
    steps: Iterator[Item],
    position: Callable[[Item], Position],
    description: str,
    before: str,
    *,
    quiet: bool,
    as_lines: bool,
) -> Iterator[Item]:
    """before: what a bar says until the first of them."""
    if as_lines:
        return _with_lines(steps, position)
    if quiet or not sys.stderr.isatty():
        return steps
    return _with_bar(steps, position, description, before)


def _with_bar(
    steps: Iterator[Item], position: Callable[[Item], Position], description: str, before: str
) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(before, total=None)
        for step in steps:
            done, total = position(step)
            progress.update(task, description=description, completed=done, total=total)
            yield step


def _with_lines(steps: Iterator[Item], position: Callable[[Item], Position]) -> Iterator[Item]:
    told = -1
    for step in steps:
        done, total = position(step)
        percentage = told if total is None else 100 * done // total
        if percentage > told:
            told = percentage
            print_error(f"percentage: {told}")
        yield step
