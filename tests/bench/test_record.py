"""`bench record`: every part has its turn, whatever becomes of the others."""

import json
import time

import pytest
from command import is_running, wait_for

pytest.importorskip("bench.record", reason="run from the wheel, without the bench")

from bench import record
from bench.record import Part
from vab_rt.engines.gpu import FoundGpu
from vab_rt.errors import OutputError

H100, RTX = FoundGpu("NVIDIA H100", "9.0", 85 << 30), FoundGpu("RTX 4090", "8.9", 24 << 30)
MODULES = {
    "part_good": "print('ceiling'); print('{\"loop_ms\": 3}')",
    "part_plain": "print('first'); print('2 passed')",
    "part_bad": "print('before'); raise RuntimeError('no kernel')",
    "part_slow": """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid)
time.sleep(600)
""",
}


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Modules that a part may run, instead of minutes of measuring."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(record, "GRACE_S", 1.0)


def test_a_part_that_fails_costs_its_own_figures_alone(modules, monkeypatch, tmp_path, capsys):
    wanted = [Part(name, (f"part_{name}",), 0) for name in ("bad", "good", "plain")]
    monkeypatch.setattr(record, "parts", lambda *_: wanted)
    out = tmp_path / "out"
    record.main(["--out", str(out), "--minutes", "1", "--json"])
    printed = capsys.readouterr().out
    found = json.loads(printed.strip().rpartition("\n")[2])
    assert json.loads((out / "record.json").read_text()) == found
    assert {"machine", "versions", "commit"} <= found.keys()
    bad, good, plain = (found["parts"][name] for name in ("bad", "good", "plain"))
    assert (bad["outcome"], bad["figures"]) == ("failed, exit 1", None)
    assert bad["last_lines"][-1] == "RuntimeError: no kernel"
    assert (good["outcome"], good["figures"]) == ("done", {"loop_ms": 3})
    assert good["last_lines"] == ["ceiling"] and good["command"] == "python -m part_good"
    assert (plain["figures"], plain["last_lines"]) == (None, ["first", "2 passed"])
    assert "RuntimeError: no kernel" in printed and "2 passed" in printed
    assert "before" in (out / "bad.log").read_text()


def test_a_part_that_takes_too_long_ends_with_all_that_it_started(modules, tmp_path):
    begin = time.monotonic()
    wanted = [Part("slow", ("part_slow",), 0), Part("good", ("part_good",), 120)]
    found = dict(record.run_parts(wanted, tmp_path, 132))
    assert time.monotonic() - begin < 120
    assert found["slow"]["outcome"] == "out of time after 12 s"
    assert found["good"]["outcome"] == "done"
    (child,) = map(int, found["slow"]["last_lines"])
    assert wait_for(lambda: not is_running(child))


def test_what_there_is_no_time_for_is_named(tmp_path):
    found = dict(record.run_parts([Part("x", ("platform",), 5)], tmp_path, 0))
    assert found["x"]["outcome"] == "not started: no time left"
    assert found["x"]["figures"] is None


def test_parts_fit_the_machine():
    def words(*facts):
        return {part.name: " ".join(part.words) for part in record.parts(*facts)}

    without = words(None, False)
    assert without["peers"] == "bench peers --json"
    assert not {"tests", "peers_bf16"} & without.keys()
    around_torch = words(H100, False)
    assert around_torch["peers"] == "bench peers --json --device torch"
    assert around_torch["gpu"].endswith("--device torch --batches 1,8,16")
    ours = words(H100, True)
    assert ours["peers_bf16"] == "bench peers --json --precision bf16"
    assert "--device" not in ours["gpu"]
    assert all((record.ROOT / test).is_file() for test in record.KERNEL_TESTS)
    assert sum(part.reserve_s for part in record.parts(H100, False)) < 600


def test_a_video_is_profiled_where_it_can_be_read(monkeypatch):
    for found in (None, "av"):
        monkeypatch.setattr(record, "find_spec", lambda name, found=found: found)
        names = [part.name for part in record.parts(None, False)]
        assert ("profile" in names) == (found is not None)
    assert names.index("profile") > names.index("installed")


def test_tensorrt_is_measured_where_it_is_and_runs(monkeypatch):
    monkeypatch.setattr(record, "find_spec", lambda name: name)
    assert record.compilers_for(H100) == ["tensorrt"]
    assert record.compilers_for(RTX) == ["tensorrt", "tensorrt-rtx"]
    assert record.compilers_for(None) == []
    monkeypatch.setattr(record, "find_spec", lambda name: None)
    assert record.compilers_for(RTX) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot be written .*choose another with --out"):
        record.main(["--out", str(tmp_path / "file" / "out")])
