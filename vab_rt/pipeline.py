"""Video in, sound out: read frames, encode frames, decode, render, return."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.audio import Audio
from vab_rt.bundle import Bundle
from vab_rt.candidates import SCORING, candidate_steps, check_count, ranked, require_score
from vab_rt.config import ClipConfig, GenerateOptions, check_kinds
from vab_rt.engines import Engine, Engines, open_engines
from vab_rt.errors import BundleError, OptionError
from vab_rt.hub import open_model
from vab_rt.library import Library, open_library
from vab_rt.loudness import Limiter
from vab_rt.seeing import kinds_seen, see_all
from vab_rt.stopwatch import Stopwatch
from vab_rt.systems import State, System, open_system
from vab_rt.video import Video
from vab_rt.windows import Window, cut_windows, join, num_windows

SEEN_S = 4.0
"""Seconds around a shorter selection that the model sees: alone, most would be silent."""
STAGES = ("decode_video", "visual")
"""Of every system; its own two follow."""


@dataclass(frozen=True, eq=False)  # arrays have no one answer
class Step:
    """The state after one decoding step of one window."""

    window: int
    """counted from 0: a model makes so much sound at a time, of a longer video several windows"""
    num_windows: int | None
    """as far as is known: what the container declares, exact in the last window"""
    step: int
    """counted from 0, in this window"""
    num_steps: int
    """of every window"""
    state: npt.NDArray[Any]
    """what the system decodes: of VAB tokens [K, T], where V is [MASK]"""
    audio: npt.NDArray[np.float32] | None
    """[S] what this window adds to the sound, in -1 to 1, the last 44 ms of it with the next; on
    its last step only"""
    kinds: dict[str, float]
    """the probability of each kind that this window shows, the likeliest first; empty of a model
    that has no names for what it sees"""
    timings_s: dict[str, float]
    """seconds spent so far, by stage"""
    candidate: int = 0
    """counted from 0, of `candidate_steps` alone"""
    score: float | None = None
    """how well this window's sound fits what it shows, on the last step of a candidate's windows:
    nats a token, more is better"""


class Pipeline:
    """A loaded model. `generate` may be called any number of times, by one thread at a time."""

    def __init__(
        self,
        system: System[Any],
        load_s: float = 0.0,
        open_graph: Callable[[str], Engine] | None = None,
    ) -> None:
        """open_graph: opens those that generating does without."""
        self.system, self.load_s, self._open_graph = system, load_s, open_graph
        self._libraries: dict[Path, Library] = {}

    @property
    def config(self) -> ClipConfig:
        """Facts of the model, such as `config.sample_rate_hz` and `config.clip_s`."""
        return self.system.config

    @property
    def device(self) -> str:
        """What it runs on: cpu, cuda, tensorrt or tensorrt-rtx."""
        return self.system.device

    def generate(
        self, video: Video | str | Path, options: GenerateOptions | None = None, **fields: Any
    ) -> Audio:
        """The sound of a video, exactly as long as it: `generate("in.mp4", seed=7, steps=8)`.

        - video: a path, or a Video for a part of it.
        - options: what is wanted; None leaves all to the model.
        - fields: those of GenerateOptions by name, which go before those of `options`.

        Raises MediaError for what cannot be read; OptionError for a field that there is not or
        that the model has no use for, and for a part of a video without content.
        """
        steps = self.generate_steps(video, options, **fields)
        parts = [step.audio for step in steps if step.audio is not None]
        return Audio(np.concatenate(parts), self.config.sample_rate_hz)

    def generate_steps(
        self, video: Video | str | Path, options: GenerateOptions | None = None, **fields: Any
    ) -> Iterator[Step]:
        """The same, step by step; the `audio` of all steps in a row is the sound.

        On a GPU only the last step of each window is seen, as nothing comes back before it. Memory
        does not grow with the length of the video.
        """
        options, library = self._wanted((options or GenerateOptions()).but(**fields))
        return self._steps(_as_video(video), options, library)

    def candidates(
        self,
        video: Video | str | Path,
        options: GenerateOptions | None = None,
        *,
        num_candidates: int = 4,
        **fields: Any,
    ) -> list[Audio]:
        """Several sounds of a video, those first that the model finds fit it best: each has its
        `seed` and its `score`.

        num_candidates: 1 to 32. The first seed is that of the options, so its sound is what
        `generate` makes; the others follow it. Raises as `generate` does, and OptionError for
        another number, and for a model that cannot score.
        """
        wishes = (options or GenerateOptions()).but(**fields)
        steps = self.candidate_steps(video, wishes, num_candidates=num_candidates)
        return ranked(steps, wishes, self.config.sample_rate_hz)

    def candidate_steps(
        self,
        video: Video | str | Path,
        options: GenerateOptions | None = None,
        *,
        num_candidates: int = 4,
        **fields: Any,
    ) -> Iterator[Step]:
        """The same, step by step: of each window one `candidate` after another."""
        count, system = check_count(num_candidates), require_score(self.system)
        options, library = self._wanted((options or GenerateOptions()).but(**fields))
        video, clock = _as_video(video), Stopwatch(*STAGES, *system.stages, SCORING)

        def decode(windows: Iterator[Window], own: GenerateOptions) -> Iterator[Step]:
            return self._decoded(windows, video, own, library, clock)

        windows = self._windows(video, clock)
        return candidate_steps(windows, decode, system, options, count, clock)

    def _wanted(self, wishes: GenerateOptions) -> tuple[Any, Library | None]:
        """The system's own options, and the library among them."""
        check_kinds(wishes.kinds, self.config)
        library = None if wishes.library is None else self.library(wishes.library)
        return self.system.options(wishes), library

    def library(self, folder: str | Path) -> Library:
        """The recordings of a folder, for this model: `used` says which were played. Opened once.

        Raises OptionError for a folder without sound, and for a model that has no tokens for it.
        """
        path = Path(folder)
        if path not in self._libraries:
            self._libraries[path] = open_library(path, self.system, self._open_graph)
        return self._libraries[path]

    def _steps(
        self, video: Video, options: GenerateOptions, library: Library | None
    ) -> Iterator[Step]:
        clock = Stopwatch(*STAGES, *self.system.stages)
        windows = self._windows(video, clock)
        yield from self._decoded(windows, video, options, library, clock)

    def _windows(self, video: Video, clock: Stopwatch) -> Iterator[Window]:
        """What the model sees of a video, window by window."""
        c, system = self.config, self.system
        seen_s = min(SEEN_S, c.clip_s / 2)
        with clock.time("decode_video"):
            lead_s = video.lead_s(seen_s)
        frames = clock.each("decode_video", video.frames(c, seen_s))
        stream = clock.each("visual", see_all(frames, system.see))
        yield from cut_windows(stream, c, lead_s)

    def _decoded(
        self,
        windows: Iterable[Window],
        video: Video,
        options: GenerateOptions,
        library: Library | None,
        clock: Stopwatch,
    ) -> Iterator[Step]:
        """The sound of windows, step by step. options: the system's own."""
        c, system = self.config, self.system
        decoding, rendering = system.stages
        num_steps = system.num_steps(options) * (1 if library is None else 2)
        state: State | None = None
        tail, limiter = np.empty(0, np.float32), Limiter(c.sample_rate_hz)
        for window in windows:
            kinds = kinds_seen(window.features[: window.num_seen], c)
            if library is None:
                steps = system.decode(window, state, options)
            else:
                steps = library.decode(window, state, options, kinds)
            for step, state in clock.each(decoding, steps):
                audio = None
                if step == num_steps - 1:
                    with clock.time(rendering):
                        heard, tail = join(self.render(state)[0], tail, window, c)
                        audio = limiter.add(heard, is_last=window.is_last)
                yield Step(
                    window=window.index,
                    num_windows=_expected_windows(video, window, c),
                    step=step,
                    num_steps=num_steps,
                    state=state[0],
                    audio=audio,
                    kinds=kinds,
                    timings_s=dict(clock.seconds),
                )

    def render(self, state: State) -> npt.NDArray[np.float32]:
        """Sound [B, S] of finished states [B, ...]. Raises BundleError when it is not finite."""
        audio = self.system.render(state)
        if not np.isfinite(audio).all():
            raise BundleError(
                f"the {self.system.stages[1]} of {self.config.name} returned samples that are NaN "
                "or infinite, expected -1 to 1; export the model again"
            )
        return audio


