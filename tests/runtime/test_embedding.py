"""vab-rt inside another program: the example of docs/EMBEDDING.md, and what never happens."""

import importlib.util
import logging
import os
import signal
import threading
import warnings
from pathlib import Path

import pytest

from vab_rt import Audio, VabError

EXAMPLE = Path(__file__).parents[2] / "examples" / "embed.py"


@pytest.fixture(scope="module")
def embed():
    """The example, as a module."""
    spec = importlib.util.spec_from_file_location("embed", EXAMPLE)
    assert spec is not None and spec.loader is not None, EXAMPLE
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sounds(embed, tiny_bundle):
    sounds = embed.Sounds(str(tiny_bundle))
    yield sounds
    sounds.close()


def test_a_thread_makes_sounds_and_tells_how_far_it_is(sounds, pipeline, videos, tmp_path):
    told: list[int] = []
    out = tmp_path / "out.flac"
    job = sounds.make(videos(87), out, told.append, threading.Event(), seed=7, steps=4)
    assert job.result(60) == out
    made = Audio.load(out)
    assert made.take is not None and made.take.seed == 7
    expected = pipeline.generate(videos(87), seed=7, steps=4)
    assert len(made.samples) == len(expected.samples)
    assert abs(made.samples - expected.samples).max() <= 2**-15
    assert told == sorted(told) and told[-1] == 100 and len(told) > 4


def test_cancelled_amid_its_steps_it_leaves_nothing_and_makes_the_next(
    embed, sounds, videos, tmp_path
):
    stop, out = threading.Event(), tmp_path / "out.wav"
    told: list[int] = []

    def tell(percent: int) -> None:
        told.append(percent)
        stop.set()

    with pytest.raises(embed.Cancelled):
        sounds.make(videos(87), out, tell, stop, steps=8).result(60)
    assert len(told) == 1 and not any(tmp_path.iterdir())
    with pytest.raises(VabError):
        sounds.make(tmp_path / "none.mp4", out, tell, threading.Event()).result(60)
    assert sounds.make(videos(25), out, tell, threading.Event()).result(60).exists()


def test_nothing_of_the_process_is_changed(sounds, videos, tmp_path):
    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        logs = [log.handlers[:] for log in (logging.getLogger(), logging.getLogger("vab_rt"))]
        return handlers, logs, logging.root.level, warnings.filters[:], Path.cwd(), dict(os.environ)

    before = state()
    job = sounds.make(videos(25), tmp_path / "o.mp4", lambda _: None, threading.Event(), steps=2)
    assert job.result(60).exists()
    assert state() == before
