"""What a process that works for the server says to it, and hears."""

import threading
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from vab_rt.config import ClipConfig

_SIGN_S = 1.0
"""A process says so often that its work goes on, if it does."""


class Cancelled(Exception):
    """Nobody wants the sound any more."""


class Bug(Exception):
    """An error of ours in the other process. kind: its name; as text, the traceback there."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)
        self.kind, self.text = kind, text

    def __str__(self) -> str:
        return self.text


class Model(NamedTuple):
    """What is known of a model in the process that does not have it."""

    config: ClipConfig
    device: str
    precision: str


class Talk:
    """In the process: with who asked."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()
        self._said_s = 0.0

    def say(self, kind: str, value: Any) -> None:
        with self._lock:
            self._pipe.send((kind, value))
            self._said_s = time.monotonic()

    def tell(self, percent: int) -> None:
        self.say("percent", percent)

    def require_wanted(self) -> None:
        """Raises Cancelled when it is not wanted any more; else gives a sign of life. To be called
        as often as something is done."""
        if self._pipe.poll() and self._pipe.recv() is None:
            raise Cancelled
        if time.monotonic() - self._said_s > _SIGN_S:
            self.say("alive", None)
