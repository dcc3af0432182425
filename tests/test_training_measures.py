"""The measures score the truth near their maximum, and noise near nothing."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the measures need scipy")

from training import foleyworld
from training.measures import agreement, frechet_distance, kl_divergence, onset_f1, onset_times


@pytest.fixture(scope="module")
def impacts():
    scenes = [
        foleyworld.make_scene(foleyworld.clip_seeds("validation", 0, 12)[i], kind)
        for i, kind in enumerate(["ball", "drum", "hammer"] * 4)
    ]
    true = [np.array(scene.truth.events[scene.truth.classes[0]]) for scene in scenes]
    return [scene.audio() for scene in scenes], true


def test_onsets_of_true_sound_are_the_events(impacts):
    audio, true = impacts
    found = [onset_times(sound, 16_000) for sound in audio]
    assert onset_f1(found, true, 0.05) > 0.97


def test_onsets_of_another_clip_score_far_lower(impacts):
    audio, true = impacts
    found = [onset_times(sound, 16_000) for sound in audio]
    assert onset_f1(found[1:] + found[:1], true, 0.05) < 0.35


def test_noise_and_silence_have_no_onsets():
    noise = np.random.default_rng(0).standard_normal(160_000).astype(np.float32) * 0.1
    assert len(onset_times(noise, 16_000)) < 5
    assert len(onset_times(np.zeros(160_000, np.float32), 16_000)) == 0


def test_onsets_match_one_to_one():
    true = [np.array([1.0, 2.0])]
    assert onset_f1([np.array([1.01, 1.02, 1.03, 2.0])], true, 0.05) == pytest.approx(4 / 6)
    assert onset_f1([np.array([1.2, 2.2])], true, 0.1) == 0
    assert onset_f1([np.array([])], [np.array([])], 0.1) == 1


def test_agreement_counts_and_bounds_itself():
    share, half_width = agreement(np.eye(4)[[0, 1, 2, 0]], np.array([0, 1, 2, 3]))
    assert share == 0.75
    assert half_width == pytest.approx(1.96 * np.sqrt(0.75 * 0.25 / 4))


def test_distances_are_zero_on_equals_and_known_on_gaussians():
    random = np.random.default_rng(0)
    a = random.standard_normal((20_000, 3))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(12, rel=0.01)  # |(2, 2, 2)|^2
    p = random.dirichlet(np.ones(5), 100)
    assert kl_divergence(p, p) == pytest.approx(0, abs=1e-9)
    half = np.tile([0.5, 0.5], (3, 1))
    assert kl_divergence(half, np.tile([0.25, 0.75], (3, 1))) == pytest.approx(0.1438, abs=1e-3)
