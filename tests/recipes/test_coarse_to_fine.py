"""The recipe of two transformers: one codec of all levels, both models, one bundle, its rows."""

import json
import os

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
from checkpoints import RECIPE_MODEL, tiny_checkpoint, tiny_config
from weight_files import recipe_file

from recipes import coarse_to_fine
from recipes.coarse_to_fine import first_codebooks
from recipes.encoders import visual_parts_of
from recipes.train import main
from training.checkpoint import read_checkpoint
from training.codecs.codec import build_codec, load_codebooks
from training.configs import read_recipe
from training.datasets.clips import TokenisedClips
from training.evaluation.generation import FINE_STEPS
from training.model import VAB
from vab_rt.bundle import open_bundle
from vab_rt.errors import BundleError, OptionError

MODEL = f"{RECIPE_MODEL}layers = 1\nexpert_layers = 0\n"
TINY = f"""
rendered_clips = 3
clips = 4
validation_clips = 2
evaluated_clips = 2
codec_minutes = 0.02
clip_minutes = 0.02
[model]
name = "tiny-coarse"
{MODEL}
[fine]
name = "tiny-fine"
num_codebooks = 12
given_codebooks = 4
{MODEL}
[codec]
decoder_width = 16
decoder_blocks = 1
least_codebooks = 4
[codec_training]
batch = 2
[pretrain]
batch = 2
epochs = 1
warm_up = 0.03
[fine_pretrain]
batch = 2
epochs = 2
warm_up = 0.03
"""
IMAGES = {"image_size": 32, "visual_dim": 8, "num_codebooks": 1, "codebook_size": 5}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a whole run with the image encoder of another."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "tiny.toml").write_text(TINY)
    torch.save(tiny_checkpoint(tiny_config(**IMAGES)), folder / "images.pt")
    again(folder)
    return folder


def again(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        words = ["--out", str(folder / "run"), "--image-encoder", str(folder / "images.pt")]
        main([str(folder / "tiny.toml"), *words])


@pytest.mark.slow
def test_one_command_makes_both_models_and_their_bundle(finished):
    run = finished / "run"
    manifest = open_bundle(str(run / "bundle")).manifest
    assert (manifest.model.name, manifest.fine.name) == ("tiny-coarse", "tiny-fine")
    coarse, fine = read_checkpoint(run / "ckpt.pt"), read_checkpoint(run / "fine" / "ckpt.pt")
    assert coarse.header.provenance["pretraining_steps"] == "2"  # 1 epoch of 4 clips by 2
    assert fine.header.provenance["pretraining_steps"] == "4"
    codebooks = fine.codec().codebooks
    assert codebooks.shape == (12, 9, 288) and torch.equal(coarse.codec().codebooks, codebooks[:4])
    given = read_checkpoint(finished / "images.pt").image_encoder().state_dict()
    for model in (coarse, fine):
        found = model.image_encoder().state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in given.items())
        start = run / ("start.pt" if model is coarse else "fine/start.pt")
        before = read_checkpoint(start).vab()
        assert not torch.equal(before.heads.weight, model.vab().heads.weight)
    assert TokenisedClips.load(run / "train.npz").tokens.shape == (4, 12, 500)
    assert not (run / "clip.pt").exists() and not (run / "world").exists()


@pytest.mark.slow
def test_the_rows_of_tables_1_and_15_come_out_of_it(finished):
    result = json.loads((finished / "run" / "evaluation-generation.json").read_text())
    steps = [f"coarse_to_fine_{steps}" for steps in FINE_STEPS]
    assert {"ground_truth", "reconstruction", "shuffled", *steps} <= set(result["bounds"])
    for row in (result, *(result["bounds"][name] for name in ("reconstruction", *steps))):
        assert {"fad", "kld", "class_agreement", "onset_f1_100ms"} <= set(row)
    rows = [result["bounds"][name]["fad"] for name in ("reconstruction", *steps)] + [result["fad"]]
    assert len(set(rows)) == 4, "each is a sound of its own"
    assert result["generate_s"] > 0


@pytest.mark.slow
def test_a_second_run_finds_its_stages_done(finished, monkeypatch):
    run = finished / "run"
    made = {path: path.stat().st_mtime_ns for path in run.rglob("*.pt")}
    assert {str(path.relative_to(run)) for path in made} == {
        *("codec.pt", "start.pt", "vab.pt", "ckpt.pt"),
        *("fine/start.pt", "fine/vab.pt", "fine/ckpt.pt"),
    }
    exported = []
    monkeypatch.setattr(coarse_to_fine, "export", lambda *paths: exported.append(paths))
    monkeypatch.setattr(coarse_to_fine, "evaluate_bundle", lambda *_: None)
    again(finished)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.pt")} == made
    assert exported == [(run / "ckpt.pt", run / "bundle", run / "fine" / "ckpt.pt")]


def test_the_recipe_of_the_small_system_is_a_pair():
    recipe = read_recipe("vab-dac-small")
    assert recipe.fine is not None and recipe.codec_model is recipe.fine
    assert (recipe.model.num_codebooks, recipe.fine.num_codebooks) == (4, 12)
    assert recipe.codec["least_codebooks"] == recipe.fine.given_codebooks == 4
    build_codec(recipe.fine, recipe.codec)
    less = recipe.with_minutes(46)
    assert less.pretrain_minutes + less.fine_minutes == pytest.approx(46)
    share = recipe.fine_minutes / recipe.pretrain_minutes
    assert less.fine_minutes / less.pretrain_minutes == pytest.approx(share)


