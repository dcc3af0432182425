"""Impacts: sparse and uneven in time, heard at the events, named by the captions."""

import numpy as np
import pytest
from foleyworld_scenes import with_place

from training.foleyworld import CLIP_S, FAMILIES, make_scene
from training.foleyworld.rhythms import draw_rhythm, irregular, phase, raised, sparse

IMPACTS = [kind for kind, family in FAMILIES.items() if family == "impact"]
NEW = ("footsteps", "clock", "knock")
SEEDS = range(30)


def loudest_near(audio: np.ndarray, time_s: float) -> float:
    """When the sound first comes within 6 dB of its peak, in 50 ms around a time."""
    start = max(0, round((time_s - 0.025) * 16_000))
    size = np.abs(audio[start : start + 800])
    return (start + int(np.argmax(size > 0.5 * size.max()))) / 16_000


@pytest.mark.parametrize("kind", IMPACTS)
def test_events_are_few_and_uneven(kind):
    counts = set()
    for seed in SEEDS:
        events = make_scene(seed, kind).truth.events[kind]
        gaps = np.diff(events)
        counts.add(len(events))
        assert 4 <= len(events) <= 9
        assert gaps.min() >= 0.2
        assert gaps.max() >= 1.4 * gaps.min()
        assert 0.0 <= events[0]
        assert events[-1] < CLIP_S
    assert len(counts) >= 3


@pytest.mark.parametrize("kind", IMPACTS)
def test_sound_starts_at_the_events(kind):
    for seed in range(5):
        scene = with_place(make_scene(seed, kind), size=0.5, distance=2.0)
        audio = scene.audio()
        for time_s in scene.truth.events[kind]:
            assert abs(loudest_near(audio, time_s) - time_s) < 0.012


@pytest.mark.parametrize("kind", IMPACTS)
def test_captions_name_the_impact_and_nothing_else(kind):
    for seed in range(6):
        scene = make_scene(seed, kind)
        events = np.array(scene.truth.events[kind])
        for time_s in (np.arange(100) + 0.5) / 10:
            since = time_s - events[events <= time_s].max(initial=-9.0)
            named = any(word in scene.caption(time_s) for word in ("striking", "landing"))
            named = named and "about to" not in scene.caption(time_s)
            assert named == (since < 0.1)


@pytest.mark.parametrize("kind", NEW)
def test_every_material_is_drawn(kind):
    found = {make_scene(seed, kind).truth.attributes[kind]["material"] for seed in range(12)}
    assert len(found) == {"footsteps": 4, "clock": 1, "knock": 3}[kind]


def test_a_tool_falls_only_in_the_last_quarter_second():
    events = (1.0, 3.0, 3.5)
    assert raised(1.0, events) == 0.0
    assert raised(2.7, events) == 1.0
    assert raised(2.99, events) < 0.1
    assert [phase(time_s, events) for time_s in (1.05, 1.3, 2.0, 2.9)] == [0, 1, 2, 3]
    assert phase(9.0, events) == 2


def test_rhythms_are_refused_when_even_or_crowded():
    assert sparse((0.0, 1.0, 3.0, 4.0))
    assert not sparse((0.0, 1.0, 2.0, 3.0))
    assert not sparse((0.0, 1.0, 3.0))
    assert not sparse(tuple(0.5 * i * i for i in range(10)))
    one, two = (draw_rhythm(np.random.default_rng(5), irregular) for _ in range(2))
    assert one == two
