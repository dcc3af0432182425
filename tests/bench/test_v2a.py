"""The bench of a V2A-Mapper: how often each graph runs in a clip, and what is not timed."""

import pytest
from tiny_v2a import make_v2a_bundle
from v2a_checkpoints import write_tiny_v2a

from bench import generate, v2a_mapper
from bench.roofline import Roofline
from bench.v2a_mapper import calls_of_clip, main, measure_graphs, write_random
from training.v2a_mapper.checkpoint import read_v2a_checkpoint
from training.v2a_mapper.config import read_v2a_recipe
from training.v2a_mapper.engines import open_system
from vab_rt.errors import OptionError, VabError
from vab_rt.v2a_mapper.config import LatentOptions, V2AConfig

pytest.importorskip("diffusers", reason="pip install diffusers")

PAPER = {"name": "x", "image_encoder": "y", "image_size": 224, "visual_dim": 512}
OPTIONS = LatentOptions(steps=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return read_v2a_checkpoint(write_tiny_v2a(tmp_path_factory.mktemp("bench") / "c.pt"))


@pytest.fixture(scope="module")
def engines(checkpoint):
    return open_system(checkpoint).engines.graphs


@pytest.mark.parametrize(
    ("changes", "mapper"),
    [
        ({}, (63, 1)),
        ({"mapper_guidance": 2.0}, (63, 2)),
        ({"mapper": "regression", "mapper_guidance": 2.0}, (1, 1)),
    ],
)
def test_calls_are_those_of_one_clip(changes, mapper):
    calls = calls_of_clip(V2AConfig(**PAPER, **changes), LatentOptions())
    assert calls["visual_encoder"] == (1, 10)
    assert calls["mapper"] == mapper
    assert calls["unet"] == (10, 2)
    assert calls_of_clip(V2AConfig(**PAPER), LatentOptions(guidance=1))["unet"] == (10, 1)


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch):
    """Measuring them takes seconds."""
    monkeypatch.setattr(v2a_mapper, "measure_roofline", lambda: Roofline(1e12, 1e10))


def test_stages_add_up_to_the_clip(checkpoint, engines, capsys):
    figures = measure_graphs(checkpoint, iter(engines.items()), OPTIONS, repeats=1)
    assert {*figures["stages"]} == {*calls_of_clip(checkpoint.config, OPTIONS)}
    for side in ("ours", "torch", "ceiling"):
        total = sum(stage[f"{side}_s"] for stage in figures["stages"].values())
        assert figures["clip_s"][side] == pytest.approx(total)
    unet = figures["stages"]["unet"]
    assert (unet["calls"], unet["rows"]) == (3, 2)
    assert 0 < unet["ceiling_s"] < unet["ours_s"]
    assert "a clip of 1 s, 3 steps, guidance 2.5" in capsys.readouterr().out


def test_a_graph_that_differs_is_not_timed(checkpoint, engines):
    def louder(**inputs):
        return 1.01 * engines["vocoder"](**inputs)

    with pytest.raises(SystemExit, match="not timed: vocoder differs from torch by 1.0e-02"):
        measure_graphs(checkpoint, iter([("vocoder", louder)]), OPTIONS, repeats=1)


def test_random_weights_of_a_recipe_are_a_checkpoint(tmp_path):
    recipe = read_v2a_recipe("v2a-mapper")
    write_random(tmp_path / "c.pt", recipe)
    assert read_v2a_checkpoint(tmp_path / "c.pt").config == recipe.model


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--repeats", "0"], "repeats is 0, expected at least 1"),
        (["--config", "v2a-mapper", "--steps", "1000"], "steps is 1000, expected 1 to 999"),
        (["--config", "v2a-mapper", "--steps", "0"], "steps is 0, expected"),
        (["--config", "none-such"], "no recipe 'none-such'; expected"),
        (["--checkpoint", "missing.pt"], "missing.pt is not a file, expected"),
    ],
)
def test_mistakes_are_told_before_any_work(monkeypatch, words, message):
    monkeypatch.setattr(v2a_mapper, "print_facts", None)
    with pytest.raises(VabError, match=message):
        main(words)


def test_the_bench_of_vab_sends_others_here(tmp_path):
    folder = make_v2a_bundle(tmp_path / "b")
    with pytest.raises(OptionError, match="is a v2a-mapper, expected a vab.* bench v2a_mapper"):
        generate.measure_command(
            generate.Command(tmp_path / "x.mp4", str(folder), tmp_path), 1, False
        )
