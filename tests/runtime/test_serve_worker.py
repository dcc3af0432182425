"""vab-rt serve where a process of its own dies, hangs, or does not start again."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from command import is_running, wait_for

pytest.importorskip("httpx", reason="the extra `test` is not installed")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")
if not hasattr(os, "mkfifo"):
    pytest.skip("no pipes with names here", allow_module_level=True)

from opened_server import ENDLESS, endless, opening

import vab_rt
from vab_rt.errors import BackendError, VabError
from vab_rt.serve.worker import Worker


@contextmanager
def stuck(server, videos) -> Iterator[str]:
    """The address of a sound at whose video the worker waits."""
    gate = server.hold()
    where = server.ask(videos(50), "steps=2")
    with endless(folder_of(server, where) / "video") as is_read:
        gate.set()
        assert wait_for(is_read)
        yield where


def folder_of(server, where: str) -> Path:
    return server.jobs.folder / where.rpartition("/")[2]


def health(server) -> dict:
    return server.client.get("/health").json()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_clip_that_kills_its_worker_fails_alone(opened, videos, number):
    server = opened()
    with stuck(server, videos) as where:
        behind = server.ask(videos(50), "steps=2&seed=3")
        os.kill(server.jobs.worker.pid, number)
        report = server.over(where)
    assert report["status"] == "failed" and "\n" not in report["error"]
    assert f"ended by signal {int(number)} ({number.name})" in report["error"]
    assert "send a shorter part" in report["error"]
    assert server.over(behind)["status"] == "completed"
    assert server.is_left_with(folder_of(server, behind))
    server.over(again := server.ask(videos(50), "steps=2&seed=3"))
    one, other = (server.client.get(f"{each}/content").content for each in (behind, again))
    assert one == other and len(one) > 60_000
    assert health(server)["status"] == "ok" and health(server)["worker_restarts"] == 1
    text = server.client.get("/metrics").text
    assert "vab_rt_worker_restarts_total 1\n" in text and "vab_rt_worker_up 1\n" in text
    assert 'vab_rt_sounds_total{status="failed"} 1\n' in text


def test_a_worker_that_dies_idle_is_back_before_it_is_needed(opened, videos):
    server = opened()
    os.kill(server.jobs.worker.pid, signal.SIGKILL)
    assert wait_for(lambda: health(server)["worker_restarts"] == 1)
    assert server.over(server.ask(videos(25), "steps=2"))["status"] == "completed"


@pytest.mark.parametrize("how", ["cancelled", "told to end"])
def test_a_worker_that_hangs_is_not_waited_for(opened, videos, monkeypatch, how):
    server = opened()
    monkeypatch.setattr("vab_rt.serve.worker.STEP_S", 0.2)
    with stuck(server, videos) as where:
        if how == "cancelled":
            assert server.client.delete(where).status_code == 202
        else:
            server.client.portal.call(server.jobs.drain, 0)
        assert server.over(where)["status"] == "cancelled"
    assert server.is_left_with()


def test_a_video_that_hangs_its_worker_fails_alone(opened, videos, monkeypatch):
    server = opened()
    with stuck(server, videos) as where:
        behind = server.ask(videos(50), "steps=2")
        gate = server.hold()  # for the next worker
        with monkeypatch.context() as impatient:
            impatient.setattr(server.jobs.worker, "patience_s", 0.1)
            report = server.over(where)
        gate.set()
    assert report["status"] == "failed" and "\n" not in report["error"]
    assert report["error"].startswith("nothing came of it for 0.1 s, ")
    assert server.over(behind)["status"] == "completed"
    assert health(server)["worker_restarts"] == 1


def test_a_sound_that_takes_long_is_waited_for(opened, videos, monkeypatch):
    server = opened()
    where = server.ask(videos(ENDLESS), "steps=1024&num_candidates=32")  # 1 % takes 10 s or more
    assert wait_for(lambda: server.jobs.running is not None)
    monkeypatch.setattr(server.jobs.worker, "patience_s", 3.0)
    time.sleep(4)
    assert server.client.delete(where).status_code == 202
    assert server.over(where)["status"] == "cancelled"


def test_who_was_stopped_was_not_silent(opened, videos, monkeypatch):
    """As by Ctrl-Z, or with its container: clocks go on meanwhile."""
    server = opened()
    worker = server.jobs.worker
    monkeypatch.setattr(worker, "patience_s", 600.0)
    monkeypatch.setattr(
        "vab_rt.serve.worker.time", SimpleNamespace(monotonic=count(0, 1000).__next__)
    )
    os.kill(worker.pid, signal.SIGSTOP)
    where = server.ask(videos(50), "steps=2")
    assert wait_for(lambda: server.jobs.running is not None)
    time.sleep(0.3)
    os.kill(worker.pid, signal.SIGCONT)
    assert server.over(where)["status"] == "completed"


def test_a_preview_that_hangs_goes_with_its_sound(opened, videos, monkeypatch):
    server = opened()
    monkeypatch.setattr("vab_rt.serve.worker.STEP_S", 0.2)
    server.over(where := server.ask(videos(50), "steps=2"))
    with (
        ThreadPoolExecutor(1) as thread,
        endless(folder_of(server, where) / "video") as is_read,
    ):
        preview = thread.submit(server.client.get, f"{where}/preview")
        assert wait_for(is_read)
        server.client.delete(where)
        assert preview.result().status_code == 404
    assert server.is_left_with()


def test_a_video_that_kills_what_shows_it(opened, workers, videos):
    server = opened()
    server.over(where := server.ask(videos(50), "steps=2"))
    video = folder_of(server, where) / "video"
    with ThreadPoolExecutor(1) as thread, endless(video) as is_read:
        preview = thread.submit(server.client.get, f"{where}/preview")
        assert wait_for(is_read)
        assert server.client.get(f"{where}/spectrogram").status_code == 200  # by another
        os.kill(workers[1][-1].pid, signal.SIGSEGV)
        answer = preview.result()
    assert answer.status_code == 400 and "SIGSEGV" in answer.json()["error"]
    assert server.client.get(f"{where}/preview").status_code == 200
    assert health(server)["worker_restarts"] == 0


def test_a_worker_that_does_not_start_again(bundle_copy, workers, videos, tmp_path, monkeypatch):
    monkeypatch.setattr("vab_rt.serve.jobs.RETRY_S", 0.1)
    away = bundle_copy.with_name("away")
    with Worker({"model": bundle_copy, "threads": 1}) as mortal:
        mortal.start()
        with opening(mortal, workers[1], tmp_path) as open_one:
            server = open_one()
            with stuck(server, videos) as where:
                behind = server.ask(videos(50), "steps=2")
                bundle_copy.rename(away)
                os.kill(mortal.pid, signal.SIGKILL)
                assert wait_for(lambda: health(server)["status"] == "without a worker")
                assert server.over(where)["status"] == "failed"
            assert server.client.get("/health").status_code == 503
            assert "vab_rt_worker_up 0\n" in server.client.get("/metrics").text
            refused = server.client.post("/v1/sounds", content=videos(50).read_bytes())
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) >= 1
            assert "does not start" in refused.json()["error"] and str(away) not in refused.text
            assert server.client.get(behind).json()["status"] == "queued"
            away.rename(bundle_copy)
            assert server.over(behind)["status"] == "completed"
            assert health(server)["status"] == "ok" and health(server)["worker_restarts"] == 1


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_dies_before_it_can_begin():
    with Worker({"model": Deadly()}) as mortal, pytest.raises(BackendError, match="exit code 9"):
        mortal.start()


def test_a_signal_while_a_process_starts_leaves_none(monkeypatch):
    start = multiprocessing.context.SpawnProcess.start

    def start_interrupted(process):
        start(process)
        signal.raise_signal(signal.SIGINT)  # which waits until it has started

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", start_interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells may ignore it
    try:
        with Worker() as worker:
            with pytest.raises(KeyboardInterrupt):
                worker.start()
            pid = worker.pid
    finally:
        signal.signal(signal.SIGINT, before)
    assert pid is not None and not is_running(pid)


def test_no_room_for_another_process(monkeypatch):
    def refuse(process):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", refuse)
    with Worker() as unborn, pytest.raises(BackendError, match="no process can be started"):
        unborn.start()


@pytest.mark.parametrize(
    "wrong", [{"model": "nowhere"}, {"device": "abacus"}, {"model": "damaged"}]
)
def test_what_is_wrong_with_the_model_is_told_before_it_listens(run, bundle_copy, tmp_path, wrong):
    (bundle_copy / "backbone.onnx").write_bytes(b"no graph")
    bundle_copy.rename(tmp_path / "damaged")
    load = {"model": "damaged", "device": "cpu"} | wrong
    with chdir(tmp_path):
        with pytest.raises(VabError) as error:
            vab_rt.load(**load)
        words = (f"--{name}={value}" for name, value in load.items())
        told = run("serve", "--port", 0, *words)
    assert told == (1, "", f"error: {error.value}\n")
