"""The command in the hands of other programs: closed and full streams, signals, little memory."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import (
    PATIENCE_S,
    command,
    interrupt_at_import,
    run_apart,
    wait_until,
    with_usual_signals,
)
from media import make_picture, samples_of

from vab_rt.output import UNFINISHED
from vab_rt.signals import end_if_told, unwound_by_signals

Arguments = Callable[..., list[str]]


@pytest.fixture
def generate(tiny_bundle: Path, videos, tmp_path: Path) -> Arguments:
    """The command that writes out.wav or another file, with more options."""

    def arguments(*more: object, name: str = "out.wav", video: Path | None = None) -> list[str]:
        named = (video or videos(10), tmp_path / name, "--model", tiny_bundle)
        return command("generate", *named, *more)

    return arguments


@pytest.fixture
def endless(generate: Arguments, tmp_path_factory) -> Arguments:
    """The same of a still that sounds for days."""
    still = make_picture(tmp_path_factory.mktemp("still") / "in.png")
    return lambda name="out.wav": generate("--duration", 1e6, name=name, video=still)


def assert_sound(path: Path, num_samples: int = 6400) -> None:
    """All of it, and nothing that was printed in between."""
    assert len(samples_of(path)[0]) == num_samples
    assert path.stat().st_size < 2 * num_samples + 200


@pytest.mark.parametrize(
    ("redirections", "more"),
    [
        ("2>&-", []),
        (">&-", ["--json"]),
        ("<&- >&- 2>&-", []),
        ("| true", []),
        ("2>&1 | true", ["--json"]),
        ("2>/dev/full", []),
    ],
)
def test_streams_that_are_closed_are_no_failure(generate, tmp_path, redirections, more):
    result = run_apart(generate(*more), redirections)
    assert (result.returncode, result.stderr) == (0, "")
    assert_sound(tmp_path / "out.wav")
    assert {path.name for path in tmp_path.iterdir()} == {"out.wav", "out.wav.vab.json"}


@pytest.mark.parametrize("arguments", [["info", "--json"], ["--help"]])
def test_what_cannot_be_printed_is_one_line(arguments):
    result = run_apart(command(*arguments), ">/dev/full")
    assert result.returncode == 1
    assert result.stderr == (
        "error: standard output cannot be written (No space left on device), expected room for "
        "it; the command is finished, but for what it prints: send that elsewhere\n"
    )


def test_a_full_stdout_keeps_the_sound(generate, tmp_path):
    result = run_apart(generate(), ">/dev/full")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert_sound(tmp_path / "out.wav")


def test_an_error_needs_no_stderr(generate, tmp_path):
    (tmp_path / "out.wav").touch()
    for redirections in ("2>&-", "2>&1 >&- | true"):
        result = run_apart(generate(), redirections)
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


@contextmanager
def writing(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that has begun to write a file there, one more than before; killed if it still runs."""
    num_before = len(list(folder.glob(UNFINISHED)))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(with_usual_signals(command), **pipes) as process:
        try:
            wait_until(lambda: len(list(folder.glob(UNFINISHED))) > num_before, process)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("signals", "suffix", "statuses"),
    [
        ([signal.SIGINT], "wav", [130]),
        ([signal.SIGINT], "mp4", [130]),
        ([signal.SIGTERM], "wav", [143]),
        ([signal.SIGHUP], "wav", [129]),
        ([signal.SIGTERM, signal.SIGHUP], "wav", [143, 129]),
    ],
)
def test_a_signal_leaves_nothing(generate, endless, videos, tmp_path, signals, suffix, statuses):
    name = f"out.{suffix}"
    long = generate("--steps", 1000, name=name, video=videos(200))  # a still cannot be copied
    run = endless() if suffix == "wav" else long
    with writing(run, tmp_path) as process:
        for number in signals:
            process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in statuses and (out, err) == (b"", b"")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", [["-m", "vab_rt"], [Path(sys.executable).with_name("vab-rt")]])