def test_a_recipe_of_models_that_do_not_belong_together_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TINY.replace("given_codebooks = 4", "given_codebooks = 3"))
    with pytest.raises((BundleError, OptionError), match="goes on from 3 codebooks, expected 4"):
        read_recipe(str(path))


def test_the_coarse_model_reads_the_first_codebooks():
    clips = TokenisedClips(
        tokens=np.arange(24, dtype=np.int16).reshape(1, 12, 2),
        features=np.zeros((1, 2, 3), np.float16),
        labels=np.zeros((1, 0), np.float32),
    )
    coarse = first_codebooks(clips, 4)
    assert coarse.tokens.tolist() == clips.tokens[:, :4].tolist()
    assert coarse.features is clips.features


@pytest.mark.parametrize("codec", [{}, {"codec": "dac", "code_dim": 8, "codebook_size": 32}])
def test_a_codec_of_fewer_codebooks_takes_the_first_of_a_larger_one(codec):
    if codec:
        pytest.importorskip("transformers", reason="not installed: pip install 'vab-rt[export]'")
    whole = tiny_checkpoint(tiny_config(num_codebooks=6, **codec))
    config = tiny_config(num_codebooks=2, **codec)
    part = build_codec(config, whole["codec_settings"])
    load_codebooks(part, whole["codec"])
    audio = 0.1 * torch.randn(1, config.num_samples)
    full = build_codec(tiny_config(num_codebooks=6, **codec), whole["codec_settings"])
    full.load_state_dict(whole["codec"])
    with torch.no_grad():
        tokens = full.eval().encode(audio)
        assert torch.equal(part.eval().encode(audio), tokens[:, :2])
        assert torch.equal(part.decode(tokens[:, :2]), full.decode(tokens[:, :2]))


def test_visual_parts_of_other_sizes_are_refused(tmp_path):
    torch.save(tiny_checkpoint(tiny_config(**IMAGES)), tmp_path / "images.pt")
    config = read_recipe("vab-dac-small").model
    with pytest.raises(OptionError, match="has image_size 32, expected 64 as the model vab-dac-"):
        visual_parts_of(tmp_path / "images.pt", config)


def test_on_shards_a_fine_model_is_trained_and_waits_for_its_coarse_one(
    tmp_path, monkeypatch, capsys
):
    """As the presets are: one checkpoint and one folder of shards each, then one bundle."""
    config = tiny_config(num_codebooks=3, given_codebooks=2)
    torch.save(tiny_checkpoint(config), tmp_path / "start.pt")
    random = np.random.default_rng(0)
    clips = TokenisedClips(
        tokens=random.integers(37, size=(4, 3, 100), dtype=np.int16),
        features=np.zeros((4, config.num_frames, config.visual_dim), np.float16),
        labels=np.zeros((4, 2), np.float32),
    )
    monkeypatch.setattr("recipes.vab.open_shards", lambda *_: clips)
    for stage in ("finetune", "export", "describe"):
        monkeypatch.setattr(f"recipes.vab.{stage}", None)
    path = recipe_file(tmp_path / "fine.toml", config)
    path.write_text(path.read_text() + "[pretrain]\nbatch = 2\nepochs = 1\nwarm_up = 0.03\n")
    words = ["--start", tmp_path / "start.pt", "--shards", tmp_path, "--out", tmp_path / "run"]
    main([str(path), *map(str, words)])
    checkpoint = tmp_path / "run" / "ckpt.pt"
    assert f"next: python -m export.build_engines COARSE.pt --fine {checkpoint}" in (
        capsys.readouterr().out
    )
    provenance = read_checkpoint(checkpoint).header.provenance
    assert provenance["transformer_data"] == "4 clips of 2 s of the user's own"
    before, after = (read_checkpoint(p).vab() for p in (tmp_path / "start.pt", checkpoint))
    assert not torch.equal(before.heads.weight, after.heads.weight)


def test_options_that_do_not_go_together_are_refused(tmp_path, refused):
    shards = ["--start", "x.pt", "--shards", "y", "--out", tmp_path / "run"]
    for words, said in (
        (["vab-dac-small", *shards], "a recipe of two transformers is for FoleyWorld"),
        (["default", *shards, "--image-encoder", "z.pt"], "--image-encoder is for FoleyWorld"),
    ):
        assert said in refused(main, *words)


def test_the_published_fine_model_has_the_sizes_of_table_7():
    """16 layers of 1280 without experts, 20 heads, 12 levels in, 8 out; on no memory at all."""
    recipe = read_recipe("vab-dac-coarse2fine")
    with torch.device("meta"):
        vab = VAB(recipe.model)
    in_layers = sum(p.numel() for p in vab.layers.parameters())
    matrices = 16 * (4 + 2 * 4) * 1280**2
    assert in_layers == matrices + 16 * 2 * 1280  # and the gains of two norms a layer
    assert vab.codebooks.shape == (12, 1024, 8)
    assert vab.heads.weight.shape == (8 * 1024, 1280) and vab.layers[0].num_heads == 20
    assert all(layer.visual is None for layer in vab.layers)
    coarse = read_recipe("vab-dac").model
    both = msgspec.structs.replace(recipe, model=coarse, fine=recipe.model)
    assert both.codec_model.given_codebooks == coarse.num_codebooks == 4
