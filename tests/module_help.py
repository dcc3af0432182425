"""What `python -m MODULE --help` prints, for many modules in one process: torch is imported once.

Our own modules are imported anew for each, so that none lives on what another one has imported.
"""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OURS = ("bench", "export", "kernels", "recipes", "training")


def helps_of(commands: list[str]) -> dict[str, str]:
    """By command, the words after `python -m`; raises AssertionError with those that fail."""
    done = subprocess.run(
        [sys.executable, __file__, *commands], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def help_of(command: str) -> str:
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    module, *words = command.split()
    sys.argv = [module, *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, f"python -m {command} --help exits {end.code}"
    return out.getvalue()


if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # as `python -m` there has it
    given = sys.argv[1:]
    print(json.dumps({command: help_of(command) for command in given}))
