"""Many videos on Ray: what is made, what kills a worker, and what is refused before."""

import json
import os
import subprocess
import sys

import pytest
from media import make_video

from vab_rt import on_ray
from vab_rt.cli import main
from vab_rt.errors import OptionError

# In every process that Python starts with it: kills those that are about to finish such a sound.
KILLER = """
import os, signal, sys

def watch(event, args):
    if event == "os.rename":
        name = os.path.basename(os.fsdecode(args[1]))
        is_first = name == "once.wav" and not os.path.exists(f"{__file__}.once")
        if is_first or name == "poison.wav":
            os.close(os.open(f"{__file__}.{name[:-4]}", os.O_CREAT | os.O_WRONLY))
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
"""


@pytest.mark.slow  # 15 to 30 s, half of it Ray's start
def test_two_workers_one_of_which_is_killed(run, tiny_bundle, tmp_path):
    pytest.importorskip("ray.data", reason="the extra `ray` is not installed")
    films, out, faults = (tmp_path / name for name in ("films", "out", "faults"))
    for name in ("a", "deep/b", "done", "once", "poison"):
        (films / name).parent.mkdir(parents=True, exist_ok=True)
        make_video(films / f"{name}.mp4", num_frames=25)
    (films / "broken.mp4").write_bytes(b"no video at all")
    out.mkdir()
    (out / "done.wav").write_bytes(b"of an earlier run")
    faults.mkdir()
    (faults / "sitecustomize.py").write_text(KILLER)

    words = ("films", "out", "--workers", 2, "--model", tiny_bundle, "--seed", 3, "--json")
    told = _run(*words, cwd=tmp_path, path=faults)
    assert told.returncode == 1, told.stderr
    reports = {each["output"]: each for each in map(json.loads, told.stdout.splitlines())}
    names = ("a", "broken", "deep/b", "done", "once", "poison")
    assert sorted(reports) == [f"out/{name}.wav" for name in names], told.stdout
    errors = {name: each["error"] for name, each in reports.items() if "error" in each}
    assert errors.keys() == {"out/broken.wav", "out/poison.wav"}
    assert "cannot be read as video" in errors["out/broken.wav"]
    assert errors["out/poison.wav"].startswith("the worker that had it died")
    assert reports["out/done.wav"]["skipped"] == "it exists"
    assert (faults / "sitecustomize.py.once").exists(), "no worker was killed"
    made = {str(path.relative_to(out)) for path in out.rglob("[!.]*.wav")}
    assert made == {"a.wav", "deep/b.wav", "done.wav", "once.wav"}
    alone = tmp_path / "alone.wav"
    video = films / "once.mp4"
    assert run("generate", video, alone, "--model", tiny_bundle, "--seed", 3).code == 0
    assert (out / "once.wav").read_bytes() == alone.read_bytes()

    for name in ("broken", "poison"):
        (films / f"{name}.mp4").unlink()
    again = _run(*words, cwd=tmp_path, path=faults)
    assert again.returncode == 0, again.stderr
    assert [json.loads(line)["skipped"] for line in again.stdout.splitlines()] == ["it exists"] * 4


def _run(*words, cwd, path):
    command = [sys.executable, "-m", "vab_rt.on_ray", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        command, check=False, cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "0"), "workers is 0, expected 1 to 256"),
        (("--workers", "1", "--device", "cuda"), "0 GPUs for each worker, expected cpu or"),
        (("--workers", "1", "--device", "cpu", "--gpus-per-worker", "1"), "or another and some"),
        (("--workers", "1", "--gpus-per-worker", "nan"), "is nan, expected 0 to 16"),
        (("--workers", "1", "--model", "none"), "none"),
        (("--workers", "1"), "pip install 'vab-rt[ray]'"),
    ],
)
def test_what_is_refused_before_ray_starts(refused, monkeypatch, tmp_path, words, message):
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "a.mp4").write_bytes(b"")

    def command(words):
        monkeypatch.setattr(sys, "argv", ["on_ray", *words])
        main(on_ray.app)

    assert message in refused(command, tmp_path, tmp_path / "out", *words)


@pytest.mark.parametrize(("cpus", "gpus", "room"), [(4, 0, 3), (4, 1, 2), (1, 0.5, 4), (9, 0, 0)])
def test_room_for_workers(caplog, cpus, gpus, room):
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    if not room:
        with pytest.raises(OptionError, match="Ray has no machine with 9 cores"):
            on_ray._check_room(nodes, 1, cpus, gpus)
        return
    on_ray._check_room(nodes, room, cpus, gpus)
    assert not caplog.records
    on_ray._check_room(nodes, room + 1, cpus, gpus)
    assert f"room for {room} of {room + 1} workers" in caplog.text
