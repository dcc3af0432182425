"""FoleyWorld's scenes of two sources: apart, both seen and heard, the nearer one first."""

from dataclasses import replace

import numpy as np
import pytest

from training.foleyworld import CLASSES, FAMILIES, make_scene
from training.foleyworld.scenes import ALONE, BACKGROUND, PAIR_SHARE
from training.foleyworld.sounds import active_rms


def test_two_sources_stand_apart_and_the_first_is_nearer():
    pairs = [scene for scene in map(make_scene, range(400)) if len(scene.sources) == 2]
    allowed = 1 - len(ALONE) / len(CLASSES)
    assert 0.6 < len(pairs) / (400 * PAIR_SHARE * allowed) < 1.4
    for scene in pairs:
        one, two = (source.place for source in scene.sources)
        assert one.distance < two.distance
        assert one.gain > two.gain
        assert abs(one.ground[0] - two.ground[0]) > 0.8
        assert max(one.scale, two.scale) < 0.6
        assert len(set(scene.classes)) == 2
        assert not set(scene.classes) & set(ALONE)
        impacts = [FAMILIES[kind] for kind in scene.classes].count("impact")
        assert impacts == 1 or (impacts == 0 and BACKGROUND not in scene.classes)
        assert set(scene.truth.events) == set(scene.truth.levels) == set(scene.classes)


def test_two_sources_are_seen_heard_and_named():
    scene = make_scene(5, "drum", 2)
    assert scene.classes[0] == "drum"
    assert " and " in scene.caption(1.0)
    assert scene.classes[1].rstrip("s") in scene.caption(1.0)
    alone = replace(scene, sources=scene.sources[:1])
    other = (slice(16, 64), slice(32, 64) if scene.sources[1].place.center > 0 else slice(0, 32))
    both, one = (s.frames(np.array([0.3, 2.5, 7.1]), 64, 64).astype(int) for s in (scene, alone))
    assert np.abs(both - one)[:, *other].max() > 60
    assert active_rms(scene.audio()) != active_rms(alone.audio())


@pytest.mark.parametrize("kind", ["engine", "bell", None])
def test_the_number_of_sources_can_be_asked_for(kind):
    for seed in range(12):
        assert len(make_scene(seed, kind, 1).sources) == 1
        assert len(make_scene(seed, kind, 2).sources) == 2


def test_every_class_meets_a_second_one():
    pairs = [make_scene(seed, None, 2).classes for seed in range(300)]
    assert {kind for pair in pairs for kind in pair} == set(CLASSES) - set(ALONE)
