"""What a sound is heard as: windows, means and the probe by a stand-in; YAMNet where its file
is given in VAB_RT_YAMNET."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training.evaluation.kind_probe import logs, shares_right, train_probe
from training.evaluation.yamnet import (
    GENERAL,
    HOP,
    LABELS,
    RATE_HZ,
    WINDOW,
    YAMNet,
    at_16_khz,
    divergence,
    heard_alike,
    mean_scores,
    open_yamnet,
    windows,
)
from vab_rt.errors import BackendError, DataError, OptionError

FILE = os.environ.get("VAB_RT_YAMNET")
TONES_HZ = {"low": 300.0, "middle": 1000.0, "high": 4000.0}


def bands(sound):
    """Stand-in scores: the share of power in each of 16 bands [windows, 16]."""
    power = np.abs(np.fft.rfft(windows(sound))) ** 2
    bins = power[:, : power.shape[1] // 16 * 16].reshape(len(power), 16, -1).sum(2)
    return (bins / (bins.sum(1, keepdims=True) + 1e-9)).astype(np.float32)


def tone(hz, random, duration_s=3.0, rate_hz=RATE_HZ):
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    wave = 0.3 * np.sin(2 * np.pi * hz * random.uniform(0.9, 1.1) * times_s)
    return (wave + 0.01 * random.standard_normal(len(times_s))).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "count"), [(1, 1), (WINDOW, 1), (WINDOW + 1, 2), (WINDOW + HOP, 2), (160_000, 20)]
)
def test_windows_reach_the_end_of_a_sound(samples, count):
    sound = np.arange(1, samples + 1, dtype=np.float32)
    found = windows(sound)
    assert found.shape == (count, WINDOW)
    assert found.max() == samples and found[0, 0] == 1


def test_pauses_and_the_sample_rate_change_nothing():
    random = np.random.default_rng(0)
    sound = tone(1000, random, duration_s=10 * HOP / RATE_HZ)
    alone = mean_scores(bands, sound)
    paused = mean_scores(bands, np.concatenate([sound, np.zeros(20 * HOP, np.float32)]))
    np.testing.assert_allclose(paused, alone, atol=0.1)
    fast = tone(1000, np.random.default_rng(0), 10 * HOP / RATE_HZ, rate_hz=24_000)
    assert mean_scores(bands, at_16_khz(fast, 24_000)).argmax() == alone.argmax()


def test_the_probe_learns_kinds_and_its_shares_have_intervals():
    random = np.random.default_rng(1)
    kinds = [kind for kind in TONES_HZ for _ in range(6)]
    heard = [mean_scores(bands, tone(TONES_HZ[kind], random)) for kind in kinds]
    scores = logs(np.stack(heard))
    probe = train_probe(scores[::2], kinds[::2])
    found = probe.names(scores[1::2])
    assert found == kinds[1::2]
    wrong = ["low", *found[1:3], *["middle"] * 3, *["middle"] * 3]
    result = shares_right(wrong, kinds[1::2])
    assert result["right_kind"] == pytest.approx(6 / 9, abs=1e-4)
    assert result["right_kind_95"][0] < 6 / 9 < result["right_kind_95"][1]
    assert result["kinds_above_half"] == 2 and result["by_kind"]["high"]["right_kind"] == 0
    assert result["by_kind"]["high"]["taken_for"] == "middle"
    with pytest.raises(DataError, match="1 kinds"):
        train_probe(scores[:3], kinds[:3])


def test_sounds_are_heard_alike_by_specific_classes():
    names = ("Animal", "Dog", "Rain", *(f"class {i}" for i in range(20)))
    assert "Animal" in GENERAL
    true = np.zeros(23)
    true[:3] = 0.9, 0.8, 0.1
    made = np.linspace(0.5, 0.1, 23)
    made[[1, 2]] = 0
    true[3:5] = 0.05, 0.05
    made[3:5] = 0
    assert not heard_alike(true, made, names)  # of the general class alone
    assert heard_alike(true, np.eye(23)[1] * 0.3 + made / 9, names)
    assert divergence(true, true) == pytest.approx(0)
    assert divergence(true, made) > divergence(true, true + 0.01)


def not_yamnet(path, text="one\ntwo"):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(LABELS, text)
    return path


@pytest.mark.parametrize("text", ["yamnet", "yamnet:", "vggish:x", ""])
def test_a_classifier_is_named_by_its_file(text):
    with pytest.raises(OptionError, match="yamnet:FILE"):
        open_yamnet(text)


def test_a_file_that_is_not_yamnet_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("ai_edge_litert", reason="YAMNet needs ai-edge-litert")
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"x" * 100)
    for path in (tmp_path / "missing.tflite", damaged, not_yamnet(tmp_path / "other.tflite")):
        with pytest.raises(DataError, match="expected the .tflite"):
            YAMNet(path)


def test_without_its_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(BackendError, match="pip install ai-edge-litert"):
        YAMNet(Path("yamnet.tflite"))


@pytest.mark.skipif(not FILE, reason="VAB_RT_YAMNET names no yamnet.tflite")
def test_yamnet_hears_silence_and_a_tone():
    pytest.importorskip("ai_edge_litert", reason="YAMNet needs ai-edge-litert")
    yamnet = open_yamnet(f"yamnet:{FILE}")
    silence = yamnet(np.zeros(RATE_HZ, np.float32))
    assert silence.shape == (2, 521) and yamnet.names[silence[0].argmax()] == "Silence"
    times_s = np.arange(RATE_HZ) / RATE_HZ
    heard = yamnet(np.sin(2 * np.pi * 1000 * times_s).astype(np.float32))[0]
    assert yamnet.names[heard.argmax()] in ("Sine wave", "Beep, bleep", "Telephone bell ringing")
