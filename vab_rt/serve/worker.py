"""Work that a video may crash, in a process of its own: one piece at a time, and another process in
its place when it dies."""

import logging
import math
import multiprocessing
import multiprocessing.resource_tracker
import os
import signal
import threading
import time
from asyncio import get_running_loop
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Self

from vab_rt.errors import BackendError
from vab_rt.serve.talk import Cancelled, Model
from vab_rt.serve.worker_process import ENDING_SIGNALS, run

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.05
"""How often it is looked whether somebody still wants what is made."""
STEP_S = 5.0
"""How long the next step of what nobody wants is waited for; then its process is killed."""


class _Died(Exception):
    """A process, amid its work; as text, how."""


class Worker:
    """The process, and the thread here that waits for it. `load`: what `vab_rt.load` takes, by
    name; without, it has no model, and starts when there is something to do. patience_s: how long
    its work may go on without a sign; then it is killed."""

    def __init__(
        self, load: Mapping[str, Any] | None = None, *, patience_s: float = math.inf
    ) -> None:
        self.load, self.patience_s = load, patience_s
        self.model: Model | None = None
        self.thread = ThreadPoolExecutor(1, "vab-rt")
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self.kill()
        self.thread.shutdown(cancel_futures=True)
        self._bury()

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def is_alive(self) -> bool:
        """To be asked between two pieces of work."""
        return self._process is not None and self._process.is_alive()

    def kill(self) -> None:
        """Whatever it does. Its files are the server's, who removes them."""
        if process := self._process:
            process.kill()

    def start(self) -> None:
        """Another process where the last one has ended; blocks until it is ready. Raises what
        loading raises, and BackendError where the process dies of it or cannot be."""
        if self._process is not None:
            self._lose()
        if self._is_over.is_set():
            raise Cancelled
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        level = logging.getLogger("vab_rt").getEffectiveLevel()
        process = context.Process(target=run, args=(theirs, self.load, level), daemon=True)
        try:
            with theirs, _signals_held():
                process.start()
                self._process, self._pipe = process, ours  # before a signal that came meanwhile
        except OSError as error:
            ours.close()
            raise BackendError(
                f"no process can be started ({error.strerror}), expected one more; end others, or "
                "raise the limit that ulimit -u shows"
            ) from error
        try:
            self.model = self._answer(self._is_over, _nobody, may_be_silent=True)
        except _Died as error:
            raise BackendError(
                f"the process for the work ended {error} before it could begin, as where memory "
                "runs out, expected it ready; close other programs"
            ) from error
        except BaseException:
            self.kill()
            self._bury()
            raise

    async def do(
        self,
        work: str,
        *args: Any,
        stop: threading.Event,
        tell: Callable[[int], None] | None = None,
    ) -> Any:
        """What one of its works returns; nothing here waits but a thread. tell: percent done, in
        that thread. Raises what the work raises: VabError, MemoryError, Bug; Cancelled, soon after
        `stop` is set, also where it hangs; BackendError when the process dies of it, or gives no
        sign for too long."""
        call = partial(self._call, work, args, stop, tell or _nobody)
        return await get_running_loop().run_in_executor(self.thread, call)

    def _call(
        self, work: str, args: tuple[Any, ...], stop: threading.Event, tell: Callable[[int], None]
    ) -> Any:
        if stop.is_set():
            raise Cancelled
        if not self.is_alive:
            self.start()
        self._say((work, args))
        try:
            return self._answer(stop, tell)
        except _Died as error:
            raise BackendError(
                f"the process that worked on it ended {error}, as on a video that crashes a "
                "decoder or where memory runs out, expected it to go on; send a shorter part, or "
                "the video in another format"
            ) from error

    def _answer(
        self, stop: threading.Event, tell: Callable[[int], None], *, may_be_silent: bool = False
    ) -> Any:
        """The last that it says of it."""
        end_s, silent_s = math.inf, 0.0
        while True:
            if stop.is_set() and end_s == math.inf:
                end_s = time.monotonic() + STEP_S
                self._say(None)
            if time.monotonic() > end_s:
                self.kill()
            found = self._heard(stop)
            if found is None:
                silent_s += _LOOK_S  # by no clock: those go on while all is stopped, as by Ctrl-Z
                if silent_s > self.patience_s and not (may_be_silent or stop.is_set()):
                    raise self._given_up()
                continue
            silent_s = 0.0
            kind, value = found
            if kind == "done":
                return value
            if kind == "failed":
                error, errno = value
                raise error from (None if errno is None else OSError(errno, os.strerror(errno)))
            if kind == "percent":
                tell(value)
            elif kind == "log":
                _LOG.log(*value)

    def _say(self, what: Any) -> None:
        assert self._pipe is not None, "started"
        with suppress(OSError):  # it has died; so says the answer
            self._pipe.send(what)

    def _heard(self, stop: threading.Event) -> tuple[str, Any] | None:
        """What it says next; None when it has said nothing for a while."""
        assert self._pipe is not None, "started"
        if self._is_over.is_set():
            self.kill()
        try:
            found: tuple[str, Any] | None = self._pipe.recv() if self._pipe.poll(_LOOK_S) else None
        except (EOFError, OSError) as error:
            if stop.is_set() or self._is_over.is_set():
                self._bury()
                raise Cancelled from error
            raise _Died(self._lose()) from error
        return found

    def _given_up(self) -> BackendError:
        self.kill()
        self._lose()
        return BackendError(
            f"nothing came of it for {self.patience_s:g} s, as of a video that a decoder hangs on, "
            "expected a step in that time; send a shorter part, or the video in another format"
        )

    def _lose(self) -> str:
        """As nobody meant it to end; how it did."""
        how = self._bury()
        _LOG.warning("a process of the server's ended %s; another takes its place", how)
        return how

    def _bury(self) -> str:
        """Leaves nothing of a process that has ended, or is about to; how it did."""
        if self._process is None or self._pipe is None:
            return ""
        self._pipe.close()
        self._process.join(STEP_S)
        if self._process.is_alive():
            self.kill()
            self._process.join()
        how = _how(self._process.exitcode)
        self._process = self._pipe = None
        return how


def _how(exit_code: int | None) -> str:
    if exit_code is None or exit_code >= 0:
        return f"with exit code {exit_code}"
    with suppress(ValueError):  # a number without a name
        return f"by signal {-exit_code} ({signal.Signals(-exit_code).name})"
    return f"by signal {-exit_code}"


def _nobody(percent: int) -> None:
    """Is told."""


@contextmanager
def _signals_held() -> Iterator[None]:
    """A process that is started is born deaf to what goes to all of a terminal or a service, and
    stays so: when it ends is for who started it to say."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # its own start would let them through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
