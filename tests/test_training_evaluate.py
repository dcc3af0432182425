"""The evaluation: what it reports beside its bounds, and that its figures mean something."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import tiny_checkpoint, tiny_config

from training import foleyworld
from training.classification import Classifier, weights_path
from training.contrastive import Retriever
from training.datasets.rendered import frame_times
from training.evaluate import evaluate_generation, main
from training.evaluation import generation
from training.evaluation.embeddings import Judge
from training.evaluation.generation import (
    SOUNDS,
    Heard,
    HeardClip,
    Listener,
    Reference,
    generation_result,
    heard_clips,
)
from training.evaluation.held_out import film
from training.evaluation.judge import AudioClassifier, colour, listen, present_classes
from training.evaluation.trial import Trial
from training.model import VAB
from vab_rt.bundle import open_bundle
from vab_rt.config import GenerateOptions
from vab_rt.errors import OutputError

MEASURES = {"class_agreement", "onset_f1_100ms", "onset_f1_50ms", "fad", "kld"}
BOUNDS = {"ground_truth", "reconstruction", "shuffled", "unconditional"}
SEEDS = foleyworld.clip_seeds("validation", 0, 2)


def save_average(path, module):
    torch.save({"average": {"weights": module.state_dict(), "count": 1}, "step": 1}, path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with an untrained model of every kind."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = tiny_config(clip_s=10.0, layers=2, expert_layers=1)
    torch.save(tiny_checkpoint(config), folder / "ckpt.pt")
    vab = VAB(config)
    vab.load_state_dict(torch.load(folder / "ckpt.pt", weights_only=True)["vab"])
    save_average(folder / "judge.pt", AudioClassifier())
    save_average(folder / "contrastive.pt", Retriever(vab))
    for modality in ("a", "v", "av"):
        save_average(weights_path(folder, modality), Classifier(vab, modality, 16))
    return folder


def trial(run, **changes):
    options = GenerateOptions(steps=1)
    return Trial(judge=run / "judge.pt", options=options, films=run / "films", **changes)


def test_a_film_read_back_is_what_training_rendered(run):
    config = open_bundle().config
    size = config.image_size
    scene = foleyworld.make_scene(SEEDS[0])
    rendered = scene.frames(frame_times(config), size, size)
    read = film(SEEDS[0], config, run / "films")
    assert read.shape == rendered.shape
    assert np.abs(read.astype(int) - rendered).mean() < 8  # levels of 255: H.264 and resizing
    again = film(SEEDS[0], config, run / "films")
    assert np.array_equal(read, again) and len(list(run.glob("films/*/*.npy"))) == 1


def test_a_place_for_films_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file/world.* could not be written"):
        film(SEEDS[0], open_bundle().config, tmp_path / "file")


@pytest.mark.parametrize("model", ["bundle", "checkpoint"])
def test_every_measure_stands_beside_every_bound(run, model):
    change = {"checkpoint": run / "ckpt.pt"} if model == "checkpoint" else {}
    result = evaluate_generation(trial(run, **change), SEEDS)
    assert MEASURES | {"embedding", "clips"} <= set(result)
    assert set(result["bounds"]) == BOUNDS
    for bound in result["bounds"].values():
        assert MEASURES <= set(bound) and bound["clips"] == 2
        assert bound["embedding"] == result["embedding"]
    truth = result["bounds"]["ground_truth"]
    assert truth["kld"] == 0 and truth["fad"] < 1e-3
    assert result["bounds"]["reconstruction"]["fad"] > 0 and result["clips"] == 2
    low, high = result["class_agreement_95"]
    assert low <= result["class_agreement"] <= high
    json.dumps(result)


def test_what_was_heard_before_an_interruption_is_not_made_again(run, tmp_path, monkeypatch):
    one = trial(run, checkpoint=run / "ckpt.pt", heard=tmp_path / "heard")
    first = [generation.hear_once((number, seed, one)) for number, seed in enumerate(SEEDS)]
    monkeypatch.setattr(generation, "hear_clip", None)
    again = list(heard_clips(one, SEEDS, workers=1))
    assert generation_result(SEEDS, again) == generation_result(SEEDS, first)
    for clip, kept in zip(first, again, strict=True):
        assert clip.generate_s == kept.generate_s and list(clip.sounds) == list(kept.sounds)


@pytest.mark.slow
def test_processes_change_nothing(run):
    one = trial(run, checkpoint=run / "ckpt.pt")
    found, expected = evaluate_generation(one, SEEDS, workers=2), evaluate_generation(one, SEEDS)
    assert found.pop("generate_s") > 0 and expected.pop("generate_s") > 0
    assert found == expected


@pytest.fixture(scope="module")
def scenes():
    seeds = foleyworld.clip_seeds("validation", 10, 32)
    kinds = foleyworld.CLASSES * 2
    return [foleyworld.make_scene(s, kind) for s, kind in zip(seeds, kinds, strict=True)]


@pytest.fixture(scope="module")
def true(scenes):
    return [scene.audio() for scene in scenes]


@pytest.fixture(scope="module")
def listener(scenes, true):
    """A judge that is right about the true sounds: its head is fitted to them in closed form."""
    torch.manual_seed(0)
    classifier = AudioClassifier().eval()
    _, embeddings = listen(classifier, np.stack(true))  # [N, D]
    padded = np.concatenate([embeddings, np.ones((len(true), 1))], 1)
    wanted = 30.0 * present_classes(scenes) - 15.0
    solution = np.linalg.lstsq(padded, wanted, rcond=1e-9)[0]  # [D + 1, classes]
    with torch.no_grad():
        classifier.head.weight.copy_(torch.from_numpy(solution[:-1].T))
        classifier.head.bias.copy_(torch.from_numpy(solution[-1]))
    judge = Judge(classifier)
    return Listener(judge, judge)


@pytest.fixture(scope="module")
def reference(scenes, true, listener):
    return Reference(scenes, [listener(sound) for sound in true])


def test_true_sound_scores_near_the_maximum(reference):
    found = reference.measure(reference.true)
    assert found["class_agreement"] > 0.97 and found["onset_f1_100ms"] > 0.9
    assert found["fad"] < 1e-3 and found["kld"] == 0


def test_noise_scores_near_nothing(reference, listener):
    random = np.random.default_rng(0)
    noise = [0.1 * random.standard_normal(160_000).astype(np.float32) for _ in reference.true]
    found = reference.measure([listener(sound) for sound in noise])
    assert found["class_agreement"] <= 2 / 16 and found["onset_f1_100ms"] < 0.1
    assert found["fad"] > 0.1 and found["kld"] > 3


def test_another_clips_sound_scores_as_chance(reference):
    found = reference.measure(reference.true[1:] + reference.true[:1])
    assert found["class_agreement"] <= 2 / 16 and found["onset_f1_100ms"] < 0.5
    assert found["fad"] < 1e-3, "all together they are the same sounds"
    assert found["kld"] > 3


def heard(kind, onsets=()):
    classes = np.eye(16)[foleyworld.CLASSES.index(kind)] * 0.9 + 0.1 / 16
    vectors = np.random.default_rng(0).standard_normal((2, 3))
    return Heard(classes, vectors, classes, np.array(onsets))


def test_either_of_two_sources_is_right_and_their_onsets_do_not_count():
    scenes = [foleyworld.make_scene(seed, num_sources=2) for seed in SEEDS]
    scenes.append(foleyworld.make_scene(SEEDS[0], "drum"))
    strikes = scenes[2].truth.events["drum"]
    right = [heard(scenes[0].classes[0]), heard(scenes[1].classes[1]), heard("drum", strikes)]
    reference = Reference(scenes, right)
    found = reference.measure(right)
    assert found["class_agreement"] == 1 and found["onset_f1_50ms"] == 1
    late = np.array(strikes) + 0.07
    found = reference.measure([*right[:2], heard("drum", late)])
    assert found["onset_f1_100ms"] == 1 and found["onset_f1_50ms"] < 0.5
    absent = next(k for k in foleyworld.CLASSES if k not in scenes[0].classes)
    assert reference.measure([heard(absent), *right[1:]])["class_agreement"] == pytest.approx(
        2 / 3, abs=1e-4
    )


def test_without_impacts_there_is_no_onset_figure():
    scenes = [foleyworld.make_scene(seed, "rain") for seed in SEEDS]
    found = Reference(scenes, [heard("rain")] * 2).measure([heard("rain")] * 2)
    assert found["onset_f1_100ms"] is None and found["onset_f1_50ms_95"] is None


def test_clips_may_be_heard_in_any_order():
    clips = [
        HeardClip(i, {name: heard(foleyworld.make_scene(s).classes[0]) for name in SOUNDS})
        for i, s in enumerate(SEEDS)
    ]
    ordered = generation_result(SEEDS, clips)
    assert ordered == generation_result(SEEDS, clips[::-1])
    assert ordered["class_agreement"] == 1 and ordered["bounds"]["shuffled"]["kld"] > 0


def test_colouring_keeps_length_and_finiteness():
    audio = torch.from_numpy(np.stack([foleyworld.make_scene(i).audio() for i in range(2)]))
    coloured = colour(audio, np.random.default_rng(0))
    assert coloured.shape == audio.shape and torch.isfinite(coloured).all()
    assert (coloured - audio).abs().max() > 0.01


def command(capsys, *words):
    main([*words, "--clips", "3", "--workers", "1", "--json"])
    return json.loads(capsys.readouterr().out)


def test_retrieval_of_held_out_clips(run, capsys):
    found = command(capsys, "retrieval", "--run", str(run))
    for way in ("video_to_audio", "audio_to_video"):
        assert {"r1", "r5", "r10"} <= set(found[way])
        assert found[way]["r5"] == 1, "there are only three clips"


def test_classification_of_held_out_clips(run, capsys):
    found = command(capsys, "classification", "--ckpt", str(run / "ckpt.pt"))
    for modality in ("a", "v", "av"):
        assert {"accuracy", "map"} <= set(found[modality])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generation", "--clips", "1"], "expected at least 2 and 1"),
        (["generation", "--ckpt", "none.pt"], "none.pt is not a file"),
        (["generation", "--bundle", "none"], "none"),
        (["generation", "--shards", "x"], "for retrieval and classification"),
        (["generation", "--device", "cuda"], "--device cuda is of a checkpoint, expected --ckpt"),
        (["generation", "--embedding", "vggish"], "expected judge, vggish:FILE"),
        (["generation", "--embedding", "vggish:none.pth"], "none.pth is not there"),
        (["generation", "--seed", "-1"], "first seed is -1"),
        (["retrieval", "--bundle", "default"], "a bundle only generates, expected --ckpt"),
        (["retrieval", "--weights", "empty"], "python -m training.contrastive"),
        (["classification", "--weights", "empty"], "python -m training.classification"),
        (["retrieval", "--ckpt", "2s.pt", "--weights", "."], "does not belong to these weights"),
        (["generation", "--ckpt", "2s.pt"], "makes 2 s at 16000 Hz, expected the clips of Foley"),
    ],
)
def test_mistakes_end_in_one_line_before_a_judge_is_trained(
    run, words, message, capsys, monkeypatch
):
    monkeypatch.chdir(run)
    monkeypatch.setattr("training.evaluate.trained_judge", pytest.fail)
    if "2s.pt" in words and not (run / "2s.pt").exists():
        torch.save(tiny_checkpoint(tiny_config(layers=2)), run / "2s.pt")
    with pytest.raises(SystemExit) as stop:
        main(["--clips", "2", *words, "--run", ".", "--workers", "1"])
    assert stop.value.code == 1
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("error: ") and message in last
