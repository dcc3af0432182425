"""`vab-rt serve` in this process, without a socket; its workers are processes of their own."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest
from command import wait_for

testclient = pytest.importorskip("starlette.testclient", reason="the extra `serve` is missing")

from vab_rt.serve.app import Limits, open_app
from vab_rt.serve.jobs import Jobs
from vab_rt.serve.worker import Worker

OVER = ("completed", "failed", "cancelled")
ENDLESS = 1500
"""Frames whose sound takes half a minute with steps=1024, where one is to be met in progress."""


class Opened:
    """A server in this process, without a socket."""

    def __init__(self, client, jobs: Jobs) -> None:
        self.client, self.jobs = client, jobs

    def ask(self, video: Path, query: str = "") -> str:
        """The address of a sound that was asked for."""
        answer = self.client.post(f"/v1/sounds?{query}", content=video.read_bytes())
        assert answer.status_code == 202, answer.text
        return answer.headers["location"]

    def over(self, where: str) -> dict:
        return over(self.client, where)

    def hold(self) -> threading.Event:
        """The worker does nothing until this is set."""
        gate = threading.Event()
        self.jobs.worker.thread.submit(gate.wait)
        return gate

    def left(self) -> list[Path]:
        return list(self.jobs.folder.iterdir())

    def is_left_with(self, *folders: Path) -> bool:
        """Soon: what goes is removed beside the answer."""
        return wait_for(lambda: set(self.left()) == {*folders})


def over(client, where: str) -> dict:
    """Its report, once it is over."""
    found: dict = {}
    assert wait_for(lambda: found.update(client.get(where).json()) or found["status"] in OVER)
    return found


@contextmanager
def endless(video: Path) -> Iterator[Callable[[], bool]]:
    """In place of a video, one whose first byte never comes; whether somebody waits for that."""
    content, kept = video.read_bytes(), []
    video.unlink()
    os.mkfifo(video)

    def is_read() -> bool:
        try:
            kept.append(os.open(video, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    try:
        yield is_read
    finally:
        for end in kept:
            os.close(end)
        if video.exists():  # its sound may be over
            video.unlink()
            video.write_bytes(content)


@contextmanager
def working(bundle: Path) -> Iterator[tuple[Worker, list[Worker]]]:
    """A worker with the model, and two to show what is made, for one server after another."""
    with Worker({"model": bundle, "threads": 1}) as worker, Worker() as one, Worker() as other:
        worker.start()
        yield worker, [one, other]


@contextmanager
def opening(
    worker: Worker, viewers: Sequence[Worker], folder: Path
) -> Iterator[Callable[..., Opened]]:
    """Opens servers in this folder: Limits, and the fields of Jobs, by name."""
    with ExitStack() as stack:
        num_opened = count()

        def open_one(max_waiting: int = 32, keep_s: float = 600, **limits: object) -> Opened:
            home = folder / f"server{next(num_opened)}"
            home.mkdir()
            if not worker.is_alive:  # it died in an earlier one
                worker.start()
            jobs = Jobs(worker, home, max_waiting=max_waiting, keep_s=keep_s)
            app = open_app(jobs, viewers, Limits(**limits))
            client = testclient.TestClient(app, base_url="http://localhost:8000")
            return Opened(stack.enter_context(client), jobs)

        yield open_one
