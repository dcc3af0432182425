"""vab-rt serve: what each request is answered with, and what is left when a sound is over."""

import asyncio
import json
import re
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from command import PATIENCE_S, small_disk, wait_for
from media import make_video

pytest.importorskip("httpx", reason="the extra `test` is not installed")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from opened_server import ENDLESS, OVER
from starlette.requests import Request

from vab_rt.serve import uploads
from vab_rt.serve.app import _order
from vab_rt.serve.job import Job, Refused
from vab_rt.serve.scratch import scratch_folder


def test_from_a_video_to_takes_to_a_part_made_anew(opened, videos):
    server = opened()
    client, where = server.client, server.ask(videos(50), "num_candidates=3&seed=5&steps=4")
    *more, last = client.get(f"{where}/events").text.split("\n\n")[:-1]
    assert all(event.startswith("event: ") for event in more)  # none where it is over already
    assert last.startswith("event: completed\ndata: ")
    done = json.loads(last.partition("data: ")[2])
    assert done == client.get(where).json() and done["progress"] == 100
    assert done["duration_s"] == 2.0 and done["warnings"] == []
    assert sorted(take["seed"] for take in done["candidates"]) == [5, 6, 7]
    scores = [take["score"] for take in done["candidates"]]
    assert scores == sorted(scores, reverse=True)
    takes = [client.get(take["content"]) for take in done["candidates"]]
    assert len({take.content for take in takes}) == 3
    assert takes[0].content == client.get(f"{where}/content").content
    assert takes[0].headers["content-type"] == "audio/wav"
    assert client.get(f"{where}/content?candidate=4").status_code == 404

    part = client.post(f"{where}/regenerate?start_s=1&end_s=1.5&seed=9&candidate=2")
    assert client.delete(where).status_code == 200  # the new one outlives it
    assert client.get(where).status_code == 404
    again = server.over(part.headers["location"])
    told = {"of": done["id"], "candidate": 2, "start_s": 1.0, "end_s": 1.5}
    assert again["status"] == "completed" and again["regenerated"] == told and again["seed"] == 9
    new = client.get(f"{part.headers['location']}/content").content
    assert len(new) == len(takes[1].content) and new != takes[1].content
    assert new[:30_000] == takes[1].content[:30_000]  # the first second has 32,000 bytes
    client.delete(part.headers["location"])
    assert server.is_left_with()


def test_a_part_of_a_video_in_a_file_of_another_kind(opened, videos):
    server = opened()
    done = server.over(where := server.ask(videos(50), "start_s=0.5&duration_s=1&format=mp4"))
    assert done["duration_s"] == 1.0
    film = server.client.get(f"{where}/content")
    assert film.headers["content-type"] == "video/mp4" and film.content[4:8] == b"ftyp"
    part = server.client.post(f"{where}/regenerate?start_s=0.2&end_s=0.6")
    assert server.over(part.headers["location"])["status"] == "completed"
    sound = server.client.get(f"{part.headers['location']}/content?format=flac")
    assert sound.content[:4] == b"fLaC" and sound.headers["content-type"] == "audio/flac"
    wrong = server.client.get(f"{where}/content?format=../../x.wav")
    assert wrong.status_code == 400 and "expected one of wav" in wrong.json()["error"]


def test_cancelled_at_the_next_step(opened, videos):
    server = opened()
    where = server.ask(videos(ENDLESS), "steps=1024")
    behind = server.ask(videos(50), "steps=2")
    assert wait_for(lambda: server.client.get(where).json()["progress"] > 0)
    assert server.client.get(f"{where}/content").status_code == 409
    assert server.client.delete(where).status_code == 202
    report = server.over(where)
    assert report["status"] == "cancelled" and report["progress"] < 100
    assert server.over(behind)["status"] == "completed"
    assert server.is_left_with(server.jobs.folder / behind.rpartition("/")[2])
    assert server.client.get(f"{where}/content").status_code == 409


