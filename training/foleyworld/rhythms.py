"""When impacts happen and how a tool moves between them: sparse, uneven, hard to guess."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from training.foleyworld.sounds import CLIP_S, LAST_HIT_S
from training.foleyworld.stage import striking

FEWEST, MOST = 4, 9
FALL_S, RISE_S = 0.25, 0.4
MISS_S, MISS_SHARE = 0.28, 0.5
UNEVEN = 1.4  # the longest gap over the shortest, at least

Gaps = Callable[[np.random.Generator], Iterator[float]]


class Miss(NamedTuple):
    """A stroke that stops short of contact, silently: how far it comes, 0..1, and when."""

    time_s: float
    depth: float


def draw_rhythm(rng: np.random.Generator, gaps: Gaps) -> tuple[float, ...]:
    """4 to 9 event times in a clip, by gaps in seconds; even ones are drawn again."""
    for _ in range(1000):
        events = [float(rng.uniform(0.25, 1.5))]
        for gap in gaps(rng):
            if events[-1] + gap > LAST_HIT_S:
                break
            events.append(events[-1] + gap)
        if sparse(events):
            return tuple(events)
    raise AssertionError("these gaps never give a sparse, uneven rhythm")


def sparse(events_s: Sequence[float]) -> bool:
    """Whether the events are neither too few, too many, nor evenly spaced."""
    if not FEWEST <= len(events_s) <= MOST:
        return False
    gaps = np.diff(events_s)
    return bool(gaps.max() >= UNEVEN * gaps.min())


def irregular(rng: np.random.Generator) -> Iterator[float]:
    """Gaps with no pattern."""
    while True:
        yield float(rng.uniform(0.5, 2.5))


def neighbours(time_s: float, events_s: Sequence[float]) -> tuple[float, float]:
    """The events before and after a time; far away where there is none."""
    i = bisect_right(events_s, time_s + 1e-6)
    before = events_s[i - 1] if i else -99.0
    return before, events_s[i] if i < len(events_s) else 99.0


def draw_misses(rng: np.random.Generator, events_s: Sequence[float]) -> tuple[Miss, ...]:
    """Strokes that stop short, in half of the gaps with room for one."""
    misses = []
    for before, after in pairwise((-RISE_S, *events_s, CLIP_S + FALL_S)):
        room = before + RISE_S + MISS_S, after - FALL_S - MISS_S
        where, depth, drawn = float(rng.random()), float(rng.uniform(0.4, 0.7)), rng.random()
        if room[0] < room[1] and drawn < MISS_SHARE:
            misses.append(Miss(room[0] + (room[1] - room[0]) * where, depth))
    return tuple(misses)


def short_of(time_s: float, misses: Sequence[Miss]) -> float:
    """How far a stroke that will miss has come, 0 when there is none."""
    for miss in misses:
        if abs(time_s - miss.time_s) < MISS_S:
            return miss.depth * math.cos(0.5 * math.pi * (time_s - miss.time_s) / MISS_S) ** 2
    return 0.0


def raised(time_s: float, events_s: Sequence[float], misses: Sequence[Miss] = ()) -> float:
    """A tool's height 0..1: it falls within 0.25 s, touches at the event and springs back."""
    before, after = neighbours(time_s, events_s)
    gap = after - before
    fall_s = min(FALL_S, 0.5 * gap)
    rise = min(1.0, max(0.0, (time_s - before) / min(RISE_S, gap - fall_s)))
    fall = max(0.0, (time_s - after + fall_s) / fall_s)
    height = min(1.0, 0.4 + gap) * rise * (2 - rise) * (1 - fall * fall)
    return height * (1 - short_of(time_s, misses))


def phase(time_s: float, events_s: Sequence[float]) -> int:
    """0 striking, 1 rising, 2 waiting, 3 about to strike: an index into a source's words."""
    before, after = neighbours(time_s, events_s)
    if striking(time_s, events_s):
        return 0
    if after - time_s <= min(FALL_S, 0.5 * (after - before)):
        return 3
    return 1 if time_s - before < RISE_S else 2
