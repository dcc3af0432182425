"""When impacts happen and how a tool moves between them: sparse, uneven, hard to guess."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from training.foleyworld.sounds import LAST_HIT_S
from training.foleyworld.stage import striking

FEWEST, MOST = 4, 9
FALL_S, REST_S, RISE_S = 0.25, 0.06, 0.4
UNEVEN = 1.4  # the longest gap over the shortest, at least

Gaps = Callable[[np.random.Generator], Iterator[float]]


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


def raised(time_s: float, events_s: Sequence[float]) -> float:
    """A tool's height 0..1: it rests at the event, rises, waits, and falls within 0.25 s."""
    before, after = neighbours(time_s, events_s)
    gap = after - before
    fall_s = min(FALL_S, 0.5 * gap)
    rise = (time_s - before - REST_S) / min(RISE_S, gap - fall_s - REST_S)
    rise = min(1.0, max(0.0, rise))
    fall = max(0.0, (time_s - after + fall_s) / fall_s)
    return min(1.0, 0.4 + gap) * rise * rise * (3 - 2 * rise) * (1 - fall * fall)


def phase(time_s: float, events_s: Sequence[float]) -> int:
    """0 striking, 1 rising, 2 waiting, 3 about to strike: an index into a source's words."""
    before, after = neighbours(time_s, events_s)
    if striking(time_s, events_s):
        return 0
    if after - time_s <= min(FALL_S, 0.5 * (after - before)):
        return 3
    return 1 if time_s - before < REST_S + RISE_S else 2