def test_a_full_queue_refuses_and_one_that_waits_costs_no_thread(opened, videos):
    server = opened(max_waiting=20)
    gate = server.hold()
    first = server.ask(videos(50), "steps=2")
    assert wait_for(lambda: server.jobs.running is not None)
    before = threading.active_count()
    waiting = [server.ask(videos(50), "steps=2") for _ in range(20)]
    assert threading.active_count() <= before + 1  # starlette's, which writes the files
    full = server.client.post("/v1/sounds", content=videos(50).read_bytes())
    assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
    assert server.client.post(f"{first}/regenerate").status_code == 409
    assert server.client.delete(waiting[3]).json()["status"] == "cancelled"
    server.ask(videos(50), "steps=2")
    gate.set()
    assert server.over(waiting[-1])["status"] == "completed"
    text = server.client.get("/metrics").text
    assert "vab_rt_refused_total 1\n" in text and "vab_rt_waiting_most 20\n" in text
    assert 'vab_rt_sounds_total{status="cancelled"} 1\n' in text


@pytest.mark.parametrize("is_counted", [False, True])
def test_too_large_by_header_and_by_count_also_where_the_queue_is_full(opened, videos, is_counted):
    server = opened(max_waiting=1, max_bytes=100_000)
    gate = server.hold()
    server.ask(videos(50))
    assert wait_for(lambda: server.jobs.running is not None)
    server.ask(videos(50))
    body = bytes(100_001)
    content = iter([body[:50_000], body[50_000:]]) if is_counted else body
    answer = server.client.post("/v1/sounds", content=content)
    assert answer.status_code == 413 and "0.1 MB" in answer.json()["error"]
    small = iter([videos(50).read_bytes()]) if is_counted else videos(50).read_bytes()
    assert server.client.post("/v1/sounds", content=small).status_code == 429
    gate.set()
    assert len(server.left()) == 2 and server.jobs.num_arriving == 0


def test_a_body_of_unknown_length(opened, videos):
    server = opened()
    answer = server.client.post("/v1/sounds?steps=2", content=iter([videos(50).read_bytes()]))
    assert server.over(answer.headers["location"])["status"] == "completed"
    assert server.jobs.num_arriving == 0


@pytest.mark.parametrize(
    "query",
    [
        *("sede=1", "seed=1&seed=2", "seed=-1", "seed=1.5", "seed=", "steps=0", "guidance=nan"),
        *("start_s=-1", "start_s=nan", "duration_s=0", "num_candidates=0", "num_candidates=33"),
        *("format=exe", "format=../../a.wav", "format=wav/../x", "kinds=dog", "library=/etc"),
    ],
)
def test_a_wrong_query_is_told_before_the_video_is_taken(opened, videos, query):
    server = opened()
    answer = server.client.post(f"/v1/sounds?{query}", content=videos(50).read_bytes())
    assert answer.status_code == 400 and "expected" in answer.json()["error"].lower()
    assert server.is_left_with() and server.jobs.num_arriving == 0


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("start_s=2", "the part's start is 2.0, expected 0 to 1 s, the length of the sound"),
        ("start_s=1&end_s=1", "is 0 s long, expected at least 0.02 s"),
        ("end_s=9", "the part's end is 9.0, expected 0 to 1 s"),
        ("end_s=nan", "the part's end is nan"),
    ],
)
def test_a_part_that_is_not_in_the_sound(opened, videos, query, message):
    server = opened()
    where = server.ask(videos(25), "steps=2")
    server.over(where)
    answer = server.client.post(f"{where}/regenerate?{query}")
    assert answer.status_code == 400 and message in answer.json()["error"]


def test_an_end_that_was_rounded_up_is_the_end(opened, videos):
    """The page tells hundredths."""
    server = opened()
    where = server.ask(videos(25), "steps=2")
    end_s = server.over(where)["duration_s"]
    answer = server.client.post(f"{where}/regenerate?start_s=0.5&end_s={end_s + 0.004}")
    assert answer.status_code == 202
    assert server.over(answer.headers["location"])["status"] == "completed"


def test_no_video_in_the_body_and_no_room_for_one(opened):
    server = opened()
    assert server.client.post("/v1/sounds").status_code == 400
    with small_disk():
        answer = server.client.post("/v1/sounds", content=bytes(3_000_000))
    assert answer.status_code == 507 and "no room" in answer.json()["error"]
    assert server.is_left_with() and server.jobs.num_arriving == 0


