"""The evaluation: what it reports beside its bounds, and that its figures mean something."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import save_average, tiny_checkpoint, tiny_config

from training import foleyworld
from training.checkpoint import read_checkpoint
from training.classification import Classifier, weights_path
from training.contrastive import Retriever
from training.datasets.media_sets import Segment
from training.datasets.rendered import frame_times
from training.evaluate import main
from training.evaluation import evaluator as evaluator_module
from training.evaluation.classifier import (
    KEPT,
    classifier_result,
    colour,
    load_classifier,
    logistic_regression,
)
from training.evaluation.evaluator import (
    ClipFeatures,
    EvalConfig,
    Evaluator,
    SoundFeatures,
    evaluate_clip,
    evaluate_clips,
)
from training.evaluation.generation import (
    EMPTY,
    OTHER,
    RETAKE,
    evaluate_generation,
    generation_result,
    scene_pairs,
    sounds_of_scene,
)
from training.evaluation.held_out import video_frames
from training.evaluation.models import open_model
from training.evaluation.reference import RIVALS, Reference, none_drawn
from training.evaluation.spectra import BANDS
from training.evaluation.table import comparison
from training.evaluation.user_clips import UserClip, UserJob, sounds_of_user_clip
from training.extract import Source, extract
from training.model import VAB
from vab_rt.bundle import open_bundle
from vab_rt.errors import DataError, OutputError
from vab_rt.options import GenerateOptions

MEASURES = {"class_agreement", "onset_f1_100ms", "onset_f1_50ms", "fad", "kld"}
BOUNDS = {"ground_truth", "reconstruction", "floor", "shuffled", "shuffled_in_class", "silence"}
RHYTHMS = {"metronome", "metronome_0.2s"}
SEEDS = foleyworld.clip_seeds("validation", 0, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder with an untrained model of every kind."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = tiny_config(clip_s=10.0, layers=2, expert_layers=1)
    torch.save(tiny_checkpoint(config), folder / "ckpt.pt")
    vab = VAB(config)
    vab.load_state_dict(torch.load(folder / "ckpt.pt", weights_only=True)["vab"])
    save_average(folder / "contrastive.pt", Retriever(vab))
    for modality in ("a", "v", "av"):
        save_average(weights_path(folder, modality), Classifier(vab, modality, 16))
    return folder


def eval_config(run, **changes):
    options = GenerateOptions(steps=1)
    return EvalConfig(options=options, videos=run / "videos", varied=1, **changes)


def images_of(frames):
    return np.stack([frame.image for frame in frames])


def test_a_video_read_back_is_what_training_rendered(run):
    config = open_bundle().config
    size = config.image_size
    scene = foleyworld.make_scene(SEEDS[0])
    rendered = scene.frames(frame_times(config), size, size)
    read = images_of(video_frames(SEEDS[0], config, run / "videos"))
    assert read.shape == rendered.shape
    assert np.abs(read.astype(int) - rendered).mean() < 8  # levels of 255: H.264 and resizing
    again = images_of(video_frames(SEEDS[0], config, run / "videos"))
    assert np.array_equal(read, again) and len(list(run.glob("videos/*/*.mp4"))) == 1


def test_a_place_for_videos_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file/world.* could not be written"):
        video_frames(SEEDS[0], open_bundle().config, tmp_path / "file")


@pytest.mark.parametrize("model", ["bundle", "checkpoint"])
def test_every_measure_stands_beside_every_bound(run, model):
    change = {"checkpoint": run / "ckpt.pt"} if model == "checkpoint" else {}
    result = evaluate_generation(eval_config(run, **change), SEEDS)
    assert MEASURES | {"embedding", "clips"} <= set(result)
    bounds = result["bounds"]
    assert set(bounds) == BOUNDS | RHYTHMS
    for name in BOUNDS:
        assert (
            MEASURES <= set(bounds[name]) | set(EMPTY.get(name, ())) and bounds[name]["clips"] == 2
        )
        assert bounds[name]["embedding"] == result["embedding"]
    assert bounds["floor"]["fad"] == result["fad_floor"] > 0 and "variety_db" in result
    assert bounds["reconstruction"]["fad"] > 0 and result["clips"] == 2
    low, high = result["class_agreement_95"]
    assert low <= result["class_agreement"] <= high
    json.dumps(result)


def test_what_was_made_before_an_interruption_is_not_made_again(run, tmp_path):
    config = eval_config(run, checkpoint=run / "ckpt.pt", kept=tmp_path / "kept")
    pairs = scene_pairs(SEEDS)
    first = [evaluate_clip((sounds_of_scene, *job, config)) for job in enumerate(pairs)]
    again = evaluate_clips(pytest.fail, pairs, config)
    silence = first[0].sounds["floor"]
    assert generation_result(SEEDS, again, silence) == generation_result(SEEDS, first, silence)
    for clip, kept in zip(first, again, strict=True):
        assert clip.arrays == kept.arrays and list(clip.sounds) == list(kept.sounds)


@pytest.mark.slow
def test_processes_change_nothing(run):
    one = eval_config(run, checkpoint=run / "ckpt.pt", unconditional=True)
    found, expected = evaluate_generation(one, SEEDS, workers=2), evaluate_generation(one, SEEDS)
    assert found.pop("generate_s") > 0 and expected.pop("generate_s") > 0
    assert found == expected


@pytest.fixture(scope="module")
def scenes():
    """Two clips of each class, and six of two sources."""
    seeds = foleyworld.clip_seeds("validation", 10, 38)
    lone = zip(seeds[:32], foleyworld.CLASSES * 2, strict=True)
    pairs = [foleyworld.make_scene(seed, num_sources=2) for seed in seeds[32:]]
    return [foleyworld.make_scene(seed, kind) for seed, kind in lone] + pairs


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(load_classifier())


@pytest.fixture(scope="module")
def reference(scenes, evaluator):
    return Reference(scenes, [evaluator(scene.audio()) for scene in scenes])


@pytest.fixture(scope="module")
def retakes(scenes, evaluator):
    return [evaluator(scene.audio(RETAKE)) for scene in scenes]


@pytest.fixture(scope="module")
def measured(reference, retakes, evaluator):
    """By bound, what is measured of it; the second take stands for generated sound."""
    true = reference.true
    sounds = {
        "truth": true,
        "retake": retakes,
        "other": true[-5:] + true[:-5],
        "same_class": reference.in_class(true),
        "silence": [evaluator(np.zeros(foleyworld.NUM_SAMPLES, np.float32))] * len(true),
    }
    found = {name: reference.measure(found) for name, found in sounds.items()}
    found["retake"] |= reference.variety(true, sounds["retake"])
    return found | reference.metronomes()


@pytest.mark.parametrize(
    ("measure", "bound", "low", "high"),
    [
        ("class_agreement", "truth", 0.95, 1),
        ("class_agreement", "retake", 0.95, 1),
        ("class_agreement", "same_class", 0.8, 1),
        ("class_agreement", "other", 0, 0.2),
        ("class_agreement", "silence", 0, 0.2),
        ("both_sources", "truth", 0.5, 1),
        ("both_sources", "other", 0, 0.2),
        ("both_sources", "silence", 0, 0),
        ("onset_f1_100ms", "truth", 0.95, 1),
        ("onset_f1_50ms", "truth", 0.95, 1),
        ("onset_precision_50ms", "truth", 0.95, 1),
        ("onset_recall_50ms", "truth", 0.95, 1),
        ("onset_f1_100ms", "same_class", 0.02, 0.4),
        ("onset_f1_100ms", "other", 0.02, 0.4),
        ("onset_f1_100ms", "silence", 0, 0),
        ("onset_precision_100ms", "silence", 0, 0),
        ("onset_f1_100ms", "metronome_0.2s", 0.15, 0.35),
        ("onset_recall_100ms", "metronome_0.2s", 0.99, 1),
        ("onset_precision_100ms", "metronome_0.2s", 0.05, 0.2),
        ("onset_f1_100ms", "metronome", 0.15, 0.4),
        ("fad", "truth", 0, 1e-3),
        ("fad", "retake", 0, 0.5),
        ("fad", "silence", 5, 1000),
        ("kld", "truth", 0, 0),
        ("kld", "retake", 0, 0.1),
        ("kld", "other", 2, 20),
        ("level_error_abs_db", "truth", 0, 0),
        ("level_error_abs_db", "retake", 0, 0.3),
        ("level_error_abs_db", "other", 2, 10),
        ("level_error_db", "silence", -90, -60),
        ("blow_level_error_abs_db", "truth", 0, 0),
        ("blow_level_error_abs_db", "retake", 0, 0.5),
        ("blow_own_db", "truth", 0, 0),
        ("blow_own_db", "retake", 0.1, 2.5),
        ("blow_own_db", "same_class", 5, 12),
        ("blow_margin_db", "truth", 4, 12),
        ("blow_margin_db", "retake", 4, 12),
        ("blow_margin_db", "same_class", -12, 0),
        ("blow_pitch_semitones", "truth", 0, 0),
        ("blow_pitch_semitones", "retake", 0, 2),
        ("blow_pitch_semitones", "same_class", 4, 24),
        ("blow_steadiness_db", "truth", 0, 0.5),
        ("envelope_correlation", "truth", 1, 1),
        ("envelope_correlation", "retake", 0.85, 1),
        ("envelope_correlation", "same_class", -0.4, 0.5),
        ("envelope_correlation", "silence", 0, 0),
        ("own_nearest", "truth", 1, 1),
        ("own_nearest", "retake", 0.9, 1),
        ("own_nearest", "same_class", 0, 0),
        ("own_nearest", "silence", 0.2, 0.8),
        ("own_nearest_chance", "truth", 0.5, 0.5),
        ("variety_db", "retake", 0.05, 1.5),
        ("variety_of_clips_db", "retake", 3, 12),
        ("variety_shared_onsets", "retake", 0.95, 1),
    ],
)
def test_every_measure_has_its_truth_at_the_top_and_its_bounds_below(
    measured, measure, bound, low, high
):
    assert low <= measured[bound][measure] <= high
    interval = measured[bound].get(f"{measure}_95")
    assert interval is None or interval[0] <= interval[1]


def test_the_floor_of_fad_is_that_of_other_sounds_as_many(reference, retakes, scenes):
    assert Reference(scenes, reference.true, retakes).fad_floor < 0.5, "the very same scenes"
    halves = Reference(scenes[:16], reference.true[:16], reference.true[16:32])
    assert halves.fad_floor > 1, "as many others"
    assert reference.fad_floor is None


def features_of(kind, onsets=(), other=None):
    logits = np.full(16, -5.0)
    logits[foleyworld.CLASSES.index(kind)] = 5.0
    if other:
        logits[foleyworld.CLASSES.index(other)] = 4.0
    vectors, onsets = np.random.default_rng(0).standard_normal((2, 3)), np.array(onsets)
    blows = (np.zeros((len(onsets), BANDS)), np.zeros(len(onsets)), np.full(len(onsets), 440.0))
    probabilities = np.exp(logits) / np.exp(logits).sum()
    silent = (np.zeros(()), np.zeros(BANDS), np.zeros(100))
    return SoundFeatures(logits, vectors, probabilities, *silent, onsets, *blows)


def test_either_of_two_sources_agrees_and_their_onsets_do_not_count():
    scenes = [foleyworld.make_scene(seed, num_sources=2) for seed in SEEDS]
    scenes.append(foleyworld.make_scene(SEEDS[0], "drum"))
    strikes = scenes[2].truth.events["drum"]
    two = scenes[1].classes
    right = [
        features_of(scenes[0].classes[0]),
        features_of(two[1], other=two[0]),
        features_of("drum", strikes),
    ]
    reference = Reference(scenes, right)
    found = reference.measure(right)
    assert found["class_agreement"] == 1 and found["onset_f1_50ms"] == 1
    assert found["both_sources"] == 0.5, "the first clip has one of its two"
    late = np.array(strikes) + 0.07
    found = reference.measure([*right[:2], features_of("drum", late)])
    assert found["onset_f1_100ms"] == 1 and found["onset_f1_50ms"] < 0.5
    absent = next(k for k in foleyworld.CLASSES if k not in scenes[0].classes)
    assert reference.measure([features_of(absent), *right[1:]])["class_agreement"] == pytest.approx(
        2 / 3, abs=1e-4
    )


def test_what_no_clip_has_is_no_figure():
    scenes = [foleyworld.make_scene(seed, "rain") for seed in SEEDS]
    found = Reference(scenes, [features_of("rain")] * 2).measure([features_of("rain")] * 2)
    for name in ("onset_f1_100ms", "onset_f1_50ms_95", "blow_own_db", "both_sources"):
        assert found[name] is None
    assert found["envelope_correlation"] == 0, "an envelope that does not move"


@pytest.mark.parametrize(
    ("num_nearer", "count", "expected"), [(0, 9, 1), (9, 9, 0), (1, 7, 1 / 7), (2, 4, 0), (1, 3, 0)]
)
def test_own_truth_is_to_be_the_nearest_of_seven(num_nearer, count, expected):
    assert none_drawn(num_nearer, count, RIVALS) == pytest.approx(expected)


def test_what_is_equal_by_construction_is_no_figure():
    sounds = [features_of(foleyworld.make_scene(seed).classes[0]) for seed in SEEDS]
    names = ("generated", "ground_truth", OTHER)
    made = {"generate_s": np.array(0.5)}
    clips = [ClipFeatures(i, dict.fromkeys(names, s), made) for i, s in enumerate(sounds)]
    result = generation_result(SEEDS, clips, features_of("rain"))
    assert result["class_agreement"] == 1 and result["bounds"]["shuffled"]["kld"] > 0
    for name, keys in EMPTY.items():
        assert not set(keys) & set(result["bounds"][name])


def test_clips_may_be_finished_in_any_order(monkeypatch):
    def backwards(function, jobs, workers):
        return map(function, reversed(list(jobs)))

    def sine(number, hz, config):
        return {"sine": np.sin(np.arange(16_000) * hz / 2500).astype(np.float32)}, {}

    in_order = evaluate_clips(sine, (200, 800), EvalConfig())
    monkeypatch.setattr(evaluator_module, "in_parallel", backwards)
    found = evaluate_clips(sine, (200, 800), EvalConfig())
    for one, other in zip(in_order, found, strict=True):
        np.testing.assert_array_equal(one.sounds["sine"].bands, other.sounds["sine"].bands)
    assert [clip.number for clip in found] == [0, 1]


def test_a_checkpoint_is_decoded_as_it_asks(run, tmp_path):
    asking = torch.load(run / "ckpt.pt", weights_only=True) | {"options": {"steps": 3}}
    torch.save(asking, tmp_path / "ckpt.pt")
    system = open_model(eval_config(run, checkpoint=tmp_path / "ckpt.pt")).pipeline.system
    assert system.options(GenerateOptions()).steps == 3


def test_a_table_has_a_line_a_measure_and_a_column_a_bound():
    bounds = {"floor": {"fad": 1.5}, "ground_truth": {"onset_f1_100ms": 1.0}, "new": {"fad": 2.0}}
    result = {"onset_f1_100ms": 0.815, "onset_f1_100ms_95": [0.7, 0.9], "fad": 2.5, "clips": 7}
    table = comparison(result | {"bounds": bounds, "by_class": {"rain": 0.5}})
    first, onset, fad, *_, kinds, counts = table.split("\n")
    assert first.split() == ["generated", "95", "%", "truth", "floor", "new"]
    assert onset.split() == ["onset_f1_100ms", "81.5", "%", "70..90", "100.0", "%"]
    assert fad.split() == ["fad", "2.50", "1.50", "2.00"]
    assert (kinds, counts) == ("by_class: rain 0.5", "7 clips")


def test_the_classifier_beside_the_code_names_true_sound():
    found = classifier_result(load_classifier(), foleyworld.clip_seeds("test", 0, 40))
    assert found["class_agreement"] >= 0.9 and found["false_alarms"] < 0.02
    assert KEPT.stat().st_size < 2e6


def test_the_last_layer_tells_apart_what_can_be_told():
    random = torch.Generator().manual_seed(0)
    inputs = 5 + 3 * torch.randn(300, 8, generator=random)
    wanted = torch.stack([inputs[:, 0] > 5, inputs[:, 1] + inputs[:, 2] > 10], 1).float()
    weight, bias = logistic_regression(inputs[:200], wanted[:200])
    found = inputs[200:] @ weight.T + bias > 0
    assert (found == (wanted[200:] > 0)).float().mean() > 0.95


def test_a_classifier_is_trained_by_one_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("training.evaluation.classifier.FITTED", 1)
    out = tmp_path / "mine.npz"
    main(["classifier", "--out", str(out), "--steps", "1", "--clips", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["clips"] == 2
    trained = load_classifier(out)
    assert not torch.equal(trained.head.weight, load_classifier().head.weight)
    out.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(DataError, match="mine.npz cannot be read .* classifier --out"):
        load_classifier(out)


@pytest.fixture(scope="module")
def own(run, tmp_path_factory):
    """Media of a user, and shards of them."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "media").mkdir()
    for seed in (*SEEDS, *foleyworld.clip_seeds("validation", 2, 2)):
        scene = foleyworld.make_scene(seed)
        foleyworld.write_clip(folder / f"media/{seed}.mp4", scene, 64, 64, 5, silent=False)
    config = read_checkpoint(run / "ckpt.pt").config
    list(extract(folder / "shards", Source(folder / "media"), config, run / "ckpt.pt"))
    return folder


