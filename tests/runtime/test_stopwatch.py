"""Time by stage: nested stages, stages that feed each other, stages that fail."""

import pytest

from vab_rt import stopwatch
from vab_rt.stopwatch import Stopwatch


@pytest.fixture
def now(monkeypatch):
    """The time, as a list of one number that the test moves on."""
    time = [100.0]
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: time[0])
    return time


def test_an_inner_stage_stops_the_outer_ones_time(now):
    clock = Stopwatch("outer", "inner")
    with clock.time("outer"):
        now[0] += 1
        with clock.time("inner"):
            now[0] += 2
        now[0] += 4
    now[0] += 8
    assert clock.seconds == {"outer": 5, "inner": 2}


def test_a_chain_of_stages(now):
    def takes(seconds, items):
        for item in items:
            now[0] += seconds
            yield item

    clock = Stopwatch("read", "work")
    read = clock.each("read", takes(1, range(3)))
    work = clock.each("work", takes(2, read))
    for _ in work:
        now[0] += 100  # the caller's own time
    assert clock.seconds == {"read": 3, "work": 6}


def test_a_failing_stage_is_counted_and_left(now):
    clock = Stopwatch("stage")
    with pytest.raises(ValueError), clock.time("stage"):
        now[0] += 1
        raise ValueError
    now[0] += 10
    with clock.time("stage"):
        now[0] += 1
    assert clock.seconds == {"stage": 2}
