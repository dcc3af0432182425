"""The paper's questions on FoleyWorld: the figures mean what they say, and are written down."""

import json

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("diffusers", reason="pip install diffusers")
pytest.importorskip("transformers", reason="pip install transformers")

from checkpoints import save_average
from torch.nn import functional as F
from v2a_checkpoints import MAPPER, UNET, VAE, VOCODER, tiny_v2a_config, write_tiny_v2a

from recipes import v2a_mapper as chain
from recipes.train import main as recipe_command
from training import foleyworld, marked_tables
from training.evaluation.evaluator import ClipFeatures, SoundFeatures
from training.evaluation.spectra import BANDS
from training.image_encoder import build_clip
from training.v2a_mapper import bundle_cost
from training.v2a_mapper import evaluate as command
from training.v2a_mapper.bundle_cost import cost
from training.v2a_mapper.checkpoint import read_v2a_checkpoint
from training.v2a_mapper.clap import TinyClap, load_clap, text_vectors
from training.v2a_mapper.config import V2ARecipe
from training.v2a_mapper.evaluate import eval_config, evaluate, sound_figures, variability
from training.v2a_mapper.markdown import NOT_RUN, findings, markdown
from training.v2a_mapper.modality_gap import gap, spread
from vab_rt.errors import DataError, ExportError, OptionError

