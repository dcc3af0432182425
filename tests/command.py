"""The command `vab-rt`, in this process or in one of its own."""

import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
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
