"""`bench timeline`: a whole run on a tiny model, and that it refuses to time what differs."""

import json

import pytest

from bench import timeline


def test_a_whole_run(tiny_bundle, capsys):
    timeline.main(["--clips", "3", "--runs", "1", "--model", str(tiny_bundle), "--json"])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert "parity: the timeline has the bytes of its clips" in lines
    assert found["clips"] == 3 and found["ratio"] > 0
    assert found["cpu_s"]["timeline"]["best"] > found["cpu_s"]["one_by_one"]["best"] / 2 > 0


def test_what_differs_is_not_timed(tmp_path):
    (tmp_path / "out.sound").mkdir()
    (tmp_path / "out.sound" / "a_0001_seed0.wav").write_bytes(b"a")
    (tmp_path / "0.wav").write_bytes(b"b")
    with pytest.raises(SystemExit, match="not timed"):
        timeline.check_same([timeline.Part(tmp_path / "a.mp4", 0)], tmp_path)
