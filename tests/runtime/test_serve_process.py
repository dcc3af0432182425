"""vab-rt serve in a process of its own: many clients, those that leave or lie, and a kill."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from command import PATIENCE_S, descendants, is_running, wait_for
from media import make_video
from serving import running

httpx = pytest.importorskip("httpx", reason="the extra `test` is not installed")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from opened_server import ENDLESS, OVER, endless, over

on_linux = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc to look at")


@pytest.fixture(scope="module")
def server(tiny_bundle, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    home = tmp_path_factory.mktemp("served")
    with running(tiny_bundle, home) as (address, _):
        yield address, home


@on_linux
def test_the_server_itself_has_no_model_and_no_decoder(tiny_bundle, videos, tmp_path):
    with running(tiny_bundle, tmp_path / "home") as (address, process):
        with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            video = videos(50).read_bytes()
            made = client.post("/v1/sounds?num_candidates=2&steps=2", content=video)
            where = made.headers["location"]
            assert over(client, where)["status"] == "completed"
            for what in ("spectrogram", "preview", "content?gain_db=-1&format=flac"):
                assert client.get(f"{where}/{what}").status_code == 200
            part = client.post(f"{where}/regenerate?end_s=1&steps=2").headers["location"]
            assert over(client, part)["status"] == "completed"
        assert len(descendants(process.pid)) >= 2
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    assert not [name for name in ("numpy", "onnxruntime", "avcodec") if name in maps]


@on_linux
def test_ctrl_c_in_a_terminal_waits_for_what_was_asked_for(tiny_bundle, videos, tmp_path):
    more = {"stderr": subprocess.PIPE, "start_new_session": True}
    with running(tiny_bundle, tmp_path / "home", "--drain", PATIENCE_S, **more) as found:
        address, process = found
        with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            video = videos(500).read_bytes()
            for _ in range(2):
                where = client.post("/v1/sounds?steps=64", content=video).headers["location"]
            workers = descendants(process.pid)
            with client.stream("GET", f"{where}/events") as events:
                lines = events.iter_lines()
                next(lines)
                os.killpg(process.pid, signal.SIGINT)
                *_, last = [line for line in lines if line.startswith("event: ")]
        assert last == "event: completed"
        _, said = process.communicate()
    assert (process.returncode, said) == (130, "")
    assert wait_for(lambda: not any(map(is_running, workers)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_amid_an_upload_it_says_so_in_a_line(number, tiny_bundle, tmp_path):
    home = tmp_path / "home"
    with running(tiny_bundle, home, "--drain", 0, stderr=subprocess.PIPE) as (address, process):
        (folder,) = home.iterdir()
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), PATIENCE_S) as sock:
            head = f"POST /v1/sounds HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000"
            sock.sendall(head.encode() + b"\r\n\r\n" + bytes(50_000))
            assert wait_for(lambda: any(folder.iterdir()))
            process.send_signal(number)
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        _, said = process.communicate()
    assert answer.startswith(b"HTTP/1.1 503 ") and b"the server is ending; ask again" in answer
    assert said.count("\n") <= 1 and "Traceback" not in said, said
    assert process.returncode in (130, 143) and not list(home.iterdir())


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


def test_a_sound_that_hangs_is_given_up_after_the_servers_patience(tiny_bundle, videos, tmp_path):
    home = tmp_path / "home"
    with (
        running(tiny_bundle, home, "--job-timeout", 1) as (address, _),
        httpx.Client(base_url=address, timeout=PATIENCE_S) as client,
    ):
        (folder,) = home.iterdir()
        asked = (("steps=1024", ENDLESS), ("steps=2", 50))
        first, where = (
            client.post(f"/v1/sounds?{query}", content=videos(count).read_bytes()).json()["id"]
            for query, count in asked
        )
        with endless(folder / where / "video"):
            client.delete(f"/v1/sounds/{first}")
            report = over(client, f"/v1/sounds/{where}")
        assert report["error"].startswith("nothing came of it for 1 s, ")


def test_killed_with_sounds_waiting_nothing_is_left_after_the_next_start(
    tiny_bundle, videos, tmp_path
):
    home = tmp_path / "home"
    with running(tiny_bundle, home) as (address, process):
        (killed,) = home.iterdir()
        with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            video = videos(ENDLESS).read_bytes()
            jobs = [client.post("/v1/sounds?steps=1024", content=video).json() for _ in range(3)]
            with endless(killed / jobs[1]["id"] / "video") as is_read:
                client.delete(f"/v1/sounds/{jobs[0]['id']}")
                assert wait_for(is_read)  # so the worker does not look whether it is alone
                workers = descendants(process.pid)
                process.send_signal(signal.SIGKILL)
                process.wait()
                assert wait_for(lambda: not any(map(is_running, workers)))
        assert len(list(killed.iterdir())) == 2
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
