"""`vab-rt serve` as a process of its own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from command import command


@contextmanager
def running(
    bundle: Path, home: Path, *words: object
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address and its process. home: where its temporary files lie."""
    home.mkdir(exist_ok=True)
    whole = command("serve", "--port", 0, "--model", bundle, "--threads", 1, *words)
    process = subprocess.Popen(
        whole, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(home)}
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line
        yield line.split(": ")[0], process
    finally:
        process.kill()
        process.communicate()
