"""One command in a fresh process: how long, how much memory, what it printed last."""

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True)
class Run:
    """wall_s counts from before the process exists until it is gone; peak_mb is resident memory."""

    wall_s: float
    peak_mb: float
    last_line: str

    def json(self) -> dict[str, Any]:
        return msgspec.json.decode(self.last_line, type=dict[str, Any])


def run(command: Sequence[str | Path]) -> Run:
    """Run to the end; raises CalledProcessError, with what was printed, for a failure.

    Linux counts the memory of the calling process, as it is at the fork, for the child: call this
    from a small one, without PyTorch.
    """
    with tempfile.TemporaryFile() as printed:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=printed, stdin=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        printed.seek(0)
        text = printed.read().decode()
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command, text)
    last_line = text.strip().rpartition("\n")[2]
    return Run(wall_s, usage.ru_maxrss * 1024 / 1e6, last_line)
