"""The measures score the truth near their maximum, and noise near nothing."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the measures need scipy")

from training.evaluation.measures import (
    agreement,
    average_precision,
    bootstrap,
    bootstrap_mean,
    frechet_distance,
    kl_divergences,
    mean_average_precision,
    ranks,
    wilson,
)


def test_agreement_takes_any_of_the_true_classes():
    truth = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 1, 0, 1]], bool)
    scores = np.eye(4)[[0, 3, 0, 1]]
    assert agreement(scores, truth).tolist() == [True, True, False, True]


def test_wilson_is_the_published_interval():
    # Newcombe 1998, table I: 81 of 263, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=1e-4)
    assert wilson(20, 20)[1] == pytest.approx(1)


def test_bootstrap_finds_the_spread_of_a_mean():
    clips = np.random.default_rng(0).normal(5, 2, 400)
    low, high = bootstrap(lambda x: float(x.mean()), clips, np.random.default_rng(1))
    assert low == pytest.approx(clips.mean() - 0.196, abs=0.03)
    assert high == pytest.approx(clips.mean() + 0.196, abs=0.03)
    assert bootstrap_mean(clips, np.random.default_rng(1)) == pytest.approx((low, high))


def test_average_precision_is_that_of_the_definition():
    scores, truth = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert average_precision(scores, truth) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), truth) == pytest.approx(0.5), "equals come together"
    two = np.stack([truth, ~truth, np.zeros(4, bool)], 1)
    perfect = two.astype(float)
    assert mean_average_precision(perfect, two) == 1, "a class without clips does not count"
    assert mean_average_precision(1 - perfect, two) == pytest.approx(0.5)


def test_ranks_put_equals_first():
    similarity = np.array([[3.0, 1, 2], [5, 5, 0], [9, 8, 7]])
    assert ranks(similarity).tolist() == [1, 2, 3]


def test_distances_are_zero_on_equals_and_known_on_gaussians():
    random = np.random.default_rng(0)
    a = random.standard_normal((20_000, 3))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + 2) == pytest.approx(12, rel=0.01)  # |(2, 2, 2)|^2
    p = random.dirichlet(np.ones(5), 100)
    assert kl_divergences(p, p) == pytest.approx(0, abs=1e-9)
    half = np.tile([0.5, 0.5], (3, 1))
    assert kl_divergences(half, np.tile([0.25, 0.75], (3, 1))) == pytest.approx(0.1438, abs=1e-3)
