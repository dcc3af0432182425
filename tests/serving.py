"""`vab-rt serve` as a process of its own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command import command, with_usual_signals


@contextmanager
def running(
    bundle: Path, home: Path, *words: object, **more: Any
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address and its process. home: where its temporary files lie. more: of Popen's."""
    home.mkdir(exist_ok=True)
    whole = command("serve", "--port", 0, "--model", bundle, "--threads", 1, *words)
    environment = {**os.environ, "TMPDIR": str(home)}
    process = subprocess.Popen(
        with_usual_signals(whole), stdout=subprocess.PIPE, text=True, env=environment, **more
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line
        yield line.split(": ")[0], process
    finally:
        process.kill()
        process.communicate()
