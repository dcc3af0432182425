"""One command in a fresh process: how long, how much memory, what it printed last."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vab_rt.errors import OutputError

# Linux counts what the parent held at the fork as memory of the child: this parent holds nothing.
_PARENT = """
import json, os, sys, time
report, *command = sys.argv[1:]
begin = time.perf_counter()
process = os.posix_spawnp(command[0], command, os.environ)
_, status, usage = os.wait4(process, 0)
wall_s = time.perf_counter() - begin
with open(report, "w") as file:
    cpu_s = usage.ru_utime + usage.ru_stime
    json.dump([wall_s, cpu_s, usage.ru_maxrss * 1024 / 1e6], file)
sys.exit(max(0, os.waitstatus_to_exitcode(status)) or os.WIFSIGNALED(status))
"""


def make_folder(path: Path) -> None:
    """The folder of `--out`. Raises OutputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}), expected a folder; choose another with "
            "--out"
        ) from error


@dataclass(frozen=True)
class Run:
    """wall_s counts from before the process exists until it is gone, cpu_s on all cores; peak_mb is
    resident memory."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    last_line: str

    def json(self) -> dict[str, Any]:
        return json.loads(self.last_line)


def run(command: Sequence[str | Path]) -> Run:
    """Run to the end; raises CalledProcessError, with what was printed, for a failure."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        parent = [sys.executable, "-I", "-S", "-c", _PARENT, report]
        done = subprocess.run(
            [*parent, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
        )
        measured = json.loads(report.read_text())
    return Run(*measured, done.stdout.decode().strip().rpartition("\n")[2])