@pytest.mark.parametrize("has_media", [True, False])
def test_clips_of_a_user_are_measured_against_their_sound(run, own, has_media, capsys):
    words = ["--shards", str(own / "shards"), "--ckpt", str(run / "ckpt.pt"), "--steps", "1"]
    media = ["--media", str(own / "media")] if has_media else []
    main(["generation", "--clips", "2", "--workers", "1", "--json", *words, *media])
    found = json.loads(capsys.readouterr().out)
    assert found["clips"] == 2 and found["fad"] > 0 and found["kld"] >= 0
    assert found["fad_floor"] == found["bounds"]["floor"]["fad"] > 0
    assert found["truth"] == ("the media's sound" if has_media else "the codec's reconstruction")
    assert set(found["bounds"]) - {"reconstruction"} == {"shuffled", "floor"}
    if has_media:
        assert found["bounds"]["reconstruction"]["kld"] >= 0


def test_clips_of_a_user_too_are_heard_at_one_rate_whatever_the_model_has(own):
    config, (path, *_) = open_bundle("real").config, sorted((own / "media").glob("*.mp4"))
    random = np.random.default_rng(0)
    shape = (config.num_codebooks, config.num_token_steps)
    tokens = random.integers(config.codebook_size, size=shape, dtype=np.int32)
    features = random.standard_normal((config.num_frames, config.visual_dim), np.float32)
    clip = UserClip(tokens, features, 8.0, Segment(path.name, 0.0, 8.0))
    job = UserJob(clip, clip, own / "media")
    sounds, _ = sounds_of_user_clip(0, job, EvalConfig(bundle="real"))
    assert {len(sound) for sound in sounds.values()} == {8 * foleyworld.SAMPLE_RATE_HZ}
    true = foleyworld.make_scene(int(path.stem)).audio()
    heard = np.corrcoef(sounds["ground_truth"], true[: 8 * foleyworld.SAMPLE_RATE_HZ])[0, 1]
    assert heard > 0.8  # AAC between them


