"""vab-rt serve: who may ask, and what nobody gets."""

import asyncio
import json
import re
import socket
import sys
from pathlib import Path

import pytest
from command import PATIENCE_S
from media import make_video

pytest.importorskip("httpx", reason="the extra `test` is not installed")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")

import uvicorn
from uvicorn.server import ServerState

from vab_rt.errors import MediaError
from vab_rt.serve.making import refuse_lists
from vab_rt.serve.pages import PATHS
from vab_rt.serve.server import Connection


@pytest.mark.parametrize(
    ("headers", "limits", "status"),
    [
        ({}, {}, 200),
        ({"host": "127.0.0.1:9"}, {}, 200),
        ({"host": "[::1]:9"}, {}, 200),
        ({"host": "evil.example"}, {}, 400),
        ({"host": "localhost.evil.example:8000"}, {}, 400),
        ({"host": "192.0.2.1"}, {}, 400),
        ({"host": "["}, {}, 400),
        ({"host": ""}, {}, 400),
        ({"host": "192.0.2.1"}, {"host": "0.0.0.0"}, 200),
        ({"host": "evil.example"}, {"host": "0.0.0.0"}, 400),
        ({"host": "studio.example"}, {"names": ("Studio.example",)}, 200),
        ({"origin": "http://localhost:8000"}, {}, 200),
        ({"origin": "http://localhost:9000"}, {}, 403),
        ({"origin": "https://evil.example"}, {}, 403),
        ({"origin": "null"}, {}, 403),
        ({"sec-fetch-site": "cross-site"}, {}, 403),
        ({}, {"token": "secret"}, 401),
        ({"authorization": "Bearer wrong"}, {"token": "secret"}, 401),
        ({"authorization": "Bearer s\u00e9cret".encode("latin-1")}, {"token": "secret"}, 401),
        ({"authorization": "Bearer secret"}, {"token": "secret"}, 200),
    ],
)
def test_who_may_ask(opened, headers, limits, status):
    client = opened(**limits).client
    answer = client.get("/v1/models", headers=headers)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["error"]
    if status == 401:
        assert client.get("/health").status_code == 200


async def _slow(scope, receive, send):
    await asyncio.sleep(0.5)  # longer than asking may take
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def answered(words: bytes, then: bytes = b"") -> bytes:
    """All that somebody reads who says this to a server, and `then` once it has answered."""

    async def ask() -> bytes:
        config, state = uvicorn.Config(_slow, lifespan="off", log_config=None), ServerState()
        config.load()
        listen = asyncio.get_running_loop().create_server
        async with await listen(lambda: Connection(config, state, {}), "127.0.0.1") as made:
            address = made.sockets[0].getsockname()
            reader, writer = await asyncio.open_connection(*address)
            writer.write(words)
            head = await reader.readuntil(b"\r\n\r\n") if then else b""
            writer.write(then)
            found = head + await asyncio.wait_for(reader.read(), PATIENCE_S)
            writer.close()
        return found

    return asyncio.run(ask())


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_who_asks_for_nothing_keeps_no_place(monkeypatch):
    monkeypatch.setattr("vab_rt.serve.server.HEAD_S", 0.3)
    begun = b"GET / HTTP/1.1\r\nHost: "
    assert answered(begun) == b""
    assert answered(REQUEST + begun).startswith(b"HTTP/1.1 204 ")


def test_a_body_that_breaks_off_once_it_is_answered_ends_its_connection_alone(caplog):
    begun = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert answered(begun, b"no length\r\n").startswith(b"HTTP/1.1 204 ")
    assert not [one for one in caplog.records if one.name == "asyncio"], caplog.text


@pytest.mark.parametrize(
    ("words", "most", "status", "message"),
    [
        (b"\x16\x03\x01 is TLS\r\n\r\n", 9, 400, b"is no request of HTTP/1.1, expected one"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 9, 400, b"is no request of HTTP/1.1, expected one"),
        (REQUEST, 0, 503, b"0 connections are open; ask again later"),
    ],
)
def test_what_reaches_no_route_is_refused_as_a_json_object(
    monkeypatch, words, most, status, message
):
    monkeypatch.setattr("vab_rt.serve.server._MOST_CONNECTIONS", most)
    head, _, body = answered(words).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"application/json" in head
    assert list(json.loads(body)) == ["error"] and message in body