SEEDS = foleyworld.clip_seeds("validation", 0, 2)
WIDE = tiny_v2a_config(clip_s=10.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run, with untrained networks."""
    folder = tmp_path_factory.mktemp("v2a")
    torch.manual_seed(0)
    write_tiny_v2a(folder / "ckpt.pt", WIDE)
    regression = tiny_v2a_config(clip_s=10.0, mapper="regression")
    write_tiny_v2a(folder / "ckpt-regression.pt", regression)
    save_average(folder / "clap.pt", TinyClap(24))
    return folder


def test_a_gap_is_seen_and_a_perfect_mapper_closes_it():
    random = torch.Generator().manual_seed(0)
    heard = F.normalize(torch.randn(30, 16, generator=random), dim=1)
    apart = F.normalize(torch.randn(30, 16, generator=random) + 4, dim=1)
    closed, open_ = gap(heard, heard), gap(apart, heard)
    assert closed["matched"] == pytest.approx(1, abs=1e-4) and closed["centroids"] == 0
    assert closed["found_1"] == 1.0 and open_["found_1"] < 0.3
    assert open_["centroids"] > 0.5 and abs(open_["matched"] - open_["unmatched"]) < 0.2
    assert gap(heard, heard)["unmatched"] == pytest.approx(
        float((heard @ heard.T)[~torch.eye(30, dtype=torch.bool)].mean()), abs=1e-3
    )


def test_variability_is_the_mean_distance_of_draws():
    assert spread(torch.ones(4, 3)) == 0
    assert spread(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx((1 + 3 + 2) / 3)
    drawn = [np.eye(2, dtype=np.float32)[i] for i in (0, 1)]
    draws = [(drawn, [drawn[0]] * 2), ([], [])]
    keys = ("again_mapped/prior", "again_vector/prior")
    clips = [
        ClipFeatures(i, {}, dict(zip(keys, map(np.array, made), strict=True)))
        for i, made in enumerate(draws)
    ]
    found = variability(clips, "prior")
    assert found == {
        "vector": pytest.approx(2**0.5, abs=1e-4),
        "vector_95": pytest.approx([2**0.5] * 2, abs=1e-4),
        "sound": 0.0,
        "sound_95": [0.0, 0.0],
    }
    assert set(variability(clips[1:], "prior").values()) == {None}


def test_relevance_is_to_the_class_that_is_seen():
    seeds = foleyworld.clip_seeds("validation", 0, 6)
    kinds = [foleyworld.CLASSES.index(foleyworld.make_scene(s).classes[0]) for s in seeds]
    texts = np.eye(16, dtype=np.float32)
    silent, vectors = np.zeros((4, 0)), np.random.default_rng(0).random((1, 4))
    features = SoundFeatures(
        np.ones(16), vectors, np.ones(16), np.zeros(()), np.zeros(BANDS), np.zeros(100), *silent
    )

    def clip(number, kind):
        right, wrong = texts[kinds[number]], texts[(kinds[number] + 1) % 16]
        sounds = {"ground_truth": right, "prior": 0.5 * right, "none": wrong}
        vectors = {f"vector/{name}": vector for name, vector in sounds.items()}
        return ClipFeatures(number, dict.fromkeys(sounds, features), vectors)

    figures = sound_figures([clip(i, kinds[i]) for i in range(6)], seeds, texts)
    assert [figures[n]["cs"] for n in ("ground_truth", "prior", "none")] == [100.0, 50.0, 0.0]
    assert figures["ground_truth"]["fd"] == pytest.approx(0, abs=1e-3)
    assert figures["none"]["fd"] > 0.01


def test_a_run_is_evaluated_and_goes_on(run, monkeypatch):
    config = eval_config(run, alone=True, draws=2, varied=1, kept=run / "kept")
    result = evaluate(run, config, SEEDS)
    systems = ["none", "regression", "prior"]
    assert list(result["gap"]) == list(result["variability"]) == systems
    assert set(result["sounds"]) == {*systems, "ground_truth", "autoencoded", "true_vector"}
    spreads = {name: figures["vector"] for name, figures in result["variability"].items()}
    assert spreads["none"] == spreads["regression"] == 0 < spreads["prior"]
    assert all(figures["sound"] > 0 for figures in result["variability"].values())
    assert result["sounds"]["ground_truth"]["fd"] == pytest.approx(0, abs=1e-3)
    assert result["cost"] == {} and result["clips"] == 2
    assert result["parameters"]["mapper"] > 0
    json.dumps(result)
    assert NOT_RUN in markdown(result) and NOT_RUN in markdown({})

    monkeypatch.setattr(command, "sounds_of_clip", pytest.fail)  # all is kept of the first time
    assert evaluate(run, config, SEEDS) == result


def test_a_run_that_is_not_finished_is_refused(tmp_path, refused):
    words = ["--run", tmp_path]
    assert "ckpt.pt is not there, expected a finished run" in refused(command.main, *words)
    words += ["--table"]
    said = "expected figures; run this without --table first"
    assert said in refused(command.main, *words)
    for damage in ("{", "[]"):
        (tmp_path / command.RESULT).write_text(damage)
        assert "cannot be read" in refused(command.main, *words)
    assert "expected at least 2 and 1" in refused(command.main, "--clips", "1")


FIGURES = {
    "clips": 160,
    "gap": {"none": {"matched": 0.01, "unmatched": 0.02}},
    "sounds": {
        "none": {"fd": 0.9, "cs": 1.0, "onset_f1_100ms": 0.1},
        "regression": {"fd": 0.4, "cs": 40.0, "cs_95": [39.0, 41.0], "onset_f1_100ms": 0.1},
        "prior": {"fd": 0.3, "cs": 35.0, "cs_95": [34.0, 36.0], "class_agreement": 0.5},
        "vab": {"fd": 0.2, "cs": 50.0, "onset_f1_100ms": None},
    },
    "variability": {
        "regression": {"sound": 0.2, "sound_95": [0.19, 0.21]},
        "prior": {"sound": 0.1, "sound_95": [0.09, 0.11]},
    },
    "cost": {"vab": {"stages_s": {"visual": 0.12}, "seconds": 1.5, "megabytes": 20.0}},
    "parameters": {"mapper": 1_200_000},
}


def test_findings_say_which_way_it_came_out():
    found = dict(findings(FIGURES))
    assert found["the prior is better than the regression, FD"] == "not told apart (0.3 and 0.4)"
    assert found["the regression is better than the prior, CS"] == "yes (35 and 40)"
    assert found["the prior varies more with the seed, sound"] == "no (0.2 and 0.1)"
    assert found["V2A-Mapper knows no time: VAB's onsets are better"] == NOT_RUN
    assert {verdict for _, verdict in findings({})} == {NOT_RUN}


def test_tables_are_written_between_the_marks(tmp_path, monkeypatch, capsys):
    (tmp_path / command.RESULT).write_text(json.dumps(FIGURES))
    paper = tmp_path / "PAPER.md"
    begin, end = marked_tables.marks("v2a-mapper")
    paper.write_text(f"before\n{begin}\nformer tables\n{end}\nafter\n")
    monkeypatch.setattr(command, "PAPER", paper)
    command.main(["--run", str(tmp_path), "--table", "--write"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == FIGURES
    text = paper.read_text()
    assert "former" not in text and text.startswith("before") and text.endswith("after\n")
    assert "| diffusion prior | 0.3 | not run yet | 35 | 50.0 | not run yet |" in text
    assert "| VAB | 1.50 | visual 0.12 | 20.0 |" in text and "mapper 1.20" in text
    paper.write_text("no marks")
    with pytest.raises(DataError, match="lacks <!-- v2a-mapper: begin"):
        marked_tables.write_between(paper, "v2a-mapper", "text")


def test_the_document_has_the_marks():
    text = marked_tables.PAPER.read_text()
    assert all(text.count(mark) == 1 for mark in marked_tables.marks("v2a-mapper"))


def test_cost_is_that_of_a_users_clip(monkeypatch):
    monkeypatch.setattr(bundle_cost, "RUNS", 1)
    found = cost(None)
    assert found["seconds"] == pytest.approx(sum(found["stages_s"].values()), abs=0.01)
    assert 1 < found["megabytes"] < 100


def tiny_recipe(ready, **changes):
    minutes = {
        f"{stage}_minutes": 0.003 for stage in ("clap", "autoencoder", "denoiser", "vocoder")
    }
    networks = {"mapper": MAPPER, "unet": UNET, "vae": VAE, "vocoder": VOCODER}
    few = {"clips": 3, "vocoder_clips": 2, "evaluated_clips": 2, "rendered_clips": 2}
    steps = {"regression": {"steps": 2}, "prior": {"steps": 2}}
    small = {"autoencoder": {"batch": 2, "frames": 32}, "denoiser": {"batch": 2, "columns": 8}}
    small |= {"vocoder": {"batch": 2, "columns": 4}, "clap": {"batch": 4}}
    facts = {"model": WIDE, "networks": networks, "ready": str(ready)} | few | steps | small
    return msgspec.convert(msgspec.to_builtins(facts | minutes | changes), V2ARecipe)


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """As much of a run of VAB as is taken over."""
    folder = tmp_path_factory.mktemp("default")
    save_average(folder / "clip.pt", build_clip(WIDE))
    (folder / "start.pt").touch()
    return folder


def test_the_whole_chain_makes_both_checkpoints_and_goes_on(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(chain.os, "cpu_count", lambda: 1)  # no processes for three clips
    recipe = tiny_recipe(ready)
    path = chain.train(recipe, tmp_path)
    checkpoint = read_v2a_checkpoint(path)
    assert checkpoint.config == WIDE and path.name == "ckpt.pt"
    other = read_v2a_checkpoint(tmp_path / "ckpt-regression.pt")
    assert other.config.mapper == "regression" and other.mapper() is not None
    null = text_vectors(load_clap(tmp_path / "clap.pt", 24), [""])[0]
    assert torch.equal(checkpoint.null_embedding, null)
    latents = np.load(tmp_path / "latents.npy").astype(np.float32)
    scale = checkpoint.networks.vae["scaling_factor"]
    assert scale * latents.std() == pytest.approx(1, rel=0.01)
    assert checkpoint.header.provenance["prior_steps"] == "2"
    made = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir() if file.is_file()}
    assert chain.train(recipe, tmp_path) == path
    assert {file: file.stat().st_mtime_ns for file in made} == made


def test_the_command_of_recipes_runs_it(ready, tmp_path, monkeypatch, refused):
    seen = []
    monkeypatch.setattr(chain, "run", lambda recipe, folder: seen.append((recipe, folder)))
    recipe_command(["v2a-mapper", "--out", str(tmp_path), "--minutes", "3"])
    assert seen[0][0].denoiser_minutes == 3 and seen[0][1] == tmp_path
    said = refused(recipe_command, "v2a-mapper", "--start", "a.pt", "--shards", "b")
    assert "v2a-mapper" in said and len(seen) == 1


def test_a_recipe_without_a_mapper_and_a_clip_of_another_size_are_refused(ready, tmp_path):
    recipe = tiny_recipe(ready)
    without = msgspec.structs.replace(recipe.model, mapper="none")
    with pytest.raises(OptionError, match="mapper is 'none', expected regression or prior"):
        chain.train(msgspec.structs.replace(recipe, model=without), tmp_path)
    larger = msgspec.structs.replace(recipe.model, image_size=64)
    with pytest.raises(ExportError, match=r"clip\.pt.* expected"):
        chain.train(msgspec.structs.replace(recipe, model=larger), tmp_path)
