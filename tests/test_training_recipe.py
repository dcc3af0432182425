"""Recipes: every mistake in one is named, before anything is rendered."""

import pytest

pytest.importorskip("torch", reason="training needs torch")

from training.recipe import CONFIGS, read_recipe, run
from vab_rt.errors import BundleError, OptionError


@pytest.mark.parametrize("name", ["vab-encodec", "vab-dac", "vab-dac-test", "vab-dac-coarse2fine"])
def test_a_model_that_is_not_trained_here_is_refused_before_any_work(name, tmp_path):
    with pytest.raises(OptionError, match="expected spectral and vit-tiny-64"):
        run(read_recipe(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(OptionError, match="default, vab-dac"):
        read_recipe("defualt")


def test_an_unknown_key_is_named_with_its_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("clip_minuets = 3\n[model]\nname = 'x'\n")
    with pytest.raises(OptionError, match=r"mine\.toml.*clip_minuets"):
        read_recipe(str(path))


def test_a_model_that_cannot_be_is_refused(tmp_path):
    text = (CONFIGS / "default.toml").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("heads = 6", "heads = 7"))
    with pytest.raises((OptionError, BundleError), match="not a multiple of heads 7"):
        read_recipe(str(path))
