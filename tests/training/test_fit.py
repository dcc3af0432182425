"""What a score and a search find, of scores that are known."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from tiny_bundle import tiny_config

from training import foleyworld
from training.evaluation.fit import (
    FitClip,
    among_others,
    is_lone_impact,
    of_takes,
    place_of,
    recalls,
)
from training.evaluation.kind_search import chances
from vab_rt.engines import Engines
from vab_rt.systems.vab import Said, Vab


def test_the_best_of_a_few_is_what_drawing_them_gives():
    """Of 12 clips one has three better sounds, the others none."""
    scores = np.eye(12)
    scores[0, 3:6] = 2
    found = among_others(scores)
    assert found["best_of_2"] == pytest.approx((11 + 8 / 11) / 12, abs=1e-4)
    none_of_three = (8 / 11) * np.prod([(7 - i) / (10 - i) for i in range(8)])
    assert found["best_of_10"] == pytest.approx((11 + none_of_three) / 12, abs=1e-4)
    assert found["best_of_12"] == pytest.approx(11 / 12, abs=1e-4)


def test_equals_are_no_wins():
    assert among_others(np.zeros((4, 4)))["best_of_2"] == 0


def test_recalls_are_shares_of_places():
    found = recalls([1, 1, 2, 10, 11])
    assert (found["r1"], found["r10"]) == (0.4, 0.8)


def test_the_place_of_a_sound_that_is_not_in_time():
    random = np.random.default_rng(0)
    tokens = random.integers(16, size=(30, 2, 100)).astype(np.int16)
    likely = np.log(np.full((2, 100, 16), 0.01, np.float32))
    books, steps = np.ogrid[:2, :100]
    likely[books, steps, np.roll(tokens[7], 20, 1)] = 0
    said = Said(likely, np.full_like(likely, np.log(1 / 16)))
    system = Vab(tiny_config(), Engines({}, "cpu"))
    assert place_of(7, said, tokens, system) == 1
    assert place_of(7, Said(said.without, said.without), tokens[:16], system) == 8
    flat = place_of(29, Said(said.without, said.without), tokens, system)
    assert flat == 31, "not among those that are tried"


def test_takes_are_judged_by_their_onsets():
    """Two clips of two takes, in which the second is right and once has the better score."""
    onsets = np.array([[0, 4, 4], [4, 4, 4]])
    clips = [
        FitClip(np.empty(0), np.empty(0), np.array(scores), onsets)
        for scores in ([0.1, 0.2], [0.2, 0.1])
    ]
    found = of_takes(clips)
    assert (found["onset_f1_first"], found["onset_f1_best_by_truth"]) == (0, 1)
    assert found["onset_f1_best_score"] == found["gain"] == 0.5


def test_lone_impacts():
    assert is_lone_impact(foleyworld.make_scene(0, kind="drum", num_sources=1))
    assert not is_lone_impact(foleyworld.make_scene(0, kind="drum", num_sources=2))
    assert not is_lone_impact(foleyworld.make_scene(0, kind="rain", num_sources=1))


def test_chance_of_a_kind():
    found = chances([5, 15], 20)
    assert found["first_of_kind_chance"] == 0.5
    assert found["ten_hold_kind_chance"] == pytest.approx(
        1 - 0.5 * (252 * 0 + 3003 / 184756), abs=1e-4
    )
