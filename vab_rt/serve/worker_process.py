"""The process of a worker: what it does, and how it talks with the server that has started it."""

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from vab_rt.errors import VabError, is_out_of_memory
from vab_rt.serve.talk import Bug, Cancelled, Model, Talk
from vab_rt.streams import tolerant_streams

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
ENDING_SIGNALS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class _Said(logging.Handler):
    """What the library logs is logged where the server is."""

    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        self._talk.say("log", (record.levelno, "%s", record.getMessage()))


def run(pipe: Connection, load: Mapping[str, Any] | None, log_level: int) -> None:
    """The process."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    talk, log = Talk(pipe), logging.getLogger("vab_rt")
    log.setLevel(log_level)
    log.handlers, log.propagate = [_Said(talk)], False
    works: dict[str, Callable[..., Any]] = {}

    def open_works() -> Model | None:
        model, opened = _opened(load, talk)
        works.update(opened)
        return model

    with tolerant_streams(), suppress(EOFError, OSError):
        talk.say(*_result(open_works))
        while True:
            asked = pipe.recv()
            if asked is not None:  # or nobody wanted what is finished
                work, args = asked
                talk.say(*_result(partial(works[work], *args)))


def _end_with_parent() -> None:
    """However that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "spawned"
    parent.join()
    os._exit(1)


def _opened(
    load: Mapping[str, Any] | None, talk: Talk
) -> tuple[Model | None, dict[str, Callable[..., Any]]]:
    """The model, and works by name. Raises what loading raises."""
    from vab_rt.serve import making

    if load is None:
        from vab_rt.serve import views

        return None, {
            "deliver": making.deliver,
            "spectrogram": views.spectrogram_of,
            "preview": partial(views.make_preview, talk),
        }
    import vab_rt

    pipeline = vab_rt.load(**load)
    make = partial(making.make, pipeline, talk)
    return Model(pipeline.config, pipeline.device, pipeline.precision), {"make": make}


def _result(work: Callable[[], Any]) -> tuple[str, Any]:
    """What it returns, or raises, as it can be sent."""
    try:
        return "done", work()
    except (VabError, Cancelled) as error:
        return "failed", (error, getattr(error.__cause__, "errno", None))
    except Exception as error:  # noqa: BLE001  # a bug of one job is no end of the others
        if is_out_of_memory(error):
            return "failed", (MemoryError(str(error)), None)
        return "failed", (Bug(type(error).__name__, traceback.format_exc()), None)
