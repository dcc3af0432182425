"""Signals that end a command: it unwinds, so that nothing half written is left behind."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
_received: list[int] = []


@contextmanager
def unwound_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, 128 and their number, and SIGINT KeyboardInterrupt;
    those that are ignored, as nohup has it, or handled already stay as they are. For the main
    thread."""
    usual = dict.fromkeys(_ENDS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    ours = {number: _end for number in _ENDS} | {signal.SIGINT: _interrupt}
    held = [number for number in ours if signal.getsignal(number) == usual[number]]
    for number in held:
        signal.signal(number, ours[number])
    try:
        yield
    finally:
        for number in held:
            if signal.getsignal(number) is ours[number]:
                signal.signal(number, usual[number])
        _received.clear()


def _end(number: int, frame: FrameType | None) -> None:
    for other in _ENDS:  # managers of services send several, one after the other
        signal.signal(other, _nothing_more)
    _received.append(number)
    end_if_told()


def _interrupt(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def end_if_told() -> None:
    """Raises what a signal has raised. That itself is lost where Python drops exceptions, as in a
    finalizer; so loops ask again."""
    if _received and _received[0] == signal.SIGINT:
        raise KeyboardInterrupt
    if _received:
        sys.exit(128 + _received[0])


def _nothing_more(number: int, frame: FrameType | None) -> None:
    """In place of SIG_IGN, with which Python complains of a signal that has arrived already."""
