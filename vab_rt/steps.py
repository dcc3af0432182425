"""From a video to its sound, window by window and step by step."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vab_rt.config import ClipConfig
from vab_rt.errors import BundleError
from vab_rt.loudness import Limiter
from vab_rt.options import GenerateOptions
from vab_rt.sampling_arguments import Tokens
from vab_rt.seeing import FRAMES_AHEAD, ahead, kinds_seen, see_all
from vab_rt.stopwatch import Stopwatch
from vab_rt.systems import State, System
from vab_rt.systems.vab import Vab
from vab_rt.take import Take, name_of
from vab_rt.threads import Begun
from vab_rt.video import Video
from vab_rt.windows import Window, cut_windows, join, num_windows

if TYPE_CHECKING:  # imported where it is used
    from vab_rt.library import Library

SEEN_S = 4.0
"""Seconds around a shorter selection that the model sees: alone, most would be silent."""
STAGES = ("decode_video", "visual")
"""The stages of every system; its own two follow."""


@dataclass(frozen=True, eq=False)  # arrays have no one answer
class Step:
    """The state after one decoding step of one window."""

    window: int
    """counted from 0: a model makes so much sound at a time, of a longer video several windows"""
    num_windows: int | None
    """as far as is known: what the container declares, exact in the last window"""
    step: int
    """counted from 0, in this window; 0 of a preview as well"""
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
    take: Take | None = None
    """what the sound was made of, on its very last step; None of a model without tokens"""
    preview: npt.NDArray[np.float32] | None = None
    """[S] what `audio` of this window will be like, in a step of its own before the others; only
    where it is asked for"""

    def position(self, num_candidates: int = 1) -> tuple[int, int | None]:
        """Steps made of the whole, and how many those are as far as that is known."""
        each = num_candidates * self.num_steps
        total = None if self.num_windows is None else self.num_windows * each
        own = 0 if self.preview is not None else self.step + 1
        return self.window * each + self.candidate * self.num_steps + own, total


def of_one_window(steps: Iterator[Step]) -> Iterator[Step]:
    """Those up to the next that has sound; the others are left."""
    for step in steps:
        yield step
        if step.audio is not None:
            return


class Summary:
    """What steps tell beside their sound."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.timings_s: dict[str, float] = {}

    def watch(self, steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            self.timings_s = step.timings_s
            if step.audio is not None:
                self.kinds.update({kind: p * len(step.audio) for kind, p in step.kinds.items()})
            yield step

    def shares(self) -> dict[str, float]:
        return {kind: p / self.kinds.total() for kind, p in self.kinds.most_common()}


def windows_of(
    video: Video, system: System[Any], clock: Stopwatch, *, is_whole: bool = True
) -> Iterator[Window]:
    """What the model sees of a video, window by window. is_whole: with some of what is around a
    short selection."""
    c, around_s = system.config, seen_s(system.config) if is_whole else 0.0
    with clock.time("decode_video"):
        lead_s = video.lead_s(around_s)
    read = ahead(video.frames(c, around_s), system.engines.meanwhile, FRAMES_AHEAD)
    frames = clock.each("decode_video", read)
    stream = clock.each("visual", see_all(frames, system.see))
    yield from cut_windows(stream, c, lead_s)


def seen_s(config: ClipConfig) -> float:
    """Seconds that are seen at least, where the video has them."""
    return min(SEEN_S, config.clip_s / 2)


class Decoded(NamedTuple):
    """A window after one of its steps; see `Step`."""

    window: Window
    kinds: dict[str, float]
    step: int
    state: State


def decoded(
    windows: Iterable[Window],
    options: GenerateOptions,
    video: Video,
    system: System[Any],
    clock: Stopwatch,
    *,
    library: "Library | None" = None,
    given: Callable[[Window], Tokens] | None = None,
) -> Iterator[Step]:
    """The sound of windows of a video, step by step. options: the system's own. given: the tokens
    of a window that are known.

    While a window is rendered the next one is seen, and its first step made.
    """
    num_steps = num_steps_of(system, options, library)
    sound, aside = Joined(video, system, options), system.engines.meanwhile
    held: tuple[Decoded, Begun[npt.NDArray[np.float32]]] | None = None

    def as_step(now: Decoded, rendered: Callable[[], npt.NDArray[np.float32]] | None) -> Step:
        audio, take = None, None
        if rendered is not None:
            with clock.time(system.stages[1]):
                audio, take = sound.add(now, rendered()[0])
        return Step(
            window=now.window.index,
            num_windows=_expected_windows(video, now.window, system.config),
            step=now.step,
            num_steps=num_steps,
            state=now.state[0],
            audio=audio,
            kinds=now.kinds,
            timings_s=dict(clock.seconds),
            take=take,
        )

    try:
        for now in _states(windows, system, options, clock, library, given):
            if held is not None:
                yield as_step(held[0], held[1].result)
                held = None
            if now.step < num_steps - 1:
                yield as_step(now, None)
                continue
            work = partial(render, system, now.state)
            if aside is None or now.window.is_last:
                yield as_step(now, work)
            else:
                held = now, aside.begin(work)
    finally:
        if held is not None:
            held[1].wait()


def _states(
    windows: Iterable[Window],
    system: System[Any],
    options: GenerateOptions,
    clock: Stopwatch,
    library: "Library | None",
    given: Callable[[Window], Tokens] | None,
) -> Iterator[Decoded]:
    state: State | None = None
    for window in windows:
        kinds = kinds_seen(window.features[: window.num_seen], system.config)
        if library is not None:
            steps = library.decode(window, state, options, kinds)
        elif given is not None:
            assert isinstance(system, Vab), "whose tokens are given"
            steps = system.decode(window, state, options, given(window))  # type: ignore[arg-type]
        else:
            steps = system.decode(window, state, options)
        for step, state in clock.each(system.stages[0], steps):
            yield Decoded(window, kinds, step, state)


class Joined:
    """The sound of a video's windows, as each is rendered."""

    def __init__(self, video: Video, system: System[Any], options: GenerateOptions) -> None:
        self._video, self._system, self._options = video, system, options
        self._tail, self._limiter = np.empty(0, np.float32), Limiter(system.config.sample_rate_hz)
        self._windows: list[State] = []
        self._num_samples = 0

    def add(
        self, now: Decoded, rendered: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.float32], Take | None]:
        """What a finished window adds, of all its samples [S]; with the last, what all was made
        of."""
        window, system = now.window, self._system
        heard, self._tail = join(rendered, self._tail, window, system.config)
        audio = self._limiter.add(heard, is_last=window.is_last)
        self._windows.append(now.state[0])
        self._num_samples += len(audio)
        take = None
        if window.is_last and isinstance(system, Vab):
            take = _take(self._video, system, self._windows, self._num_samples, self._options)
        return audio, take


