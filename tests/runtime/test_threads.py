"""Work beside the thread that asks."""

import signal
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from command import PATIENCE_S

from vab_rt.threads import Helpers


class Interrupted(Exception):
    pass


def test_the_first_error_is_raised_once_nothing_runs_any_more():
    running = []

    def work(i):
        running.append(i)
        time.sleep(0.01 * i)
        running.remove(i)
        raise ValueError(f"of item {i}")

    with pytest.raises(ValueError, match="of item 0"):
        Helpers(3).map(work, range(3))
    assert running == []


def test_several_may_wait_for_the_same():
    gate, found, threads = threading.Event(), [], Helpers(1)
    begun = threads.begin(gate.wait)
    waiting = [threading.Thread(target=lambda: found.append(begun.result())) for _ in range(5)]
    for one in waiting:
        one.start()
    gate.set()
    for one in waiting:
        one.join(PATIENCE_S)
    assert found == [True] * 5


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="its signals are Unix's")
def test_one_that_is_interrupted_wakes_none_of_the_others():
    def interrupt(number, frame):
        raise Interrupted

    gate, threads = threading.Event(), Helpers(1)
    begun = threads.begin(gate.wait)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(Interrupted):
            begun.wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert begun._ended.empty()  # or they would look again and again
    gate.set()
    assert begun.result()


def test_threads_end_with_their_owner():
    before = set(threading.enumerate())
    owner = Helpers(2)
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    del owner
    for thread in started:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="its signals are Unix's")
def test_an_interruption_at_any_moment_leaves_nothing_locked():
    """A future's condition stays locked where the signal arrives in `Condition.__enter__`."""

    def interrupt(number, frame):
        raise Interrupted

    threads, rng = Helpers(2), np.random.default_rng(0)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for _ in range(1000):
            with suppress(Interrupted):  # Python drops one that arrives in a finalizer
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-4))
                for _ in range(10_000):
                    threads.map(abs, range(2))
            asked = threading.Thread(target=threads.map, args=(abs, range(2)), daemon=True)
            asked.start()
            asked.join(PATIENCE_S)
            assert not asked.is_alive()
    finally:
        signal.signal(signal.SIGALRM, before)
