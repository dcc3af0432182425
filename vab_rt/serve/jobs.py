"""The queue of jobs. All of it lives in the event loop; one process beside it makes sounds."""

import asyncio
import logging
import math
import secrets
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from vab_rt.errors import VabError, is_out_of_memory
from vab_rt.serve.job import Job, Refused, Status, ending
from vab_rt.serve.queries import Order
from vab_rt.serve.talk import Bug, Cancelled
from vab_rt.serve.worker import Worker

_MOST_FAILED_STARTS = 3
"""The most failed starts of the worker, one after another; then no more is taken until one is there
again."""
RETRY_S = 30.0
"""Between two of its starts, at the most; less after the first."""
_LOOK_S = 1.0
_LOG = logging.getLogger(__name__)


class Jobs:
    """The jobs of a server, and the worker that goes through them, first come, first served."""

    def __init__(self, worker: Worker, folder: Path, *, max_waiting: int, keep_s: float) -> None:
        """worker: with a model, started."""
        assert worker.model is not None, "started"
        self.worker, self.model, self.folder = worker, worker.model, folder
        self.max_waiting, self.keep_s = max_waiting, keep_s
        self.known: dict[str, Job] = {}
        self.waiting: deque[Job] = deque()
        self.running: Job | None = None
        self.num_arriving = 0
        """places of the queue that are kept for videos on their way"""
        self.ended: Counter[Status] = Counter()
        self.num_refused = 0
        self.busy_s = self.made_s = 0.0
        """seconds that it worked, and seconds of sound that came of it"""
        self.num_restarts = self.num_failed_starts = 0
        """of the worker; the failed ones since it was last there"""
        self.is_ending = False
        self._arrived = asyncio.Event()
        self._next_start_s = 0.0

    @property
    def is_stuck(self) -> bool:
        """Without a worker, as it does not start any more."""
        return self.num_failed_starts >= _MOST_FAILED_STARTS

    @contextmanager
    def place(self) -> Iterator[None]:
        """Keeps a place of the queue, for `add`. Raises Refused where it is full."""
        if self.is_ending:
            raise ending()
        if self.is_stuck:
            left_s = max(1, math.ceil(self._next_start_s - time.monotonic()))
            raise Refused(
                503,
                "the worker that makes sounds does not start; the server says why, and tries again",
                retry_after=str(left_s),
            )
        taken = len(self.waiting) + self.num_arriving
        if taken >= self.max_waiting:
            self.num_refused += 1
            raise Refused(
                429, f"{taken} sounds wait already; ask again later", retry_after=str(self._wait_s)
            )
        self.num_arriving += 1
        try:
            yield
        finally:
            self.num_arriving -= 1

    @property
    def _wait_s(self) -> int:
        """Until there may be a place again: about as long as a sound takes."""
        return max(1, math.ceil(self.busy_s / max(1, self.ended.total())))

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """Named by an id that nobody can guess; it stays if the `with` block ends well. Raises
        Refused where the disk is full."""
        folder = self.folder / secrets.token_hex(12)
        try:
            folder.mkdir()
        except OSError as error:
            raise Refused(507, f"the server has no room ({error.strerror})") from error
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def add(self, order: Order) -> Job:
        """In a place that was kept, named as its folder is."""
        job = Job(order.folder.name, order)
        self.known[job.id] = job
        self.waiting.append(job)
        self._arrived.set()
        return job

    def cancel(self, job: Job) -> None:
        """One that waits is over at once, one in progress after its next step; of one that is over
        nothing stays."""
        if job.is_over:
            self.forget(job)
        elif job is self.running:
            job.stop.set()
        else:
            self.waiting.remove(job)
            self._end(job, "cancelled")

    def forget(self, job: Job) -> None:
        self.known.pop(job.id, None)
        if job.expiry is not None:
            job.expiry.cancel()
        _remove_files(job)

    def keep(self, job: Job) -> None:
        """One that is over is kept for its time from now on."""
        if not job.is_over:
            return
        if job.expiry is not None:
            job.expiry.cancel()
        loop = asyncio.get_running_loop()
        job.expiry = loop.call_later(self.keep_s, self.forget, job)

    async def work(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._have_worker()
            if not self.waiting:
                self._arrived.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), _LOOK_S)
                continue
            self.running = self.waiting.popleft()
            try:
                await self._work_on(self.running)
            finally:
                self.running = None

    async def _have_worker(self) -> None:
        """Another one where it has died, which may fail, and is tried again ever more seldom."""
        loop = asyncio.get_running_loop()
        while not self.worker.is_alive and (self.waiting or not self.is_ending):
            try:
                await loop.run_in_executor(self.worker.thread, self.worker.start)
            except Exception as error:  # noqa: BLE001  # whatever it is may be over some time later
                self.num_failed_starts += 1
                pause_s = min(RETRY_S, 2.0**self.num_failed_starts)
                _LOG.warning("the worker does not start, next try in %g s: %s", pause_s, error)
                self._next_start_s = time.monotonic() + pause_s
                await asyncio.sleep(pause_s)
            else:
                self.num_restarts += 1
                self.num_failed_starts = 0

    async def _work_on(self, job: Job) -> None:
        loop = asyncio.get_running_loop()
        job.status, begin = "in_progress", time.perf_counter()
        job.tell()

        def tell(percent: int) -> None:
            loop.call_soon_threadsafe(self._advance, job, percent)

        try:
            job.made = await self.worker.do("make", job.order, stop=job.stop, tell=tell)
        except Cancelled:
            self._end(job, "cancelled")
        except VabError as error:
            self._end(job, "failed", job.order.without_paths(str(error)))
        except Exception as error:  # noqa: BLE001  # a bug of one job is no end of the others
            if is_out_of_memory(error):
                self._end(job, "failed", "memory ran out; choose a shorter part of the video")
            else:
                _LOG.exception("sound %s failed", job.id)
                kind = error.kind if isinstance(error, Bug) else type(error).__name__
                self._end(job, "failed", f"an error of the server's own, {kind}")
        else:
            assert job.made is not None, "made"
            self.made_s += job.made.duration_s
            # Cancelled after its last step, it is not wanted any more than before it.
            self._end(job, "cancelled" if job.stop.is_set() else "completed")
        self.busy_s += time.perf_counter() - begin

    def _advance(self, job: Job, percent: int) -> None:
        if job.status == "in_progress" and percent > job.progress:
            job.progress = percent
            job.tell()

    def _end(self, job: Job, status: Status, error: str | None = None) -> None:
        job.status, job.error, job.finished_at = status, error, time.time()
        if status == "completed":
            job.progress = 100
        else:
            job.made = None
            _remove_files(job)
        self.ended[status] += 1
        job.tell()
        self.keep(job)

    async def drain(self, seconds: float) -> None:
        """Takes no more; what is left after these seconds is cancelled."""
        self.is_ending = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle(), seconds)
        for job in list(self.waiting):
            self.cancel(job)
        if self.running is not None:
            self.cancel(self.running)
        await self._idle()

    async def _idle(self) -> None:
        while self.waiting or self.running is not None:
            await asyncio.sleep(0.02)


def _remove_files(job: Job) -> None:
    """At once by their name, so that nobody adds one; by a thread from the disk, which takes its
    time. Whoever still makes one of them ends."""
    job.stop.set()
    folder = job.order.folder
    with suppress(OSError):  # Windows keeps the name of a folder that is in use
        folder = folder.rename(folder.with_suffix(".gone"))
    remove = partial(shutil.rmtree, folder, ignore_errors=True)
    asyncio.get_running_loop().run_in_executor(None, remove)
