"""Losses are kept: in a table beside the checkpoint, or by TensorBoard's own writer."""

import csv
import sys
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training import fitting
from training.curves import COLUMNS, Curves
from training.fitting import EMA, fit
from vab_rt.errors import OutputError

WRITER = "torch.utils.tensorboard"


@pytest.fixture
def no_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, WRITER, None)


def rows(folder):
    header, *found = csv.reader((folder / "losses.csv").open())
    assert tuple(header) == COLUMNS
    return [(stage, int(step), name, float(value)) for stage, step, name, value in found]


def test_without_tensorboard_losses_are_rows(no_tensorboard, tmp_path):
    Curves(tmp_path / "vab.pt").add(50, {"loss": 1.5, "accuracy": 0.25})
    Curves(tmp_path / "codec.pt").add(2**40, {"loss": -1.0})
    expected = [("vab", 50, "loss", 1.5), ("vab", 50, "accuracy", 0.25)]
    assert rows(tmp_path) == [*expected, ("codec", 2**40, "loss", -1.0)]


def test_with_tensorboard_its_writer_has_them_at_once(tmp_path, monkeypatch):
    events = []

    class Writer:
        def __init__(self, folder):
            events.append(folder)

        def add_scalar(self, *point):
            events.append(point)

        def flush(self):
            events.append("flushed")

    monkeypatch.setitem(sys.modules, WRITER, SimpleNamespace(SummaryWriter=Writer))
    curves = Curves(tmp_path / "vab.pt")
    assert events == [], "no file before there is a point"
    for step in (50, 100):
        curves.add(step, {"loss": 1.5})
    folder = tmp_path / "curves" / "vab"
    assert events == [folder, ("loss", 1.5, 50), "flushed", ("loss", 1.5, 100), "flushed"]
    assert not (tmp_path / "losses.csv").exists()


def test_tensorboard_reads_them(tmp_path):
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is absent"
    )
    Curves(tmp_path / "vab.pt").add(50, {"loss": 1.5})
    found = reader.EventAccumulator(str(tmp_path / "curves" / "vab")).Reload().Scalars("loss")
    assert [(point.step, point.value) for point in found] == [(50, 1.5)]


def test_a_stage_leaves_its_curves(no_tensorboard, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "REPORT_EVERY", 2)
    module = torch.nn.Linear(1, 1)
    parts = {"module": module, "average": EMA(module)}

    def run(steps):
        list(fit(tmp_path / "a.pt", parts, lambda i, p: {"loss": float(i)}, None, steps))
        return rows(tmp_path)

    first = run(3)
    assert first == [("a", 2, "loss", 0.5), ("a", 3, "loss", 2.0)]
    assert run(3) == first, "a stage that is done adds nothing"
    assert len(run(5)) > len(first)


@pytest.mark.parametrize("has_tensorboard", [False, True])
def test_a_place_that_cannot_be_written_is_named(has_tensorboard, tmp_path, monkeypatch):
    def writer(folder):
        folder.mkdir(parents=True)

    writers = SimpleNamespace(SummaryWriter=writer) if has_tensorboard else None
    monkeypatch.setitem(sys.modules, WRITER, writers)
    name = "curves" if has_tensorboard else "losses.csv"
    place = tmp_path / name
    place.write_text("in the way") if has_tensorboard else place.mkdir()
    with pytest.raises(OutputError, match=f"{name}.* could not be written"):
        Curves(tmp_path / "a.pt").add(1, {"loss": 1.0})