def test_media_of_clips_must_be_there(run, own, tmp_path, refused):
    words = ["--shards", str(own / "shards"), "--ckpt", str(run / "ckpt.pt"), "--clips", "2"]
    words += ["--media", str(tmp_path), "--steps", "1", "--workers", "1"]
    said = refused(main, "generation", *words)
    assert "give --media the folder that training.extract was given" in said


def test_colouring_keeps_length_and_finiteness():
    audio = torch.from_numpy(np.stack([foleyworld.make_scene(i).audio() for i in range(2)]))
    coloured = colour(audio, np.random.default_rng(0))
    assert coloured.shape == audio.shape and torch.isfinite(coloured).all()
    assert (coloured - audio).abs().max() > 0.01


def command(capsys, *words):
    main([*words, "--clips", "3", "--workers", "1", "--json"])
    return json.loads(capsys.readouterr().out)


def test_a_model_of_another_rate_is_heard_at_the_worlds():
    seeds = foleyworld.clip_seeds("validation", 0, 2)
    sounds, _ = sounds_of_scene(0, tuple(seeds), EvalConfig(bundle="real", varied=0))
    assert {len(sound) for sound in sounds.values()} == {foleyworld.NUM_SAMPLES}

    def course(name):  # of the level, every 10 ms
        return np.log(1e-6 + (sounds[name].reshape(-1, 160) ** 2).mean(1))

    assert np.corrcoef(course("reconstruction"), course("ground_truth"))[0, 1] > 0.8
    assert np.corrcoef(course(OTHER), course("ground_truth"))[0, 1] < 0.6


