"""Onsets by ear are those of the truth; what matches counts once; a metronome is no listener."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the measures need scipy")

from training import foleyworld
from training.evaluation.onsets import (
    PERIODS_S,
    best_metronome,
    matches,
    metronome,
    onset_counts,
    onset_f1,
    onset_precision,
    onset_recall,
    onset_times,
)


@pytest.fixture(scope="module")
def impacts():
    scenes = [
        foleyworld.make_scene(foleyworld.clip_seeds("validation", 0, 12)[i], kind)
        for i, kind in enumerate(["ball", "drum", "hammer"] * 4)
    ]
    true = [np.array(scene.truth.events[scene.truth.classes[0]]) for scene in scenes]
    return [onset_times(scene.audio(), 16_000) for scene in scenes], true


def f1(found, true, tolerance_s):
    return onset_f1(onset_counts(found, true, tolerance_s))


def test_onsets_of_true_sound_are_the_events(impacts):
    found, true = impacts
    assert f1(found, true, 0.05) > 0.97
    assert f1(found[1:] + found[:1], true, 0.05) < 0.35


def test_noise_and_silence_have_no_onsets():
    noise = np.random.default_rng(0).standard_normal(160_000).astype(np.float32) * 0.1
    assert len(onset_times(noise, 16_000)) < 5
    assert len(onset_times(np.zeros(160_000, np.float32), 16_000)) == 0


@pytest.mark.parametrize(
    ("found", "true", "pairs"),
    [
        ([1.01, 1.02, 1.03, 2.0], [1.0, 2.0], [[0, 0], [3, 1]]),
        ([1.2, 2.2], [1.0, 2.0], []),
        ([0.95, 1.05], [1.0, 1.1], [[0, 0], [1, 1]]),
        ([], [1.0], []),
    ],
)
def test_onsets_match_one_to_one(found, true, pairs):
    assert matches(np.array(found), np.array(true), 0.1).tolist() == pairs


@pytest.mark.parametrize(
    ("counts", "precision", "recall", "score"),
    [
        ([[1, 2, 1], [0, 0, 3]], 1 / 2, 1 / 4, 1 / 3),
        ([[0, 0, 3]], 0, 0, 0),
        ([[0, 2, 0]], 0, 1, 0),
        ([[0, 0, 0]], 1, 1, 1),
    ],
)
def test_shares_are_of_all_clips_together(counts, precision, recall, score):
    counts = np.array(counts)
    assert onset_precision(counts) == precision and onset_recall(counts) == recall
    assert onset_f1(counts) == pytest.approx(score)


def test_the_best_metronome_is_better_than_any_other(impacts):
    _, true = impacts
    best_s = best_metronome(true, 10.0, 0.1)
    scores = [f1([metronome(period_s, 10.0)] * len(true), true, 0.1) for period_s in PERIODS_S]
    assert scores[PERIODS_S.index(best_s)] == max(scores) < 0.5
    assert metronome(0.5, 2.0).tolist() == [0.25, 0.75, 1.25, 1.75]