def test_interrupting_the_start_is_quiet(tmp_path, start):
    """The interruption arrives while the command line is being imported."""
    interrupt_at_import(tmp_path, "typer")
    run = with_usual_signals([sys.executable, *map(str, start), "doctor"])
    result = run_apart(run, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_interrupting_the_load_of_onnxruntime_is_quiet(tmp_path, videos, tiny_bundle):
    """pybind11 makes an ImportError of an interruption that arrives meanwhile."""
    wrapped = "raise ImportError('initialization failed') from KeyboardInterrupt()\n"
    (tmp_path / "onnxruntime.py").write_text(wrapped)
    words = ("generate", videos(50), tmp_path / "out.wav", "--model", tiny_bundle)
    result = run_apart(command(*words), env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, SystemExit(143)), (signal.SIGINT, KeyboardInterrupt())]
)
def test_a_signal_that_arrives_in_a_finalizer_is_not_lost(monkeypatch, number, raised):
    """Python drops what a finalizer raises; so the loop asks again."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(number)

    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # as on a terminal
    with unwound_by_signals():
        end_if_told()
        finalized = Finalized()
        del finalized
        assert len(dropped) == 1
        with pytest.raises(type(raised)) as ended:
            end_if_told()
    assert ended.value.args == raised.args
    assert signal.signal(signal.SIGINT, usual) is signal.default_int_handler
    end_if_told()  # nothing of it is left for whoever runs next in this process


def test_nohup_is_respected(generate, videos, tmp_path):
    """However often the terminal hangs up while sound is written."""
    run = ["nohup", *generate("--steps", 100, "--quiet", video=videos(100))]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if list(tmp_path.glob(UNFINISHED)):
                process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
    assert process.returncode == 0
    assert_sound(tmp_path / "out.wav", 64_000)


def test_what_a_killed_run_leaves_the_next_one_removes(generate, endless, tmp_path):
    """The next run leaves alone what a living one writes beside it."""
    with writing(endless(), tmp_path):
        mine = set(tmp_path.glob(UNFINISHED))
        with writing(endless("killed.wav"), tmp_path):
            pass
        assert len(list(tmp_path.glob(UNFINISHED))) == 2
        assert run_apart(generate(name="next.wav")).returncode == 0
        assert set(tmp_path.glob(UNFINISHED)) == mine
    made = {"next.wav", "next.wav.vab.json"}
    assert {path.name for path in tmp_path.iterdir()} == made | {p.name for p in mine}


@pytest.mark.parametrize("megabytes", [400, 500, 600, 700])
def test_too_little_memory_is_one_line(videos, tmp_path, megabytes):
    """With the default model, which needs about 400 MB and twice as much address space. Now and
    then onnxruntime, or the loader of its threads (127), runs out where neither can tell."""
    ended = (-signal.SIGABRT, -signal.SIGSEGV, 127)
    for _ in range(4):
        result = run_limited(videos(10), tmp_path, megabytes)
        if result.returncode == 0:  # enough on this machine
            assert list(json.loads(result.stdout)) and result.stderr == ""
            return
        assert list(tmp_path.iterdir()) == []
        if result.returncode not in ended:
            break
    if megabytes > 500 and result.returncode in ended:
        return
    assert result.returncode == 1 and result.stdout, result.stderr
    assert json.loads(result.stdout)["error"].startswith("memory ran out"), result.stderr
    assert result.stderr.startswith("error: memory ran out"), result.stderr
    assert "expected" in result.stderr and result.stderr.count("\n") == 1, result.stderr


def run_limited(video: Path, folder: Path, megabytes: int) -> subprocess.CompletedProcess[str]:
    limit = megabytes * 1_000_000
    return subprocess.run(
        [sys.executable, "-m", "vab_rt", "generate", str(video), "out.wav", "--json"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