@pytest.mark.parametrize(
    ("words", "message"),
    [(("--host", "0.0.0.0", "--port", "0"), "expected a token"), ((), "cannot be had")],
)
def test_other_machines_need_a_token_and_no_port_is_had_twice(run, tiny_bundle, words, message):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run("serve", "--port", port, *words, "--model", tiny_bundle)
    assert told.code == 1 and message in told.err and told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--max-mb", "nan"), 1, "max-mb is nan, expected 0.001 to 1e9 MB"),
        (("--max-mb", "inf"), 1, "max-mb is inf, expected"),
        (("--keep", "nan"), 1, "keep is nan, expected 0 to 1e9 s"),
        (("--drain", "-1"), 1, "drain is -1.0, expected 0 to 1e9 s"),
        (("--job-timeout", "nan"), 1, "job-timeout is nan, expected 1 to 1e9 s"),
        (("--root", "missing"), 2, "does not exist"),
        (("--root", __file__), 2, "is a file"),
    ],
)
def test_what_no_server_begins_with(run, tiny_bundle, words, code, message):
    told = run("serve", "--host", "0.0.0.0", *words, "--model", tiny_bundle)  # without a token
    assert told.code == code and message in " ".join(told.err.replace("│", " ").split())


def test_without_the_extra_one_line_says_what_to_install(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "vab_rt.serve.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    told = run("serve")
    assert told.code == 1 and told.err.startswith("error: vab-rt serve needs uvicorn, which cannot")
    assert "pip install 'vab-rt[serve]'" in told.err
    assert told.err.count("\n") == 1


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "root"
    (folder / "deep").mkdir(parents=True)
    make_video(folder / "deep" / "a.mp4", num_frames=25)
    make_video(tmp_path / "secret.mp4", num_frames=25)
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "circle.mp4").symlink_to(folder / "circle.mp4")
    return folder


@pytest.mark.parametrize(
    "path",
    [
        *("../secret.mp4", "deep/../../secret.mp4", "/etc/passwd", "link.mp4", "circle.mp4"),
        *("deep", "", ".", "nothing.mp4", "deep/a.mp4%00", "a" * 5000, "file:deep/a.mp4"),
    ],
)
def test_no_path_leaves_the_root(opened, root, path):
    server = opened(root=root)
    answer = server.client.post(f"/v1/sounds?path={path}")
    assert answer.status_code == 404 and str(root.parent) not in answer.text
    assert server.is_left_with()


def test_a_video_below_the_root(opened, root):
    server = opened(root=root)
    both = server.client.post("/v1/sounds?path=deep/a.mp4", content=b"x")
    assert both.status_code == 400
    where = server.client.post("/v1/sounds?path=deep/a.mp4").headers["location"]
    done = server.over(where)
    assert done["status"] == "completed" and done["duration_s"] == 1.0
    part = server.client.post(f"{where}/regenerate?start_s=0.5").headers["location"]
    assert server.over(part)["regenerated"]["end_s"] == 1.0
    server.client.delete(where)
    server.client.delete(part)
    assert server.is_left_with() and (root / "deep" / "a.mp4").exists()
    assert opened().client.post("/v1/sounds?path=deep/a.mp4").status_code == 403


def test_the_page_is_all_that_it_asks_for(opened):
    client = opened(token="secret").client
    todo, seen = ["/"], {}
    while todo:
        path = todo.pop()
        answer = client.get(path)  # without the token
        assert answer.status_code == 200 and "default-src 'none'" in str(answer.headers)
        seen[path] = answer.text
        if path.endswith(".mp4"):
            continue
        found = re.findall(r"""(?:src|href)="(/[^"]*)"|(?:from |blob\()"([^"]*)""", answer.text)
        todo += [name for name in map("".join, found) if name not in seen]
        elsewhere = set(re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z0-9.]+", answer.text))
        assert elsewhere <= {"http://www.w3.org"}, path  # the name of a kind, asked of nobody
    assert set(seen) == set(PATHS) - {"/page/wavesurfer/LICENSE"}
    assert "Redistribution" in client.get("/page/wavesurfer/LICENSE").text
    assert client.get("/page/../pages.py").status_code in (401, 404)
    assert set(re.findall(r'\$\("([a-z-]+)"\)', seen["/page/app.js"])) <= set(
        re.findall(r'id="([a-z-]+)"', seen["/"])
    )


def test_a_list_of_other_files_is_refused(tmp_path):
    make_video(tmp_path / "secret.mp4", num_frames=5)
    (tmp_path / "video").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(MediaError, match="a list of other files"):
        refuse_lists(tmp_path / "video")
    refuse_lists(tmp_path / "secret.mp4")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"no video at all" * 100, "cannot be read as video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{0}\n#EXT-X-ENDLIST\n", ""),
        (b"ffconcat version 1.0\nfile {0}\n", ""),
    ],
)
def test_what_is_no_video_fails_without_our_paths(opened, tmp_path, body, words):
    secret = make_video(tmp_path / "secret.ts", num_frames=50)
    server = opened()
    path = tmp_path / "sent"
    path.write_bytes(body.replace(b"{0}", str(secret).encode()))
    report = server.over(where := server.ask(path))
    assert report["status"] == "failed" and words in report["error"]
    assert report["error"].startswith("the video ") and str(tmp_path) not in report["error"]
    assert server.client.get(f"{where}/content").status_code == 409
    assert server.is_left_with()
