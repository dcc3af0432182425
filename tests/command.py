"""Commands, in this process or in one of their own: `vab-rt`, and what others say of a mistake."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from vab_rt.cli import main

PATIENCE_S = 600
"""For what ends by itself, on a machine however busy."""

_WITH_USUAL_SIGNALS = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `vab-rt ARGS` in this process."""

    def run_main(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["vab-rt", *map(str, args)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as exit_info:
            main()
        captured = capsys.readouterr()
        return Result(exit_info.value.code or 0, captured.out, captured.err)

    return run_main


def command(*args: object) -> list[str]:
    """`vab-rt ARGS` as a command of its own."""
    return [sys.executable, "-m", "vab_rt", *map(str, args)]


def run_apart(
    command: list[str], redirections: str = "", before: str = "", **more: object
) -> subprocess.CompletedProcess[str]:
    """A command as bash starts it, after what it does `before`; stdout and stderr are kept where
    they are not sent elsewhere."""
    script = f'set -o pipefail; {before or ":"}; "$@" {redirections}'
    whole = ["bash", "-c", script, "bash", *command]
    return subprocess.run(whole, capture_output=True, text=True, check=False, **more)


def with_usual_signals(command: list[str]) -> list[str]:
    """The same, not ignoring what this process may: shells let those behind them ignore SIGINT."""
    return [sys.executable, "-c", _WITH_USUAL_SIGNALS, *command]


def wait_until(is_done: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """For a process, which must not end before."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.01)


def interrupt_at_import(folder, module: str) -> None:
    """In that folder, a module that interrupts the process that imports it."""
    send = f"import os, time\nos.kill(os.getpid(), {int(signal.SIGINT)})\ntime.sleep(60)\n"
    (folder / f"{module}.py").write_text(send)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """What a command that must fail says: main(WORDS) ends in exit 1 and one line."""

    def call(main: Callable[[list[str]], None], *words: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        assert end.value.code == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1, said
        return said

    return call


def wait_for(is_there: Callable[[], bool]) -> bool:
    """Whether it came in time."""
    end = time.monotonic() + PATIENCE_S
    while not (found := is_there()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def is_running(pid: int) -> bool:
    """Also one that has ended and that nobody has asked for yet is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def descendants(pid: int) -> list[int]:
    """Processes that it started, and those that these started. Of Linux alone."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    own = parents.get(pid, [])
    return own + [each for child in own for each in descendants(child)]


@contextmanager
def small_disk() -> Iterator[None]:
    """No file of this process and its children may grow beyond 40,000 bytes, no longer than needed:
    the tests' own output may be one that is larger."""
    import resource  # not there on Windows

    pids = [0, *(child.pid for child in multiprocessing.active_children())]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        yield
    finally:
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
