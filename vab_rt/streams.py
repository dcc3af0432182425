"""stdin, stdout and stderr of a command, which may be closed, full, or read by nobody any more.

Hosts with windows and daemons start programs without them: Python then has None in their place, and
the next file that is opened gets their number, into which libraries of C still write.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

_CONTROL = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_NAMES = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def harmless(text: str) -> str:
    """Text of others without what could steer a terminal; lines and tabs stay."""
    return _CONTROL.sub("\ufffd", text)


class TolerantStream:
    """An output stream that never raises OSError. What cannot be written is dropped.

    error: why the first of it was; None as long as all has been written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, call: Callable[..., Any], *arguments: str) -> None:
        try:
            call(*arguments)
        except OSError as error:
            self.error = self.error or error
            _let_go(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def tolerant_streams() -> Iterator[TolerantStream]:
    """All three streams are there and do not fail while the block runs; yields stdout."""
    before = sys.stdin, sys.stdout, sys.stderr
    for name, mode in _NAMES:
        if getattr(sys, name) is None:
            setattr(sys, name, _nowhere(mode))
    out, err = TolerantStream(sys.stdout), TolerantStream(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdin, sys.stdout, sys.stderr = before


def _nowhere(mode: str) -> TextIO:
    """The null device, at the lowest free number, which is that of the closed stream; it stays."""
    number = os.open(os.devnull, os.O_RDWR)
    return cast(TextIO, open(number, mode, encoding="utf-8", closefd=False))


def _let_go(stream: TextIO) -> None:
    """Sends to the null device what the stream still holds, which Python would try again to write
    when it ends."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