def test_retrieval_of_held_out_clips(run, capsys):
    found = command(capsys, "retrieval", "--run", str(run))
    for way in ("video_to_audio", "audio_to_video"):
        assert {"r1", "r5", "r10"} <= set(found[way])
        assert found[way]["r5"] == 1, "there are only three clips"


def test_what_fits_by_the_score_of_a_model_that_knows_nothing(run, tmp_path, capsys):
    """Shares and their intervals, whatever they are."""
    words = ("--ckpt", str(run / "ckpt.pt"), "--run", str(tmp_path), "--steps", "1")
    found = command(capsys, "fit", *words)
    assert found["clips"] == 3 and found["search_in_time"]["r10"] == 1
    assert set(found["shifted"]) == {"0.1s", "0.2s", "0.5s"}
    for part, name in (
        (found, "best_of_2"),
        (found, "best_of_3"),
        (found["shifted"]["0.2s"], "all"),
    ):
        low, high = part[f"{name}_95"]
        assert 0 <= low <= part[name] <= high <= 1


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
        (["generation", "--media", "x"], "--media x is of the clips of --shards"),
        (["classifier"], "classifier needs --out FILE.npz"),
        (["generation", "--device", "cuda"], "--device cuda is of a checkpoint, expected --ckpt"),
        (["generation", "--ckpt", "x", "--precision", "int8"], "int8 came with --ckpt, expected"),
        (["decoding", "--precision", "int8"], "came with decoding, expected it in its --settings"),
        (["generation", "--embedding", "vggish"], "expected classifier, vggish:FILE"),
        (["generation", "--embedding", "vggish:none.pth"], "none.pth is not there"),
        (["fit", "--sounds", "x"], "needs --sounds DIR and --pictures DIR, expected both"),
        (["generation", "--seed", "-1"], "first seed is -1"),
        (["retrieval", "--bundle", "default"], "a bundle only generates, expected --ckpt"),
        (["retrieval", "--weights", "empty"], "python -m training.contrastive"),
        (["classification", "--weights", "empty"], "python -m training.classification"),
        (["retrieval", "--ckpt", "2s.pt", "--weights", "."], "does not belong to these weights"),
        (["generation", "--ckpt", "2s.pt"], "makes 2 s at 16000 Hz, expected the clips of Foley"),
    ],
)
def test_mistakes_end_in_one_line_before_any_work(run, words, message, capsys, monkeypatch):
    monkeypatch.chdir(run)
    for module in ("generation", "user_clips"):
        monkeypatch.setattr(f"training.evaluation.{module}.evaluate_clips", pytest.fail)
    if "2s.pt" in words and not (run / "2s.pt").exists():
        torch.save(tiny_checkpoint(tiny_config(layers=2)), run / "2s.pt")
    with pytest.raises(SystemExit) as stop:
        main(["--clips", "2", *words, "--run", ".", "--workers", "1"])
    assert stop.value.code == 1
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("error: ") and message in last
