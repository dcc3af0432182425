"""Names of files that are no UTF-8: they reach JSON and the terminal as escapes."""

import argparse
import json
import os

import pytest

pytest.importorskip("torch", reason="training needs torch")

from recipes.train import hold_recipe
from training.command import run_command
from training.configs import read_recipe
from training.file_names import readable

NAME = os.fsdecode(b"clips-\xff")


def test_text_stays_and_other_bytes_are_escaped():
    assert readable("B\u00e4lle.mp4") == "B\u00e4lle.mp4"
    assert readable(NAME) == "clips-\\udcff"


def test_a_command_prints_such_a_name(capfd):
    run_command(lambda _: print(NAME), argparse.ArgumentParser(), [])
    assert capfd.readouterr().out == "clips-\\udcff\n"


def test_a_runs_folder_keeps_such_a_name(tmp_path):
    for _ in range(2):  # and finds it again
        hold_recipe(tmp_path / "run", read_recipe("default"), shards=NAME)
    assert json.loads((tmp_path / "run/recipe.json").read_text())["shards"] == "clips-\\udcff"
