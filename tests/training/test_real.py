"""The evaluation on real pictures and recordings: of synthetic ones, by a stand-in classifier."""

import csv
import io
import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import av
from checkpoints import tiny_checkpoint, tiny_config
from real_folders import small_config, write_folders, write_sound

from training.datasets.material import AMBIENCE
from training.efficientnet import load_efficientnet
from training.evaluate import main
from training.evaluation import real
from training.evaluation.evaluator import EvalConfig
from training.evaluation.kind_ear import load_ear, made_ear, told_share, told_sound
from training.evaluation.kind_search import evaluate_kind_search
from training.evaluation.kinds_document import document
from training.evaluation.models import open_any_model
from training.evaluation.real import RealConfig, clip_config, evaluate_real, given_rows
from training.evaluation.real_clips import read_rows, table_shares
from training.evaluation.real_figures import real_result
from training.evaluation.spectrograms import drawn_clips, sheet
from training.evaluation.yamnet import windows
from training.kinds import KindsEncoder, train_kinds
from vab_rt.errors import DataError, OptionError
from vab_rt.options import GenerateOptions
from vab_rt.pipeline import load

KINDS = ("hiss", "hum", "tick", AMBIENCE)
SPLITS = ("train", "train", "validation", "test")


class Bands:
    """Scores: shares of power in 16 bands, and how unsteady the sound is."""

    names = tuple(f"band {i}" for i in range(17))

    def __call__(self, sound):
        found = windows(sound)
        power = np.abs(np.fft.rfft(found)) ** 2
        bins = power[:, : power.shape[1] // 16 * 16].reshape(len(power), 16, -1).sum(2)
        level = (found.reshape(len(found), 40, -1) ** 2).mean(2)
        unsteady = level.std(1) / (level.mean(1) + 1e-9)
        scores = np.column_stack([bins / (bins.sum(1, keepdims=True) + 1e-9), unsteady / 6])
        return scores.astype(np.float32)


def open_bands(classifier):
    return Bands()


def with_splits(folder):
    for what, ending in (("sounds", "wav"), ("pictures", "png")):
        with (folder / f"{what}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("file", "split"))
            for kind in sorted((folder / what).iterdir()):
                rows.writerows(
                    (f"{kind.name}/{i}.{ending}", split) for i, split in enumerate(SPLITS)
                )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return with_splits(write_folders(tmp_path_factory.mktemp("real")))


@pytest.fixture(scope="module")
def checkpoint(folder):
    config = tiny_config(
        kinds=KINDS,
        clip_s=4.0,
        image_size=64,
        visual_rate_hz=25.0,
        image_stride=10,
        motion_size=32,
        motion_dim=8,
        motion_reach=3,
    )
    torch.save(tiny_checkpoint(config), folder / "ckpt.pt")
    return folder / "ckpt.pt"


def real_config(folder, **changes):
    facts = {"classifier": "bands", "sounds": folder / "sounds", "pictures": folder / "pictures"}
    return RealConfig(**facts | changes)


@pytest.fixture(scope="module")
def figures(folder, checkpoint):
    model = EvalConfig(checkpoint=checkpoint, options=GenerateOptions(steps=1))
    config = real_config(folder, model=model, clips=4, kept=folder / "kept")
    return evaluate_real(config, open_classifier=open_bands)


def test_a_model_stands_beside_its_bounds(figures):
    result = real_result(figures)
    assert list(result["bounds"]) == [
        *("ground_truth", "reconstruction", "retrieved", "unconditional", "shuffled")
    ]
    assert result["bounds"]["ground_truth"]["right_kind"] > 0.9
    assert result["right_kind"] <= 0.75 and result["clips"] == 12  # of random weights
    assert not result["three_in_four_above_half"]
    assert result["probe"]["kinds"] == 3
    hum, tick = result["by_kind"]["hum"], result["by_kind"]["tick"]
    assert (hum["seen_by"], hum["seen_right"], hum["retrieved"]) == ("name", 1.0, 1.0)
    assert (tick["seen_by"], tick["recordings"], tick["test_recordings"]) == ("picture", 4, 1)
    truth = result["bounds"]["ground_truth"]
    assert 0 < truth["struck_clips"] <= 8 and truth["onset_f1_100ms"] > 0.8
    json.dumps(result)


def test_what_was_scored_is_kept(folder, checkpoint, figures, monkeypatch):
    monkeypatch.setattr(real, "sounds_of_clip", None)
    model = EvalConfig(checkpoint=checkpoint, options=GenerateOptions(steps=1))
    config = real_config(folder, model=model, clips=4, kept=folder / "kept")
    again = evaluate_real(config, open_classifier=open_bands)
    assert real_result(again) == real_result(figures)


def test_the_sheet_has_a_row_a_kind(figures):
    rows = drawn_clips(figures.clips)
    assert [clip.kind for clip in rows] == ["hiss", "hum", "tick"]
    with av.open(io.BytesIO(sheet(rows, 4.0)), format="png_pipe") as file:
        (picture,) = file.decode(video=0)
    assert picture.width > 800 and picture.height > 300


def test_the_document_has_every_kind_and_says_what_is_not_known(figures):
    result = real_result(figures)
    result["by_kind"]["wolf"] = {"recordings": 3, "test_recordings": 0, "pictures": 0}
    result |= {"model": "mine", "per_kind": 4}
    text = document({"command": "evaluate real", "date": "2026-11-29", "result": result})
    for kind in ("hiss", "hum", "tick"):
        assert f"\n| {kind} |" in text
    assert "Tested by name alone (`--kind`), as there was no picture of it: hum." in text
    assert "Learned and never tested, as no recording could be held out: wolf." in text
    assert "| the true sound | 100 %" in text


def test_an_ear_is_trained_kept_and_measures_what_it_is_told(folder, checkpoint, tmp_path):
    model, path = EvalConfig(checkpoint=checkpoint), tmp_path / "ear.npz"
    pipeline = open_any_model(model).pipeline
    result = made_ear(path, folder / "sounds", pipeline)
    assert result["right_kind"] == 1 and result["told"] == ["hiss", "hum", "tick"]
    ear = load_ear(path)
    assert ear.right == pytest.approx(result["told_right"], abs=1e-4) and path.stat().st_size < 9000
    assert told_share(pipeline, ear.probe, ear.told) == ear.right
    with pytest.raises(OptionError, match="no kind bell"):
        told_sound(pipeline, "bell", 0)
    with pytest.raises(DataError, match="training.evaluate kinds"):
        load_ear(tmp_path / "none.npz")
    write_sound(tmp_path / "sounds" / "bell" / "0.wav", np.ones(8000))
    with pytest.raises(DataError, match="no kind that the model knows, expected some of: hiss, hu"):
        made_ear(path, tmp_path / "sounds", pipeline)
    with pytest.raises(OptionError, match="has no names"):
        made_ear(path, folder / "sounds", open_any_model(EvalConfig()).pipeline)


def test_a_search_among_recordings_of_what_is_seen(folder, checkpoint, capsys):
    """Shares of the clips with a picture, and as many files as are held out."""
    words = ["--sounds", str(folder / "sounds"), "--pictures", str(folder / "pictures")]
    words += ["--ckpt", str(checkpoint), "--per-kind", "2", "--workers", "1", "--json"]
    main(["fit", *words])
    found = json.loads(capsys.readouterr().out)
    assert found["files"] == 3 and found["clips"] == 2 * found["kinds"] > 0
    assert found["ten_hold_kind"] == found["ten_hold_kind_chance"] == 1, "all are among ten"
    assert 0 <= found["first_of_kind"] <= 1 and found["own_sound"]["r10"] == 1


def test_without_a_model_kinds_are_seen_by_the_table(folder, tmp_path, monkeypatch):
    recipe = small_config(clip_s=4.0, image_size=224)
    monkeypatch.setattr(real, "clip_config", lambda config: recipe)
    table = tmp_path / "kinds.csv"
    table.write_text("imagenet_index,kind\n" + "".join(f"{i},hiss\n" for i in range(1000)))
    with pytest.raises(OptionError, match="expected --table"):
        evaluate_real(real_config(folder, clips=1), open_classifier=open_bands)
    found = evaluate_real(real_config(folder, clips=1, table=table), open_classifier=open_bands)
    result = real_result(found)
    assert list(result["bounds"]) == ["ground_truth", "retrieved"] and "right_kind" not in result
    assert result["by_kind"]["hiss"]["seen_right"] == 1
    assert result["by_kind"]["tick"]["seen_right"] == 0


def test_shares_by_the_table_add_up():
    logits = np.zeros((2, 1000), np.float32)
    found = table_shares(logits, {0: "tick", 1: "hum", 2: "bell"}, KINDS)
    np.testing.assert_allclose(found, [0, 0.001, 0.001, 0.998], atol=1e-4)


def write_rows(path, label=(0, 1), **changes):
    random = np.random.default_rng(0)
    arrays = {
        "logits": random.standard_normal((2, 1000)),
        "feature": random.standard_normal((2, 1280)),
        "label": np.array(label),
    }
    np.savez(path, **arrays | changes)
    return path


def test_image_features_are_seen_as_their_images_would_be(folder, tmp_path):
    """What the checkpoint's encoder makes of an image, and of the recogniser's view of it."""
    config = tiny_config(
        image_encoder="efficientnet-lite0", image_size=224, kinds=KINDS, visual_dim=12
    )
    images = [np.full((224, 224, 3), level, np.uint8) for level in (40, 200)]
    encoder = train_kinds(config, zip(images, ["hiss", "tick"], strict=True), {0: "hum"})
    assert isinstance(encoder, KindsEncoder)
    frames = torch.from_numpy(np.stack(images))
    with torch.inference_mode():
        logits, feature = encoder.recogniser(frames)
        assert torch.equal(encoder.features(logits, feature), encoder(frames))
    rows = write_rows(tmp_path / "rows.npz")
    assert given_rows(real_config(folder, rows=rows)).seen is None
    with pytest.raises(OptionError, match="vab-tiny has another image encoder"):
        given_rows(real_config(folder, rows=rows, model=EvalConfig()))


def test_a_bundle_sees_image_features_as_it_sees_their_images(folder, tmp_path):
    config = load("real").config
    images = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), np.uint8)
    with torch.inference_mode():
        logits, feature = load_efficientnet(config)(torch.from_numpy(images))
    rows = write_rows(tmp_path / "rows.npz", logits=logits.numpy(), feature=feature.numpy())
    found = given_rows(real_config(folder, rows=rows, model=EvalConfig(bundle="real"))).seen
    seen = load("real").system.engines["visual_encoder"](frames=images)
    np.testing.assert_allclose(found, seen, atol=1e-4)


