"""The command `vab-rt`, run in this process."""

import sys
import warnings
from typing import NamedTuple

import pytest

from vab_rt.cli import main


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
