"""Results are made once of the same inputs, again of others, and kept where hours would be lost."""

import os
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from training.stage import begin, hold, inputs_path, is_made, stage
from vab_rt.errors import DataError, OptionError


class Settings(msgspec.Struct):
    width: int = 16
    more: dict = {}


@pytest.fixture
def made(tmp_path):
    """How often RESULT was made, and a stage that makes it, in a folder with start.pt."""
    (tmp_path / "start.pt").write_text("weights")
    times = []

    def run(result=tmp_path / "result.npz", **inputs):
        given = {"start": tmp_path / "start.pt", "clips": 6, "settings": Settings()} | inputs
        stage(result, lambda: times.append(result.write_text("made")), **given)
        return len(times)

    return run


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"clips": 7}, "clips"),
        ({"settings": Settings(width=32)}, "settings.width"),
        ({"settings": Settings(more={"a": {"b": 1}})}, "settings.more.a.b"),
        ({"new": 1}, "new"),
        ({"new": None}, None),
        ({"start": Path("nowhere")}, None),  # what was made of a file that is gone stays good
    ],
)
def test_other_settings_make_it_again_and_the_same_do_not(made, inputs, said, capsys):
    assert made() == made() == 1 and not capsys.readouterr().err
    assert made(**inputs) == made(**inputs) == (2 if said else 1)
    error = capsys.readouterr().err
    assert f"result.npz is made again: other {said}\n" in error if said else not error
    if said != "new":  # what is not given again is no difference, but in a table
        assert made() == made() == (3 if said else 1)


def test_files_count_by_what_they_hold(made, tmp_path):
    start, array = tmp_path / "start.pt", np.arange(4)
    assert made(array=array) == 1
    os.utime(start, (2e9, 2e9))
    assert made(array=array.copy()) == 1
    start.write_text("other weights")
    os.utime(start, (1, 1))
    assert made(array=array) == 2
    assert made(array=array[::-1]) == 3
    start.unlink()  # what was made of it stays good, and of the same again
    assert made() == 3
    start.write_text("other weights")
    assert made() == 3
    start.write_text("weights")
    assert made() == 4


def test_an_input_that_was_not_there_changes_a_result_when_it_comes(made, tmp_path):
    assert made(codec=tmp_path / "codec.pt") == 1
    (tmp_path / "codec.pt").write_text("trained since")
    assert made(codec=tmp_path / "codec.pt") == 2


def test_a_result_without_inputs_is_taken_unless_a_file_is_younger(made, tmp_path):
    result = tmp_path / "result.npz"
    result.write_text("of an earlier version")
    assert made() == 0 and inputs_path(result).exists()
    assert made(clips=7) == 1
    inputs_path(result).unlink()
    os.utime(tmp_path / "start.pt", (2e9, 2e9))
    assert not is_made(result, start=tmp_path / "start.pt") and made() == 2


def test_what_was_begun_goes_on_of_the_same_inputs_alone(tmp_path):
    rows, heard = tmp_path / "rows.partial", tmp_path / "heard"
    start = partial(begin, tmp_path / "rows", parts=[heard])
    start(clips=6)
    for folder in (rows, heard):
        folder.mkdir()
    start(clips=6)
    assert rows.exists() and heard.exists()
    start(clips=7)
    assert not rows.exists() and not heard.exists()


def test_an_interrupted_stage_is_made_of_the_inputs_it_was_begun_with(made, tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    made()
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "result.npz", interrupted, clips=7)
    assert not (tmp_path / "result.npz").exists() and made(clips=7) == 2


def test_hours_of_work_are_kept_from_other_inputs(tmp_path):
    weights = tmp_path / "vab.pt"
    hold(weights, start="a")
    hold(weights, start="b")  # nothing was made yet
    weights.touch()
    hold(weights, start="b")
    with pytest.raises(OptionError, match=r"vab\.pt was made of another start, .*delete it to beg"):
        hold(weights, start="a")
    assert weights.exists()
    inputs_path(weights).unlink()
    hold(weights, start="a")


def test_damaged_inputs_are_named(made, tmp_path):
    made()
    inputs_path(tmp_path / "result.npz").write_text("{")
    with pytest.raises(DataError, match=r"result\.npz\.inputs cannot be read .*delete it"):
        made()
