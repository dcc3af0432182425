"""The command in the hands of other programs: closed and full streams, signals, little memory."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from media import samples_of

from vab_rt.output import UNFINISHED
from vab_rt.signals import end_if_told, unwound_by_signals

Arguments = Callable[..., list[str]]


@pytest.fixture
def generate(tiny_bundle: Path, videos, tmp_path: Path) -> Arguments:
    """The command that writes out.wav, with more options."""

    def command(*more: object, frames: int = 10) -> list[str]:
        arguments = [videos(frames), tmp_path / "out.wav", "--model", tiny_bundle, *more]
        return [sys.executable, "-m", "vab_rt", "generate", *map(str, arguments)]

    return command


def shell(command: list[str], redirections: str) -> subprocess.CompletedProcess[str]:
    """A command as a shell starts it, whose stdout and stderr are kept where they are not sent
    elsewhere."""
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {redirections}', "bash", *command],
        capture_output=True,
        text=True,
        check=False,
    )


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
def test_streams_that_are_closed_are_no_failure(
    generate: Arguments, tmp_path: Path, redirections: str, more: list[str]
) -> None:
    result = shell(generate(*more), redirections)
    assert (result.returncode, result.stderr) == (0, "")
    assert_sound(tmp_path / "out.wav")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.wav"]


@pytest.mark.parametrize("arguments", [["info", "--json"], ["--help"]])
def test_what_cannot_be_printed_is_one_line(arguments: list[str]) -> None:
    result = shell([sys.executable, "-m", "vab_rt", *arguments], ">/dev/full")
    assert result.returncode == 1
    assert result.stderr == (
        "error: standard output cannot be written (No space left on device), expected room for "
        "it; the command is finished, but for what it prints: send that elsewhere\n"
    )


def test_a_full_stdout_keeps_the_sound(generate: Arguments, tmp_path: Path) -> None:
    result = shell(generate(), ">/dev/full")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert_sound(tmp_path / "out.wav")


def test_an_error_needs_no_stderr(generate: Arguments, tmp_path: Path) -> None:
    (tmp_path / "out.wav").touch()
    for redirections in ("2>&-", "2>&1 >&- | true"):
        result = shell(generate(), redirections)
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


def started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """A run that is writing, with the usual answer to signals, whatever that of this process is."""

    def as_usual() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes, preexec_fn=as_usual)  # noqa: PLW1509  # no threads
    deadline = time.monotonic() + 120
    while not list(folder.glob(UNFINISHED)) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert list(folder.glob(UNFINISHED)), "the run never began to write"
    time.sleep(0.3)
    return process


@pytest.mark.parametrize(
    ("signals", "statuses"),
    [
        ([signal.SIGTERM], [143]),
        ([signal.SIGHUP], [129]),
        ([signal.SIGTERM, signal.SIGHUP], [143, 129]),
    ],
)
def test_a_signal_leaves_nothing(
    generate: Arguments, tmp_path: Path, signals: list[int], statuses: list[int]
) -> None:
    with started(generate("--steps", 1000, frames=1500), tmp_path) as process:
        for number in signals:
            process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert process.returncode in statuses and (out, err) == (b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_arrives_in_a_finalizer_is_not_lost(monkeypatch) -> None:
    """Python drops what a finalizer raises; so the loop asks again."""

    class Finalized:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    dropped: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    with unwound_by_signals():
        end_if_told()
        finalized = Finalized()
        del finalized
        assert len(dropped) == 1
        with pytest.raises(SystemExit) as ended:
            end_if_told()
    assert ended.value.code == 143


def test_nohup_is_respected(generate: Arguments, tmp_path: Path) -> None:
    command = generate("--steps", 50, "--quiet", frames=100)
    with started(["nohup", *command], tmp_path) as process:
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert_sound(tmp_path / "out.wav", 64_000)


def test_what_a_killed_run_leaves_the_next_one_removes(generate: Arguments, tmp_path: Path) -> None:
    """The next run leaves alone what a living one writes beside it."""
    living = generate("--steps", 1000, frames=1500)
    with started(living, tmp_path) as process:
        mine = set(tmp_path.glob(UNFINISHED))
        other = [argument.replace("out.wav", "killed.wav") for argument in living]
        with subprocess.Popen(other) as killed:
            deadline = time.monotonic() + 120
            while len(list(tmp_path.glob(UNFINISHED))) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            killed.kill()
        assert len(list(tmp_path.glob(UNFINISHED))) == 2
        other = [argument.replace("out.wav", "next.wav") for argument in generate()]
        subprocess.run(other, check=True, capture_output=True)
        assert set(tmp_path.glob(UNFINISHED)) == mine
        process.terminate()
        process.communicate(timeout=120)
    assert [path.name for path in tmp_path.iterdir()] == ["next.wav"]


@pytest.mark.parametrize("megabytes", [400, 500, 600, 700])
def test_too_little_memory_is_one_line(videos, tmp_path: Path, megabytes: int) -> None:
    """With the default model, which needs about 400 MB and twice as much address space."""
    limit = megabytes * 1_000_000
    command = [sys.executable, "-m", "vab_rt", "generate", str(videos(10)), "out.wav", "--json"]
    result = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if result.returncode == 0:  # enough on this machine
        assert list(json.loads(result.stdout)) and result.stderr == ""
        return
    assert list(tmp_path.iterdir()) == []
    if megabytes > 500 and result.returncode in (-signal.SIGABRT, -signal.SIGSEGV):
        return  # onnxruntime ran out of it where its C++ cannot tell
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    assert result.stderr.startswith("error: memory ran out"), result.stderr
    assert "expected" in result.stderr and result.stderr.count("\n") == 1, result.stderr
