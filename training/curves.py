"""Losses of a stage over its steps, for TensorBoard where it is installed, else as a CSV."""

import csv
from functools import cached_property
from pathlib import Path
from typing import Any

from vab_rt.output import writing

COLUMNS = ("stage", "step", "loss", "value")


class Curves:
    """The losses of the stage that this process trains into `checkpoint`.

    With `pip install tensorboard` event files in curves/STAGE, else rows of losses.csv.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.stage = checkpoint.stem
        self.table = checkpoint.with_name("losses.csv")
        self.events = checkpoint.parent / "curves" / self.stage

    @cached_property
    def _writer(self) -> Any | None:  # opened with the first losses, as that makes a file
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return SummaryWriter(self.events)

    def add(self, step: int, losses: dict[str, float]) -> None:
        """The losses after `step` steps. Raises OutputError."""
        with writing(self.events):
            if self._writer is not None:
                for name, value in losses.items():
                    self._writer.add_scalar(name, value, step)
                self._writer.flush()
                return
        with writing(self.table), self.table.open("a", newline="") as file:
            rows = csv.writer(file)
            if file.tell() == 0:
                rows.writerow(COLUMNS)
            rows.writerows((self.stage, step, name, value) for name, value in losses.items())