def test_other_options_keep_their_own_clips(folder, checkpoint, figures):
    model = EvalConfig(checkpoint=checkpoint, options=GenerateOptions(steps=2))
    config = real_config(folder, model=model, clips=4, kept=folder / "kept")
    again = evaluate_real(config, open_classifier=open_bands)
    made = [clip.arrays["scores/generated"] for clip in again.clips]
    assert not np.array_equal(made, [clip.arrays["scores/generated"] for clip in figures.clips])


@pytest.mark.parametrize(
    ("changes", "found"),
    [({"label": [0]}, r"label \(1,\)"), ({"logits": np.zeros((2, 9))}, r"logits \(2, 9\)")],
)
def test_rows_that_do_not_fit_are_refused(tmp_path, changes, found):
    with pytest.raises(DataError, match=found):
        read_rows(write_rows(tmp_path / "rows.npz", **changes))
    with pytest.raises(DataError, match="cannot be read"):
        read_rows(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--pictures p --classifier yamnet:f", "real lacks --sounds"),
        ("--sounds s --pictures p", "real lacks --classifier"),
        ("--sounds s --pictures p --classifier yamnet:f --per-kind 0", "per-kind is 0"),
        ("--sounds s --pictures p --classifier other", "expected yamnet:FILE"),
    ],
)
def test_a_wrong_call_is_one_line(words, message, refused):
    assert message in refused(main, "real", *words.split())


def test_a_model_without_kinds_is_refused(folder):
    with pytest.raises(OptionError, match="has no names for what it sees"):
        evaluate_kind_search(EvalConfig(), folder / "sounds", folder / "pictures", 2)
    with pytest.raises(OptionError, match="has no names for what it sees"):
        clip_config(real_config(folder, model=EvalConfig(bundle="default")))