def test_a_video_that_comes_too_slowly(tmp_path, monkeypatch):
    monkeypatch.setattr(uploads, "PATIENCE_S", 0.1)

    async def receive() -> dict:
        await asyncio.sleep(0.03)
        return {"type": "http.request", "body": b"x", "more_body": True}

    request = Request({"type": "http", "headers": []}, receive)
    with pytest.raises(Refused, match="too slowly"):
        asyncio.run(uploads.save_body(request, tmp_path / "video", 1000))


def test_a_full_disk_amid_a_job_is_told(opened, videos):
    server = opened()
    with small_disk():
        report = server.over(server.ask(videos(50), "steps=2"))
    assert report["status"] == "failed" and "could not be written" in report["error"]
    assert str(server.jobs.folder) not in report["error"] and server.is_left_with()


def test_told_to_end_it_finishes_what_it_may(opened, videos):
    server = opened()
    wheres = [server.ask(videos(50), "steps=2") for _ in range(3)]
    portal = server.client.portal
    portal.call(server.jobs.drain, 60)
    for where in wheres:
        assert server.client.get(where).json()["status"] == "completed"
    assert server.client.get("/health").status_code == 503
    assert server.client.post("/v1/sounds", content=b"x").status_code == 503


def test_two_servers_in_one_folder_of_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as one, scratch_folder() as other:
        assert one.is_dir() and other.is_dir() and one != other
    assert not list(tmp_path.iterdir())


def test_sounds_expire(opened, videos):
    server = opened(keep_s=0.2)
    where = server.ask(videos(25), "steps=2")
    assert server.is_left_with()
    assert server.client.get(where).status_code == 404


def test_a_sound_that_is_asked_for_is_kept(opened, videos):
    server = opened()
    where = server.ask(videos(25), "steps=2")
    server.over(where)
    (job,) = server.jobs.known.values()
    before = job.expiry.when()
    server.client.get(where)
    assert job.expiry.when() > before


def test_cancelled_after_its_last_step_nothing_stays(opened, videos, monkeypatch):
    server = opened()
    do = server.jobs.worker.do

    async def do_too_late(*args, stop, **more):
        made = await do(*args, stop=stop, **more)
        stop.set()
        return made

    monkeypatch.setattr(server.jobs.worker, "do", do_too_late)
    report = server.over(server.ask(videos(25), "steps=2"))
    assert report["status"] == "cancelled" and not report["candidates"]
    assert server.is_left_with()


def test_a_bug_of_ours_in_one_sound_is_no_end_of_the_others(opened, videos, monkeypatch, caplog):
    server = opened()
    with monkeypatch.context() as broken:
        wrong = {"num_candidates": None}
        broken.setattr("vab_rt.serve.app._order", lambda *of: replace(_order(*of), **wrong))
        report = server.over(server.ask(videos(25), "steps=2"))
    assert report["status"] == "failed" and "TypeError" in report["error"]
    assert "Traceback" in caplog.text
    assert server.over(server.ask(videos(25), "steps=2"))["status"] == "completed"


