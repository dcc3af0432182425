"""A model of your own kinds: folders in, a bundle that generates out."""

import json
import os
import tomllib

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from media import make_video
from real_folders import clicks, write_folders, write_picture, write_sound
from toml_files import toml_of

import vab_rt
from recipes.real_data import Folders, material_of, read_data
from recipes.train import main
from training.checkpoint import read_checkpoint
from training.configs import CONFIGS, read_recipe
from training.datasets.material import AMBIENCE
from training.datasets.pair_clips import read_pairs
from training.datasets.pair_scenes import draw_views
from training.extract import main as extract
from vab_rt.audio import Audio
from vab_rt.errors import DataError

SMALL = {
    "rendered_clips": 2, "clips": 6, "validation_clips": 2, "evaluated_clips": 2,
    "codec_minutes": 0.02, "motion_minutes": 0.02, "pretrain_minutes": None,
    "model": {
        "name": "mine", "visual_dim": 12, "motion_dim": 8, "motion_size": 32, "num_codebooks": 2,
        "codebook_size": 9, "code_dim": 16, "width": 16, "layers": 2, "expert_layers": 1,
        "heads": 2,
    },
    "codec": {
        "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1,
        "least_codebooks": 1,
    },
    "codec_training": {"batch": 2, "fit_clips": 4},
    "motion": {"batch": 2},
    "pretrain": {"batch": 2, "epochs": 1, "validate_every": 1},
}  # fmt: skip
"""What makes the shipped recipe one of seconds; its rate, codec and decoding stay."""
OF_THE_CARD = ("README.md", "vab.json")  # written again, the same


def write_recipe(folder):
    facts = tomllib.loads((CONFIGS / "real.toml").read_text())
    for key, value in SMALL.items():
        facts[key] = facts.get(key, {}) | value if isinstance(value, dict) else value
    (folder / "mine.toml").write_text(toml_of(facts))


def command(folder, *more):
    words = ["--sounds", folder / "sounds", "--pictures", folder / "pictures", *more]
    return [str(word) for word in (folder / "mine.toml", "--out", folder / "run", *words)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)  # processes would take longer to begin
        yield made(tmp_path_factory)


def made(tmp_path_factory):
    folder = write_folders(tmp_path_factory.mktemp("real"))
    write_recipe(folder)
    main(command(folder))
    return folder


@pytest.mark.slow
def test_one_command_makes_a_bundle_that_knows_the_folders_names(trained, tmp_path):
    run = trained / "run"
    kinds = ("hiss", "hum", "tick", AMBIENCE)
    config = read_checkpoint(run / "ckpt.pt").config
    assert config.kinds == kinds and config.visual_dim == 12 + len(kinds)
    assert len(read_pairs(run / "pairs")) == 8
    pipeline = vab_rt.load(str(run / "bundle"))
    make_video(tmp_path / "in.mp4", num_frames=50)
    audio = pipeline.generate(tmp_path / "in.mp4")
    assert np.isfinite(audio.samples).all() and len(audio.samples) > 16_000
    told = pipeline.generate(tmp_path / "in.mp4", kinds=("tick",))
    assert len(told.samples) == len(audio.samples)
    assert json.loads((run / "evaluation-generation.json").read_text())["clips"] == 2


@pytest.mark.slow
def test_it_learns_from_videos_of_the_users_own_too(trained, tmp_path):
    recipe, start, shards = (trained / name for name in ("mine.toml", "run/start.pt", "shards"))
    silent = make_video(tmp_path / "silent.mp4", num_frames=50)
    (tmp_path / "videos").mkdir()
    Audio(clicks(np.random.default_rng(0)), 16_000).save(tmp_path / "videos/a.mp4", video=silent)
    words = ["--media", tmp_path / "videos", "--config", recipe, "--ckpt", start, "--out", shards]
    extract([str(word) for word in words])
    words = [recipe, "--start", start, "--shards", shards, "--out", tmp_path / "run"]
    main([str(word) for word in words])
    assert vab_rt.load(str(tmp_path / "run" / "bundle")).config.kinds[0] == "hiss"


@pytest.mark.slow
def test_the_same_command_goes_on_and_makes_nothing_again(trained):
    files = [path for path in (trained / "run").rglob("*") if path.is_file()]
    files = [path for path in files if path.name not in OF_THE_CARD]
    before = {path: path.stat().st_mtime_ns for path in files}
    main(command(trained))
    after = {path: path.stat().st_mtime_ns for path in files}
    changed = [path.name for path in files if before[path] != after[path]]
    assert changed == []


@pytest.mark.slow
def test_of_other_recordings_every_encoder_is_made_again(trained, capsys, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    run = trained / "run"
    files = [run / f"{name}.pt" for name in ("kinds", "motion", "codec", "start")]
    before = {path: path.stat().st_mtime_ns for path in files}
    random = np.random.default_rng(9)
    write_sound(trained / "sounds" / "tick" / "new.wav", clicks(random, (0.3, 0.9)))
    write_picture(trained / "pictures" / "tick" / "new.png", (200, 60, 20))
    with pytest.raises(SystemExit):
        main(command(trained))
    assert (
        "vab.pt was made of another start, expected the same; delete it" in capsys.readouterr().err
    )
    assert [path.name for path in files if path.stat().st_mtime_ns == before[path]] == []


def test_a_kind_without_a_usable_recording_is_none(tmp_path, capsys):
    model = read_recipe("real").model
    folders = Folders(tmp_path / "sounds", tmp_path / "pictures", tmp_path / "kinds.csv")
    write_folders(tmp_path, 1)
    (folders.sounds / "hiss" / "0.wav").write_bytes(b"")
    folders.table.write_text("imagenet_index,kind\n7,hum\n8,bell\n9,hiss\n")
    data = read_data(tmp_path, model, folders)
    assert data.config.kinds == ("hum", "tick", AMBIENCE)
    told = capsys.readouterr().err
    assert "hiss/0.wav" in told and "kinds.csv names kinds that are not heard: bell, hiss" in told
    views = draw_views(20, material_of(tmp_path, data, "train"), 64)
    assert {kind for _, kind in views} == {"tick", AMBIENCE}
    folders.table.write_text("")
    with pytest.raises(DataError, match="no rows"):  # before anything is made
        read_data(tmp_path / "other", model, folders)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--start", "x.pt", "--shards", "y"], "--sounds makes all encoders itself"),
        (["--image-encoder", "x.pt"], "--sounds makes all encoders itself"),
    ],
)
def test_options_that_do_not_go_together_are_refused(more, message, tmp_path, refused):
    write_folders(tmp_path, 1)
    write_recipe(tmp_path)
    assert message in refused(main, *command(tmp_path, *more))
    words = "real", "--sounds", tmp_path / "sounds", "--out", tmp_path / "run"
    assert "--sounds and --pictures go together" in refused(main, *words)
    assert "expected efficientnet-lite0" in refused(main, "default", *command(tmp_path)[1:])
