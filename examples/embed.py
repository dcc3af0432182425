"""vab-rt inside a program with a window: one thread makes sounds, the window stays awake.

    python examples/embed.py in.mp4 out.wav

`Sounds` is what a program would keep. Its callbacks run in the worker's thread; a program with a
window posts them to its own (Qt: a signal; Tk: `after`; Blender: a timer).
"""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import vab_rt


class Cancelled(Exception):
    """The user has changed their mind."""


class Sounds:
    """Makes sounds one after another. The model is loaded in its thread with the first."""

    def __init__(self, model: str | None = None) -> None:
        self._model, self._pipeline = model, None
        self._worker = ThreadPoolExecutor(1, "vab-rt")

    def make(
        self,
        video: Path,
        out: Path,
        tell: Callable[[int], None],
        stop: threading.Event,
        **options: object,
    ) -> "Future[Path]":
        """Writes `out`, whole or not at all. tell: percent; stop: set it to cancel."""
        return self._worker.submit(self._make, video, out, tell, stop, options)

    def close(self) -> None:
        self._worker.shutdown()

    def _make(self, video, out, tell, stop, options) -> Path:
        if self._pipeline is None:
            self._pipeline = vab_rt.load(self._model)
        steps = self._pipeline.generate_steps(video, **options)
        sound = self._pipeline.gather(watched(steps, tell, stop))
        sound.save(out, video=video, force=True)
        return out


def watched(
    steps: Iterator[vab_rt.Step], tell: Callable[[int], None], stop: threading.Event
) -> Iterator[vab_rt.Step]:
    """The same steps. Raises Cancelled between two of them: a fraction of a second on a CPU."""
    for step in steps:
        if stop.is_set():
            raise Cancelled
        made, total = step.position()
        tell(100 * made // total if total else 0)
        yield step


def main(video: str, out: str) -> int:
    sounds, stop = Sounds(), threading.Event()
    job = sounds.make(Path(video), Path(out), lambda percent: print(f"{percent} %"), stop, seed=7)
    try:
        print(job.result(), "is written")
    except KeyboardInterrupt:
        stop.set()
    except vab_rt.VabError as error:  # one line: found, expected, what to do
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        sounds.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