def test_each_documented_request_is_answered_as_documented(opened, videos):
    server = opened()
    client = server.client
    found = client.get("/openapi.json").json()
    routes = {
        (route.path, method.lower())
        for route in client.app.routes
        for method in route.methods - {"HEAD"}
        if route.include_in_schema
    }
    methods = ("get", "post", "delete")
    documented = {(p, m) for p, item in found["paths"].items() for m in item if m in methods}
    assert routes == documented
    where = server.ask(videos(25), "steps=2")
    server.over(where)
    for path, method in sorted(documented, key=lambda each: each[1] == "delete"):
        operation = found["paths"][path][method]
        real = path.replace("{id}", where.rpartition("/")[2])
        body = {"content": videos(25).read_bytes()} if "requestBody" in operation else {}
        answer = client.request(method, real, **body)
        described = operation["responses"][str(answer.status_code)]
        (media,) = described["content"]
        assert media in ("*/*", answer.headers["content-type"].partition(";")[0])
        schema = described["content"][media]["schema"]
        if "$ref" in schema:
            kind = found["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            assert set(answer.json()) == set(kind["required"]) == set(kind["properties"])
        if "{id}" in path:
            missing = client.request(method, path.replace("{id}", "none"))
            assert missing.status_code == 404 and "404" in operation["responses"]


def test_an_option_that_is_none_is_refused_by_every_request(opened, videos):
    server = opened()
    server.over(where := server.ask(videos(25), "steps=2"))
    taken = 0
    for path, item in server.client.get("/openapi.json").json()["paths"].items():
        for method in {"get", "post", "delete"} & set(item):
            real = path.replace("/v1/sounds/{id}", where)
            answer = server.client.request(method, f"{real}?sede=1")
            assert answer.status_code == 400, (method, path)
            assert answer.json()["error"].startswith("sede is no option, expected ")
            assert "400" in item[method]["responses"]
            taken += 1
    assert taken == 12 and server.client.get(where).json()["status"] == "completed"


def test_the_documented_options_are_those_that_are_taken(opened, videos):
    server = opened()
    create = server.client.get("/openapi.json").json()["paths"]["/v1/sounds"]["post"]
    options = {option["name"]: option for option in create["parameters"]}
    assert {"seed", "steps", "guidance", "kinds", "start_s", "duration_s"} <= set(options)
    assert {"num_candidates", "format", "path"} <= set(options) and "library" not in options
    assert all(option["description"] for option in options.values())
    values = {"steps": 3, "seed": 2**64 - 1, "guidance": 1.25, "temperature": 0.9, "top_k": 4}
    query = "&".join(f"{name}={value}" for name, value in values.items())
    assert set(values) <= set(options)
    assert server.over(server.ask(videos(25), query))["status"] == "completed"


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (
            "GET /v2/sounds",
            404,
            "GET /v2/sounds is no request .* expected one of those in /openapi",
        ),
        ("PUT /v1/sounds", 405, "PUT /v1/sounds is no request .* expected POST for /v1/sounds"),
        ("POST /v1/sounds/{id}/content", 405, "expected GET, HEAD for"),
        ("PUT /v1/sounds/{id}", 405, "expected DELETE, GET, HEAD for"),
        ("bytes=100-199", 206, ""),
        ("bytes=9999999-", 416, "the range is bytes=9999999-, expected .* within its 32080 b"),
        ("bytes=9-1", 400, "the range is bytes=9-1, expected bytes=FIRST-LAST within"),
        ("seconds=1-2", 400, "the range is seconds=1-2, expected bytes=FIRST-LAST within"),
    ],
)
def test_parts_of_files_and_refusals_as_json_objects(opened, videos, asked, status, words):
    server = opened()
    server.over(where := server.ask(videos(25), "steps=2"))
    if "=" in asked:
        whole = server.client.get(f"{where}/content").content
        answer = server.client.get(f"{where}/content", headers={"range": asked})
        assert len(whole) == 32080
        found = {206: "bytes 100-199/32080", 416: "bytes */32080"}.get(status)
        assert answer.headers.get("content-range") == found
    else:
        method, path = asked.split()
        answer = server.client.request(method, path.replace("/v1/sounds/{id}", where))
        assert ("allow" in answer.headers) == (status == 405)
    assert answer.status_code == status
    if status == 206:
        assert answer.content == whole[100:200]
    else:
        assert list(answer.json()) == ["error"] and re.search(words, answer.json()["error"])


def test_a_video_cut_short_is_told(opened, videos, tmp_path):
    cut = tmp_path / "cut.mkv"
    make_video(cut, num_frames=100, options={"crf": "0"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    server = opened()
    report = server.over(server.ask(cut, "steps=2"))
    assert report["status"] == "completed" and len(report["warnings"]) == 1
    assert report["warnings"][0].startswith("the video is cut short")


def test_the_end_is_told_also_to_who_reads_slowly():
    """It came while they were still reading of a step."""
    order = SimpleNamespace(
        options=SimpleNamespace(seed=0), format="wav", num_candidates=1, edit=None
    )

    async def told(status: str) -> list[str]:
        job, seen = Job("id", order, "in_progress"), []
        async for report in job.reports():
            seen.append(report["status"])
            job.status = status
            job.tell()
        return seen

    for end in OVER:
        assert asyncio.run(asyncio.wait_for(told(end), PATIENCE_S)) == ["in_progress", end]
