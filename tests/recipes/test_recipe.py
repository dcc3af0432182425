"""Recipes: mistakes are named before anything is rendered, and one command makes everything."""

import json
import os
import re
import shutil

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import RECIPE_MODEL, saved_checkpoint, tiny_config

from recipes.train import hold_recipe, main
from recipes.vab import evaluate_finetuned, finetune, run, run_on_shards
from training.checkpoint import read_checkpoint
from training.configs import CONFIGS, read_recipe
from training.datasets.clips import TokenisedClips
from training.stage import is_made
from training.v2a_mapper.config import is_v2a_recipe, read_v2a_recipe
from vab_rt.bundle import open_bundle
from vab_rt.card import read_card
from vab_rt.errors import DataError, OptionError
from vab_rt.options import Tuning

IMPORT = "python -m export.import_weights"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("vab-encodec", IMPORT),
        ("vab-dac", IMPORT),
        ("vab-dac-test", IMPORT),
        ("vab-dac-coarse2fine", IMPORT),
        ("real", "with --sounds DIR --pictures DIR"),
    ],
)
def test_a_model_that_is_not_trained_here_is_refused_before_any_work(name, advice, tmp_path):
    with pytest.raises(OptionError, match=f"expected spectral and resnet-tiny-64.*{advice}"):
        run(read_recipe(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_rate_than_foleyworlds_is_refused_before_any_work(tmp_path):
    recipe = read_recipe("default")
    model = msgspec.structs.replace(recipe.model, sample_rate_hz=32_000, hop_samples=640)
    with pytest.raises(OptionError, match="makes 10 s at 32000 Hz, expected the clips of Foley"):
        run(msgspec.structs.replace(recipe, model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


TINY = f"""
rendered_clips = 4
clips = 6
validation_clips = 2
evaluated_clips = 4
codec_minutes = 0.02
clip_minutes = 0.02
contrastive_minutes = 0.01
classification_minutes = 0.01
distill_minutes = 0.02
[model]
name = "tiny"
layers = 2
expert_layers = 1
{RECIPE_MODEL}
[codec]
decoder_width = 16
decoder_blocks = 1
[codec_training]
batch = 2
[pretrain]
batch = 2
epochs = 1
warm_up = 0.03
validate_every = 1
[distill]
batch = 2
max_guidance = 3
[contrastive]
batch = 2
warm_up = 0.03
[classification]
batch = 2
"""


def of(name, options):
    """A recipe of training/configs with other options."""
    text = re.sub(r"\[options\].*\n(\w+ = .*\n)*", "", (CONFIGS / f"{name}.toml").read_text())
    return f"{text}\n[options]\n{options}\n".encode()


MODEL = b"\n" + TINY[TINY.index("[model]") :].encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[model]\nname = '\xff'\n", "utf-8"),
        (b"[model\n", "line 1"),
        (b"clip_minuets = 3\n[model]\nname = 'x'\n", "clip_minuets"),
        (MODEL.replace(b"heads = 2", b"heads = 7"), "not a multiple of heads 7"),
        (b"[contrastive]\nbatch = 1\n[model]\nname = 'x'\n", "batch is 1, expected at least 2"),
        (b"[networks]\n[model]\nname = 'x'\n", "of a V2A-Mapper, expected one of VAB"),
        (b"clips = 0" + MODEL, "clips is 0, expected at least 1"),
        (b"evaluated_clips = 1" + MODEL, "evaluated_clips is 1, expected at least 2"),
        (b"codec_minutes = -3" + MODEL, "codec_minutes is -3, expected more than 0"),
        (b"pretrain_minutes = inf" + MODEL, "pretrain_minutes is inf, expected more than 0"),
        (
            b"fine_minutes = 1\n[fine_pretrain]\nwarm_up = 9\n" + MODEL,
            "fine_pretrain warm_up is 9 and minutes are its budget",
        ),
        (
            b"distill_minutes = 1\n[options]\nguidance = 5" + MODEL,
            "guidance 5, expected 1 to its student's max_guidance, 3; raise that",
        ),
        (
            b"distill_minutes = 1\n" + of("vab-dac-small", "steps = 8"),
            "distill_minutes is 1, expected none in a recipe of two transformers",
        ),
        (
            b"distill_minutes = 1" + MODEL.replace(b"max_guidance = 3", b"warm_up = 9"),
            "distill warm_up is 9",
        ),
        (of("default", "fine_steps = 36"), "fine_steps is 36, which vab-tiny has no use for"),
        (of("default", "guidence = 2"), "guidence"),
        (of("default", "steps = 0"), "steps is 0, expected 1 to 1024"),
        (
            of("vab-dac-coarse2fine", "guidance = 2"),
            "options has guidance, expected fine_steps alone",
        ),
    ],
)
def test_a_mistake_in_a_recipe_is_named_with_its_file(content, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(OptionError, match=rf"mine\.toml: .*{message}"):
        read_recipe(str(path))


@pytest.mark.parametrize(
    ("name", "read"), [("default", read_recipe), ("v2a-mapper", read_v2a_recipe)]
)
def test_the_old_name_of_a_key_is_read(name, read, tmp_path):
    path = tmp_path / f"{name}.toml"
    path.write_text('licence = "MIT"\n' + (CONFIGS / f"{name}.toml").read_text())
    assert read(str(path)).license == "MIT"


def test_an_unknown_recipe_lists_the_known_ones():
    with pytest.raises(OptionError, match="default, real, vab-dac"):
        read_recipe("defualt")


@pytest.mark.parametrize(
    ("name", "mask_temperature"),
    [
        ("vab-encodec", 25.5),
        ("vab-dac", 10.5),
        ("vab-dac-test", 10.5),
        ("vab-dac-test-mae", 10.5),
    ],
)
def test_presets_of_the_paper_are_decoded_as_the_paper_does(name, mask_temperature):
    recipe = read_recipe(name)
    expected = {"steps": 16, "guidance": 5, "temperature": 1, "top_k": 0}
    found = recipe.options_of(recipe.model).named()
    assert found == expected | {"mask_temperature": mask_temperature}
    fine = read_recipe("vab-dac-coarse2fine")
    assert fine.options_of(fine.model).named() == {"fine_steps": 36}


@pytest.mark.parametrize(
    ("name", "epochs", "contrastive_epochs"),
    [
        ("vab-encodec", 17, 14),
        ("vab-dac", 9, 15),
        ("vab-dac-test", 9, 15),
        ("vab-dac-test-mae", 9, 15),
        ("vab-dac-coarse2fine", 9, 14),
    ],
)
def test_presets_of_the_paper_train_as_table_8_says(name, epochs, contrastive_epochs):
    recipe = read_recipe(name)
    rate = {"peak_rate": 2e-4, "warm_up": 100_000, "weight_decay": 1e-5, "label_smoothing": 0.1}
    both = rate | {"mixup": 0.5, "roll": 0.1, "crop_s": None}
    assert differing(recipe.pretrain, both | {"batch": 60, "epochs": epochs, "muon_rate": 0}) == {}
    contrastive = {"batch": 108, "epochs": contrastive_epochs, "standardise": False}
    assert differing(recipe.contrastive, both | contrastive) == {}
    classes = {"peak_rate": 1e-4, "head_rate": None, "warm_up": 0, "weight_decay": 1e-5}
    classes |= {"label_smoothing": 0.1, "mixup": 0.5, "roll": 0.1, "loss": "bce"}
    assert differing(recipe.classification, classes | {"epochs": 2, "batch": 60}) == {}


def differing(settings, expected):
    return {k: getattr(settings, k) for k, x in expected.items() if getattr(settings, k) != x}


def test_fine_steps_are_of_the_fine_model():
    recipe = msgspec.structs.replace(
        read_recipe("vab-dac-small"), options=Tuning(steps=8, fine_steps=24)
    )
    assert recipe.options_of(recipe.model) == Tuning(steps=8)
    assert recipe.options_of(recipe.fine) == Tuning(fine_steps=24)


@pytest.mark.parametrize("name", ["default", "vab-dac-small"])
@pytest.mark.parametrize("minutes", ["nan", "0", "-3"])
def test_minutes_of_no_length_are_refused_before_any_work(name, minutes, tmp_path, refused):
    said = refused(main, name, "--minutes", minutes, "--out", tmp_path / "run")
    assert "_minutes is" in said and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a whole run of a very small recipe."""
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "tiny.toml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        main([str(folder / "tiny.toml"), "--out", str(folder / "run")])
    return folder


@pytest.mark.slow
def test_one_command_makes_everything(finished):
    run = finished / "run"
    bundle = open_bundle(str(run / "bundle"))
    assert (bundle.config.name, bundle.config.max_guidance) == ("tiny", 3)
    card = read_card(bundle)
    for task in ("generation", "retrieval", "classification"):
        assert f"`python -m training.evaluate {task}`" in card
    checkpoint = read_checkpoint(run / "ckpt.pt")
    assert checkpoint.header.provenance["pretraining_steps"] == "3"  # 1 epoch of 6 clips by 2
    assert int(checkpoint.header.provenance["distillation_steps"]) >= 1
    result = {
        task: json.loads((run / f"evaluation-{task}.json").read_text())
        for task in ("generation", "retrieval", "classification")
    }
    bounds = {"ground_truth", "reconstruction", "shuffled", "floor", "metronome", "silence"}
    assert bounds <= set(result["generation"]["bounds"])
    assert {"r1", "r5", "r10"} <= set(result["retrieval"]["video_to_audio"])
    assert {"accuracy", "map"} <= set(result["classification"]["av"])
    before, after = read_checkpoint(run / "start.pt").vab(), checkpoint.vab()
    assert not torch.equal(before.heads.weight, after.heads.weight)


@pytest.mark.slow
def test_a_second_run_finds_its_stages_done(finished, monkeypatch):
    run = finished / "run"
    assert len(list(run.glob("*.pt"))) == 9  # codec, clip, start, vab, ckpt, fine-tuned
    kept = [*run.glob("*.pt"), *run.glob("*.npz"), *run.glob("evaluation-*.json")]
    kept += (run / "bundle").glob("*.onnx")
    made = {path: path.stat().st_mtime_ns for path in kept}
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    main([str(finished / "tiny.toml"), "--out", str(run)])
    assert {path: path.stat().st_mtime_ns for path in kept} == made


@pytest.mark.slow
def test_another_recipe_is_not_taken_for_that_of_the_folder(finished, tmp_path, refused):
    other = tmp_path / "tiny.toml"
    other.write_text(TINY.replace("\nwidth = 16", "\nwidth = 32"))
    said = refused(main, other, "--out", finished / "run")
    assert "begun with model.width 16, expected that and not 32" in said


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_held_and_found_the_same(path, tmp_path):
    recipe = (read_v2a_recipe if is_v2a_recipe(path.stem) else read_recipe)(path.stem)
    for _ in range(2):
        hold_recipe(tmp_path, recipe)
        (tmp_path / "codec.pt").touch()


def test_figures_are_taken_once_of_the_same_clips_and_weights(tmp_path, monkeypatch):
    found = iter([0.1, 0.2, 0.3])
    figures = lambda *_: {"clips": 1, "r1": next(found)}
    monkeypatch.setattr("recipes.vab.evaluate_retrieval", figures)
    path, none = tmp_path / "evaluation-retrieval.json", np.zeros((1, 0), np.float32)

    def measured(token):
        arrays = (np.full((1, 2, 3), token, np.int16), np.zeros((1, 2, 4), np.float16))
        evaluate_finetuned(tmp_path, tmp_path / "ckpt.pt", TokenisedClips(*arrays, none))
        return json.loads(path.read_text())["r1"]

    for name in ("ckpt.pt", "contrastive.pt"):
        (tmp_path / name).touch()
    assert measured(0) == measured(0) == 0.1
    assert measured(1) == 0.2  # as many clips as before
    assert is_made(path, checkpoint=tmp_path / "ckpt.pt")
    (tmp_path / "ckpt.pt").write_text("trained since")
    assert not is_made(path, checkpoint=tmp_path / "ckpt.pt") and measured(1) == 0.3


def test_minutes_may_change_and_a_mistake_may_be_mended(tmp_path):
    recipe = read_recipe("default")
    hold_recipe(tmp_path / "run", msgspec.structs.replace(recipe, license="MIT"))
    hold_recipe(tmp_path / "run", recipe)  # nothing was made yet
    (tmp_path / "run" / "codec.pt").touch()
    hold_recipe(tmp_path / "run", msgspec.structs.replace(recipe, pretrain_minutes=1))
    hold_recipe(tmp_path / "run", msgspec.structs.replace(recipe, options=Tuning(steps=3)))
    with pytest.raises(
        OptionError, match=f"clip_minutes {recipe.clip_minutes}, expected that and not 1"
    ):
        hold_recipe(tmp_path / "run", msgspec.structs.replace(recipe, clip_minutes=1.0))
    with pytest.raises(OptionError, match=r"license 'Apache-2\.0', expected that and not 'MIT'"):
        hold_recipe(tmp_path / "run", msgspec.structs.replace(recipe, license="MIT"))
    with pytest.raises(OptionError, match=r"begun without codec\.hop, expected that and not 2 "):
        hold_recipe(tmp_path / "run", msgspec.structs.replace(recipe, codec={"hop": 2}))
    hold_recipe(tmp_path / "other", recipe, start=None)
    (tmp_path / "other" / "codec.pt").touch()
    with pytest.raises(OptionError, match=r"begun with start None, expected that and not 'a\.pt'"):
        hold_recipe(tmp_path / "other", recipe, start="a.pt")
    hold_recipe(tmp_path / "third", recipe, start="a.pt")
    (tmp_path / "third" / "codec.pt").touch()
    with pytest.raises(OptionError, match=r"begun with start 'a\.pt', expected that and not None"):
        hold_recipe(tmp_path / "third", recipe, start=None)
    path = tmp_path / "third" / "recipe.json"
    path.write_text(path.read_text().replace('"license"', '"licence"'))  # as it was once
    hold_recipe(tmp_path / "third", recipe, start="a.pt")
    (tmp_path / "run" / "recipe.json").write_text("{")
    with pytest.raises(DataError, match=r"recipe\.json cannot be read .*delete it"):
        hold_recipe(tmp_path / "run", recipe)


@pytest.mark.parametrize(
    ("name", "stage", "said"),
    [
        ("default", "pretrain", "pretrain warm_up is 90000 and the run has 10625 steps"),
        ("default", "contrastive", "contrastive warm_up is 90000 and the run has 1458 steps"),
        ("default", "classification", "classification warm_up is 90000 and the run has 312 steps"),
        ("vab-dac-small", "fine_pretrain", "fine_pretrain warm_up is 90000 and the run has 8500"),
    ],
)
def test_a_warm_up_that_does_not_fit_is_refused_before_any_work(name, stage, said, tmp_path):
    recipe = read_recipe(name)
    settings = msgspec.structs.replace(getattr(recipe, stage), warm_up=9e4)
    minutes = {f"{stage.removesuffix('_pretrain')}_minutes": None}
    recipe = msgspec.structs.replace(recipe, **minutes, **{stage: settings})
    with pytest.raises(OptionError, match=said):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_warm_up_of_fine_tuning_is_refused_before_pre_training(tmp_path, monkeypatch):
    recipe = read_recipe("default")
    recipe = msgspec.structs.replace(recipe, model=tiny_config(), contrastive_minutes=None)
    contrastive = msgspec.structs.replace(recipe.contrastive, warm_up=9e4)
    recipe = msgspec.structs.replace(recipe, contrastive=contrastive)
    start = saved_checkpoint(tmp_path, recipe.model).path
    monkeypatch.setattr("recipes.vab.open_shards", lambda *_: range(2000))
    with pytest.raises(OptionError, match="contrastive warm_up is 90000 and the run has 583 steps"):
        run_on_shards(recipe, tmp_path / "run", start, "shards", "")


@pytest.mark.slow
def test_start_and_shards_are_of_the_recipe_and_go_together(finished, tmp_path, refused):
    start, recipe = finished / "run" / "start.pt", finished / "tiny.toml"
    for words, said in (
        ([recipe, "--start", start], "go together"),
        (["default", "--start", start, "--shards", "x"], "is of the model tiny, expected vab-tiny"),
        ([recipe, "--start", start, "--shards", tmp_path], "shards.json"),
    ):
        assert said in refused(main, *words, "--out", tmp_path / "run")


@pytest.mark.slow
def test_fine_tuning_of_an_older_checkpoint_begins_again_and_does_without_classes(
    finished, tmp_path
):
    recipe, made = read_recipe(str(finished / "tiny.toml")), finished / "run"
    clips = TokenisedClips.load(made / "train.npz")
    unlabelled = msgspec.structs.replace(clips, labels=clips.labels[:, :0])
    for name in ("ckpt.pt", "vab.pt", "contrastive.pt", "classify-a.pt"):
        shutil.copy(made / name, tmp_path)
    os.utime(tmp_path / "contrastive.pt", (1, 1))
    os.utime(tmp_path / "classify-a.pt", (1, 1))
    finetune(recipe, tmp_path, tmp_path / "ckpt.pt", unlabelled)
    assert (tmp_path / "contrastive.pt").stat().st_mtime > 1
    assert not list(tmp_path.glob("classify-*.pt"))