def num_steps_of(system: System[Any], options: GenerateOptions, library: "Library | None") -> int:
    """Of every window: with a library it is decoded twice."""
    return system.num_steps(options) * (1 if library is None else 2)


def render(system: System[Any], state: State) -> npt.NDArray[np.float32]:
    """Sound [B, S] of finished states [B, ...]. Raises BundleError when it is not finite."""
    audio = system.render(state)
    if not np.isfinite(audio).all():
        raise BundleError(
            f"the {system.stages[1]} of {system.config.name} returned samples that are NaN "
            "or infinite, expected -1 to 1; export the model again"
        )
    return audio


def _take(
    video: Video, system: Vab, windows: list[Tokens], num_samples: int, options: GenerateOptions
) -> Take:
    """The take of the tokens [K, T] of all windows."""
    c, lead = system.codec_config, system.config.samples_in(video.lead_s(seen_s(system.config)))
    parts = [tokens[:, c.num_overlap_hops * (i > 0) :] for i, tokens in enumerate(windows)]
    num_hops = math.ceil((lead + num_samples) / c.hop_samples)
    return Take(
        model=c.name,
        codec_sha256=system.codec_sha256,
        tokens=np.concatenate(parts, 1)[:, :num_hops],
        video=name_of(video.path),
        video_bytes=video.info.size_bytes,
        start_s=video.start_s,
        duration_s=video.duration_s,
        video_s=video.expected_s,
        sample_rate_hz=c.sample_rate_hz,
        num_samples=num_samples,
        lead_samples=lead,
        seed=options.seed,
        gain_db=0.0,
        fade_s=0.0,
        mix="replace",
        precision=system.engines.precision,
        kinds=options.kinds,
    )


def _expected_windows(video: Video, window: Window, config: ClipConfig) -> int | None:
    if window.is_last:
        return window.index + 1
    if video.expected_s is None:
        return None
    return max(window.index + 2, num_windows(video.expected_s, config))
