"""Stages of a recipe that find what they need in its folder, or ask for more."""

import os

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import save_average, tiny_checkpoint, tiny_config

from recipes import encoders, results, transformer, v2a_mapper
from training.checkpoint import MOTION, read_checkpoint
from training.configs import Recipe
from training.pretrain import PretrainSettings, finish
from training.stage import hold
from training.v2a_mapper.config import read_v2a_recipe
from training.visual_encoder import MotionEncoder
from vab_rt.bundle import open_bundle
from vab_rt.errors import OptionError
from vab_rt.options import TokenOptions, Tuning

WORLD = {"clip_s": 10.0, "layers": 1, "expert_layers": 1}
CONFIG = tiny_config(**WORLD)
RECIPE = Recipe(model=CONFIG)
TWO_STREAMS = tiny_config(**WORLD, image_size=32, motion_dim=8, motion_reach=MotionEncoder.REACH)


class Rendered(Exception):
    pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What was copied to a machine that is to pre-train alone; rendering raises Rendered."""

    def render(*_):
        raise Rendered

    monkeypatch.setattr(encoders, "rendered_clips", render)
    torch.save(tiny_checkpoint(CONFIG), tmp_path / "start.pt")
    return tmp_path


def test_start_alone_is_enough_to_go_on_from(folder):
    visual = encoders.train_encoders(RECIPE, folder)
    found, expected = visual["image_encoder"].state_dict(), tiny_checkpoint(CONFIG)["image_encoder"]
    assert all(torch.equal(x, expected[name]) for name, x in found.items())
    before = (folder / "start.pt").stat().st_mtime_ns
    path = encoders.write_start(folder / "start.pt", RECIPE, CONFIG, visual, folder / "codec.pt")
    assert path.stat().st_mtime_ns == before


def test_start_alone_is_enough_for_both_streams(folder):
    torch.save(tiny_checkpoint(TWO_STREAMS), folder / "start.pt")
    visual = encoders.train_encoders(Recipe(model=TWO_STREAMS), folder)
    assert list(visual) == ["image_encoder", MOTION]
    found, expected = visual[MOTION].state_dict(), tiny_checkpoint(TWO_STREAMS)[MOTION]
    assert all(torch.equal(x, expected[name]) for name, x in found.items())


@pytest.mark.parametrize("stage", ["codec", "clip", "motion"])
def test_encoders_trained_since_are_taken(stage, folder):
    (folder / f"{stage}.pt").touch()
    os.utime(folder / "start.pt", (1, 1))
    with pytest.raises(Rendered):
        encoders.train_encoders(RECIPE, folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"visual_dim": 32}, "has visual_dim 24, expected 32"),
        ({"motion_dim": 8}, "has motion_dim 0, expected 8"),
    ],
)
def test_a_start_of_other_encoders_is_refused(changes, said, folder):
    other = Recipe(model=tiny_config(**(WORLD | changes)))
    with pytest.raises(OptionError, match=said):
        encoders.train_encoders(other, folder)


def test_other_options_are_written_into_checkpoints_of_v2a_mapper(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(v2a_mapper, "write_one", lambda path, *_: [made.append(path), path.touch()])
    recipe = read_v2a_recipe("v2a-mapper")
    for options in (Tuning(), Tuning(), Tuning(steps=8), Tuning()):
        other = msgspec.structs.replace(recipe, options=options)
        v2a_mapper.write_checkpoints(other, tmp_path, tmp_path / "clip.pt", None)
    assert len(made) == 3 * len(v2a_mapper.MAPPERS)


def test_other_options_are_written_into_a_checkpoint_and_its_bundle(folder):
    """Nothing is trained again, and nothing exported of the same."""
    start, bundle, made = read_checkpoint(folder / "start.pt"), folder / "bundle", []
    save_average(folder / "vab.pt", start.vab())
    for options in (Tuning(), Tuning(), Tuning(steps=8)):
        finish(folder / "ckpt.pt", start, CONFIG, folder / "vab.pt", options)
        results.export(folder / "ckpt.pt", bundle)
        made.append([x.stat().st_mtime_ns for x in (folder / "ckpt.pt", bundle / "vab.json")])
    assert made[0] == made[1] and not set(made[1]) & set(made[2])
    assert read_checkpoint(folder / "ckpt.pt").header.options == Tuning(steps=8)
    assert open_bundle(str(bundle)).manifest.defaults == TokenOptions(steps=8)
    expected = tiny_checkpoint(CONFIG)["vab"]
    found = read_checkpoint(folder / "ckpt.pt").vab().state_dict()
    assert all(torch.equal(x, found[name]) for name, x in expected.items())


def test_a_transformer_is_not_mixed_with_tokens_of_other_encoders(folder):
    start = read_checkpoint(folder / "start.pt")
    hold(folder / "vab.pt", start=start.path)
    save_average(folder / "vab.pt", start.vab())
    torch.save(tiny_checkpoint(TWO_STREAMS), folder / "start.pt")
    with pytest.raises(OptionError, match=r"vab\.pt was made of another start"):
        transformer.train_model(folder, start, None, None, PretrainSettings(), 1, Tuning())
