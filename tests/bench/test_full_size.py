"""The pair that `bench full_size` makes of random weights is one that the exporter takes."""

import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from checkpoints import SETTINGS, tiny_config

from bench import full_size
from export.modules import FineBackbone
from export.vab_bundle import Models
from export.verify import fixed_inputs, run_torch
from training.checkpoint import read_checkpoint
from training.configs import Recipe

FINE = tiny_config(name="fine", num_codebooks=6, given_codebooks=3)
RECIPES = {
    config.name: Recipe(model=config, codec=SETTINGS["spectral"])
    for config in (tiny_config(name="coarse"), FINE)
}


@pytest.fixture
def models(monkeypatch):
    monkeypatch.setattr(full_size, "read_recipe", RECIPES.get)
    return full_size.random_models(("coarse", "fine"))


def test_random_models_belong_together(models, tmp_path):
    paths = [model.save(tmp_path / f"{model.config.name}.pt") for model in models]
    assert [path.stem for path in paths] == ["coarse", "fine"]
    Models(*map(read_checkpoint, paths)).check()


def test_the_models_and_their_graphs_take_the_same_inputs(models):
    fine = models[1].vab
    inputs = fixed_inputs("fine_backbone", FINE, 2)
    ours, graph = full_size.of_contract("fine_backbone", fine), FineBackbone(fine)
    torch.testing.assert_close(*(torch.from_numpy(run_torch(m, inputs)) for m in (ours, graph)))


def test_every_system_has_its_recipes():
    for recipes in full_size.SYSTEMS.values():
        configs = [full_size.read_recipe(name).model for name in recipes]
        assert configs[0].given_codebooks == 0
        assert [c.given_codebooks for c in configs[1:]] == [c.num_codebooks for c in configs[:-1]]
        assert len({config.codec for config in configs}) == 1
