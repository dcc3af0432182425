"""`bench serve`: what it counts, and a whole run on a tiny model."""

import json

import pytest

pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from bench import serve


def test_videos_differ_and_are_always_the_same(tmp_path):
    found = [serve.make_video(tmp_path / f"{i}.mp4", i % 2).read_bytes() for i in range(4)]
    assert found[:2] == found[2:] and found[0] != found[1]


@pytest.mark.slow
def test_a_whole_run(tiny_bundle, capsys):
    words = ["--model", str(tiny_bundle), "--clients", "3", "--seconds", "0.5", "--runs", "1"]
    serve.main([*words, "--threads", "1", "--json"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["made"] >= 3 and figures["lost"] == figures["crossed"] == 0
    assert figures["server_s"] > 0 and figures["first_event_ms"] > 0


def test_what_is_lost_and_what_is_another_sound_is_counted(tiny_bundle, tmp_path):
    video = serve.make_video(tmp_path / "0.mp4", 0)
    with serve.running(str(tiny_bundle), ["--threads", 1, "--queue", 1]) as server:
        good = serve.measure_load(server, [video], [b"another sound"], 0.2)
        assert good["made"] == good["crossed"] >= 1 and good["lost"] == 0
        assert serve.measure_load(server, [video] * 6, [b""] * 6, 0.2)["lost"] >= 1  # 429


def test_overhead_is_that_of_turns():
    theirs = [1.0, 2.0, 4.0]  # seconds, of a machine that slows down
    found = serve.overhead_of("overhead", [1.1, 2.1, 4.1], theirs)
    assert found["overhead"] == pytest.approx(0.05)
    assert found["overhead_low"] == pytest.approx(0.025) and found["overhead_high"] < 0.101
