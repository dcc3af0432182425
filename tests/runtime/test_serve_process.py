"""vab-rt serve in a process of its own: many clients, those that leave or lie, and a kill."""

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command import PATIENCE_S, wait_for
from media import make_video
from serving import running

httpx = pytest.importorskip("httpx", reason="the extra `test` is not installed")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from opened_server import ENDLESS, OVER, over


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    home = tmp_path_factory.mktemp("served")
    with running(tiny_bundle, home) as (address, _):
        yield address, home


def test_each_client_gets_the_sound_of_its_own_video(run, server, tiny_bundle, tmp_path):
    def ask(number: int) -> bytes:
        path = make_video(tmp_path / f"{number}.mp4", num_frames=20 + 5 * number)
        with httpx.Client(base_url=server[0], timeout=PATIENCE_S) as client:
            made = client.post(f"/v1/sounds?seed={number}&steps=4", content=path.read_bytes())
            where = made.headers["location"]
            with client.stream("GET", f"{where}/events") as events:
                last = list(events.iter_lines())[-2]
            assert json.loads(last.removeprefix("data: "))["status"] == "completed"
            return client.get(f"{where}/content").content

    with ThreadPoolExecutor(8) as clients:
        sounds = list(clients.map(ask, range(8)))
    for number, sound in enumerate(sounds):
        out = tmp_path / f"{number}.wav"
        words = (tmp_path / f"{number}.mp4", out, "--seed", number, "--steps", 4)
        assert run("generate", *words, "--model", tiny_bundle).code == 0
        assert sound == out.read_bytes()
    assert len(set(sounds)) == 8


def test_a_client_that_leaves_or_lies_leaves_nothing(server, videos):
    address, home = server
    host, port = address.removeprefix("http://").split(":")
    (folder,) = home.iterdir()
    before = set(folder.iterdir())

    def send(length: int, body: bytes) -> bytes:
        with socket.create_connection((host, int(port)), PATIENCE_S) as sock:
            head = f"POST /v1/sounds?steps=2 HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}"
            sock.sendall(head.encode() + b"\r\n\r\n" + body)
            if len(body) < length:
                assert wait_for(lambda: set(folder.iterdir()) - before)
                return b""
            return b"".join(iter(lambda: sock.recv(65536), b""))

    assert send(100_000, bytes(50_000)) == b""
    assert wait_for(lambda: set(folder.iterdir()) <= before)  # older ones may expire
    video = videos(50).read_bytes()
    answer = send(len(video) - 100, video)  # what is left over is no request
    assert answer.startswith(b"HTTP/1.1 202 ") and b"HTTP/1.1 400 " in answer
    assert send(-1, video).startswith(b"HTTP/1.1 400 ")
    assert httpx.get(f"{address}/health", timeout=PATIENCE_S).json()["status"] == "ok"


def test_a_client_that_leaves_amid_events_and_amid_its_file_finds_both_again(server, videos):
    with httpx.Client(base_url=server[0], timeout=PATIENCE_S) as client:
        video = videos(500).read_bytes()  # 640,000 bytes of sound: more than a socket holds
        where = client.post("/v1/sounds?steps=4", content=video).headers["location"]
        with client.stream("GET", f"{where}/events") as events:
            assert next(events.iter_lines()).startswith("event: ")
        report = over(client, where)
        assert report["status"] == "completed" and report["duration_s"] == 20
        with client.stream("GET", f"{where}/content") as sound:
            next(sound.iter_bytes(1000))
        assert len(client.get(f"{where}/content").content) > 640_000


def test_many_small_requests(server):
    address, _ = server
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        for number in range(1000):
            assert client.get(f"/v1/sounds/{number}").status_code == 404
        for name in ("..", "%2e%2e%2f%2e%2e", "a" * 2000, "%00"):
            assert client.get(f"/v1/sounds/{name}/content").status_code == 404
        assert client.get("/health").json()["status"] == "ok"


def test_events_begin_while_the_worker_is_busy(server, videos):
    with httpx.Client(base_url=server[0], timeout=PATIENCE_S) as client:
        busy = client.post("/v1/sounds?steps=1024", content=videos(ENDLESS).read_bytes())
        where = client.post("/v1/sounds?steps=2", content=videos(50).read_bytes())
        with client.stream("GET", f"{where.headers['location']}/events") as events:
            assert next(events.iter_lines()) == "event: queued"
        assert client.get(busy.headers["location"]).json()["status"] not in OVER
        for each in (where, busy):
            client.delete(each.headers["location"])


def test_killed_with_sounds_waiting_nothing_is_left_after_the_next_start(
    tiny_bundle, videos, tmp_path
):
    home = tmp_path / "home"
    with running(tiny_bundle, home) as (address, process):
        with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            for _ in range(3):
                client.post("/v1/sounds?steps=1024", content=videos(50).read_bytes())
        (killed,) = home.iterdir()
        assert len(list(killed.iterdir())) == 3
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert killed.exists()
    with running(tiny_bundle, home, "--drain", 0) as (address, process):
        (folder,) = home.iterdir()
        assert folder != killed
        with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            where = client.post("/v1/sounds?steps=1024", content=videos(ENDLESS).read_bytes())
            with client.stream("GET", f"{where.headers['location']}/events") as events:
                lines = events.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                *_, last = [line for line in lines if line.startswith("event: ")]
        assert last == "event: cancelled"
        assert process.wait() == 143
    assert not list(home.iterdir())