def load(
    model: str | Path | None = None,
    device: str = "auto",
    *,
    engines: Engines | None = None,
    threads: int | None = None,
    offline: bool = False,
) -> Pipeline:
    """A pipeline of a model, checked and ready.

    - model: the folder of a bundle, the name of a shipped model, or hf:ORG/NAME[@REVISION] on a
      hub; None is the shipped one.
    - device: auto, cpu, cuda, tensorrt or tensorrt-rtx (cuda:1: the second GPU); never another
      than asked for. auto takes cuda where it is installed, else cpu.
    - engines: ready ones that a host brings along, instead of the bundle's own.
    - threads: for work on the CPU; None takes one per physical core.
    - offline: of a hub, only what was fetched before.

    Raises BundleError, BackendError, OptionError.
    """
    begin = time.perf_counter()
    if engines is not None and (device != "auto" or threads is not None):
        raise OptionError(
            f"device {device} and threads {threads} came with ready engines, expected neither; "
            "open the engines as you want them"
        )
    bundle = open_model(model, offline=offline)
    system = open_system(bundle, engines or open_engines(bundle, device, threads))
    load_s = time.perf_counter() - begin
    return Pipeline(system, load_s, partial(_open_graph, bundle, threads))


def _open_graph(bundle: Bundle, threads: int | None, name: str) -> Engine:
    """On the CPU, whatever the others run on. Raises OptionError where the bundle has none."""
    from vab_rt.engines.cpu import open_graph

    if name not in bundle.manifest.graphs:
        raise OptionError(
            f"model {bundle.config.name} comes without {name}, expected one for recordings; export "
            "it again, or choose another model"
        )
    return open_graph(bundle, name, threads)


def _as_video(video: Video | str | Path) -> Video:
    return Video(video) if isinstance(video, str | Path) else video


def _expected_windows(video: Video, window: Window, config: ClipConfig) -> int | None:
    if window.is_last:
        return window.index + 1
    if video.expected_s is None:
        return None
    return max(window.index + 2, num_windows(video.expected_s, config))
