"""Video in, sound out: read frames, encode frames, decode, render, return."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vab_rt.audio import Audio
from vab_rt.bundle import Bundle
from vab_rt.candidates import SCORING, candidate_steps, ranked, require_score, sharing_first_step
from vab_rt.config import ClipConfig
from vab_rt.engines import Engine, Engines, open_engines
from vab_rt.errors import BackendError, OptionError
from vab_rt.hub import open_model
from vab_rt.options import (
    GenerateOptions,
    check_count,
    check_kind,
    check_kinds,
    check_top,
    overridden,
)
from vab_rt.paths import as_path
from vab_rt.steps import STAGES, Step, decoded, num_steps_of, render, seen_s, windows_of
from vab_rt.stopwatch import Stopwatch
from vab_rt.systems import State, System, open_system
from vab_rt.video import VideoLike, as_video

if TYPE_CHECKING:  # what a sound that is only generated does without takes a twentieth of a second
    from vab_rt.editing import Editor
    from vab_rt.library import Library
    from vab_rt.search import Found
    from vab_rt.sound_index import Progress, SoundIndex
    from vab_rt.splicing import Edit


class Pipeline:
    """A loaded model. Its methods may be called any number of times, by several threads at once:
    each call's result is what it would be alone. A process that was forked loads its own."""

    def __init__(
        self,
        system: System[Any],
        load_s: float = 0.0,
        open_encoder: Callable[[], Engine] | None = None,
    ) -> None:
        """open_encoder: opens codec_encoder, which generating does without."""
        self.system, self._load_s = system, load_s
        self._open_encoder = open_encoder and cache(open_encoder)
        self._libraries: dict[Path, Library] = {}
        self._process = os.getpid()

    @property
    def config(self) -> ClipConfig:
        """Facts of the model, such as `config.sample_rate_hz` and `config.clip_s`."""
        return self.system.config

    @property
    def load_s(self) -> float:
        """Seconds that loading took, also beside other work."""
        loaded = self.system.engines.loaded
        return self._load_s + (0.0 if loaded is None else loaded())

    @property
    def device(self) -> str:
        """What it runs on, as `load` was told, or what auto took."""
        return self.system.engines.device

    @property
    def precision(self) -> str:
        """What the products of its backbones are computed in, such as fp32."""
        return self.system.engines.precision

    def generate(
        self, video: VideoLike, options: GenerateOptions | None = None, **fields: Any
    ) -> Audio:
        """The sound of a video, exactly as long as it: `generate("in.mp4", seed=7, steps=8)`.

        - video: a path; the content of a file, as bytes or as a binary file object that can seek;
          or a Video, for a part of any of these. So wherever VideoLike is.
        - options: what is wanted; None leaves all to the model.
        - fields: those of GenerateOptions by name, which go before those of `options`.

        Raises MediaError for what cannot be read; OptionError for a field that there is not or
        that the model has no use for, and for a part of a video without content.
        """
        options = overridden(options, fields)
        return self.gather(self.generate_steps(video, options))

    def generate_steps(
        self,
        video: VideoLike,
        options: GenerateOptions | None = None,
        *,
        with_preview: bool = False,
        **fields: Any,
    ) -> Iterator[Step]:
        """The same, step by step; the `audio` of all steps in a row is the sound.

        with_preview: before the steps of each window comes one with a `preview` of it.

        On a GPU only the last step of each window is seen, as nothing comes back before it. Memory
        does not grow with the length of the video.
        """
        options = overridden(options, fields)
        own, library = self._own(options)
        video, clock = as_video(video), self._clock()
        windows = windows_of(video, self.system, clock)
        if not with_preview:
            return decoded(windows, own, video, self.system, clock, library=library)
        from vab_rt.preview import one_step, previewed_steps, require_preview

        tokens = require_preview(self.system)
        quick, _ = self._own(one_step(tokens, options))
        # A preview does not wait until the next window is seen.
        alone = replace(tokens, engines=replace(tokens.engines, meanwhile=None))
        system = sharing_first_step(alone)
        decode = partial(decoded, video=video, system=system, clock=clock, library=library)
        return previewed_steps(windows, decode, quick, own, num_steps_of(system, own, library))

    def preview(
        self, video: VideoLike, options: GenerateOptions | None = None, **fields: Any
    ) -> Audio:
        """What `generate` with the same arguments will be like, in a part of its time: the sound
        after the first step. What that step is sure of stays in the finished sound.

        Raises as `generate` does, and OptionError for a model without tokens.
        """
        from vab_rt.preview import one_step, require_preview

        options = overridden(options, fields)
        return self.generate(video, one_step(require_preview(self.system), options))

    def gather(self, steps: Iterable[Step], sample_rate_hz: int | None = None) -> Audio:
        """The sound of all of a video's steps, with what it was made of.

        sample_rate_hz: of their `audio`; None is the model's, which it is but for changed sounds.
        Raises OptionError for steps that ended before any of them had some.
        """
        parts, take = [], None
        for step in steps:
            parts += [] if step.audio is None else [step.audio]
            take = step.take
        if not parts:
            raise OptionError(
                "the steps ended before there was sound, expected all of a window's at least; go "
                "on with them"
            )
        rate_hz = sample_rate_hz or self.config.sample_rate_hz
        seed = None if take is None else take.seed
        return Audio(np.concatenate(parts), rate_hz, seed=seed, take=take)

    def regenerate(
        self,
        video: VideoLike,
        sound: Audio | str | Path,
        start_s: float = 0.0,
        end_s: float | None = None,
        options: GenerateOptions | None = None,
        **fields: Any,
    ) -> Audio:
        """The same sound but for its seconds `start_s` to `end_s`, which are made anew:
        `regenerate("in.mp4", "out.wav", 3, 5, seed=8)`.

        - video: what the sound is of; one of ours knows itself which part of the video that is.
        - sound: one of ours, whose tokens the model goes by; or any mono sound as long as the
          video, which it hears through its codec first. A path, or an Audio.
        - end_s: None is the end of the sound.

        Samples outside, but for a token's time at each end, stay as they are. Raises OptionError
        for a part that is not within the sound, a sound of another video or model, and a model
        without tokens; MediaError.
        """
        sound = _as_audio(sound)
        steps = self.regenerate_steps(video, sound, start_s, end_s, options, **fields)
        return self.gather(steps, sound.sample_rate_hz)

    def regenerate_steps(
        self,
        video: VideoLike,
        sound: Audio | str | Path,
        start_s: float = 0.0,
        end_s: float | None = None,
        options: GenerateOptions | None = None,
        **fields: Any,
    ) -> Iterator[Step]:
        """The same, step by step; the very last has the whole `audio`, at the sound's own rate."""
        options = overridden(options, fields)
        edit = self._editor.plan_regeneration(as_video(video), _as_audio(sound), (start_s, end_s))
        return self._edit_steps(edit, *self._own(options))

    def continue_sound(
        self,
        video: VideoLike,
        sound: Audio | str | Path,
        options: GenerateOptions | None = None,
        **fields: Any,
    ) -> Audio:
        """Sound for the whole video that begins with the given one and goes on from it.

        - sound: as `regenerate` takes it, but shorter than the video.

        Its samples stay as they are, but for the last token's time. Raises as `regenerate` does.
        """
        sound = _as_audio(sound)
        steps = self.continue_steps(video, sound, options, **fields)
        return self.gather(steps, sound.sample_rate_hz)

    def continue_steps(
        self,
        video: VideoLike,
        sound: Audio | str | Path,
        options: GenerateOptions | None = None,
        **fields: Any,
    ) -> Iterator[Step]:
        """The same, step by step; the very last has the whole `audio`, at the sound's own rate."""
        options = overridden(options, fields)
        edit = self._editor.plan_continuation(as_video(video), _as_audio(sound))
        return self._edit_steps(edit, *self._own(options))

    def candidates(
        self,
        video: VideoLike,
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
        options = overridden(options, fields)
        steps = self.candidate_steps(video, options, num_candidates=num_candidates)
        return ranked(steps, options, self.config.sample_rate_hz)

    def candidate_steps(
        self,
        video: VideoLike,
        options: GenerateOptions | None = None,
        *,
        num_candidates: int = 4,
        **fields: Any,
    ) -> Iterator[Step]:
        """The same, step by step: of each window one `candidate` after another."""
        count = check_count(num_candidates)
        system = sharing_first_step(require_score(self.system))
        options, library = self._own(overridden(options, fields))
        video, clock = as_video(video), self._clock(SCORING)
        decode = partial(decoded, video=video, system=system, clock=clock, library=library)
        windows = windows_of(video, system, clock)
        return candidate_steps(windows, decode, system, options, count, clock)

    def _own(self, options: GenerateOptions) -> "tuple[Any, Library | None]":
        """The system's own options, and the library among them."""
        check_kinds(options.kinds, self.config)
        library = None if options.library is None else self.library(options.library)
        return self.system.options(options), library

    def library(self, folder: str | Path) -> "Library":
        """The recordings of a folder, for this model: `used` says which were played. Opened once.

        Raises OptionError for a folder without sound, and for a model that has no tokens for it.
        """
        path = as_path("library", folder, "a folder of recordings")
        if path not in self._libraries:
            from vab_rt.library import open_library

            self._libraries[path] = open_library(path, self.system, self._open_encoder)
        return self._libraries[path]

    def search(
        self, video: VideoLike, sounds: "SoundIndex | str | Path", top: int = 10
    ) -> "list[Found]":
        """Which sound files of a folder fit a video, the best first: each has its `path`, its
        `score` and `start_s`, where in the video its beginning fits best.

        - sounds: a folder; its index is made once and kept, and brought up to date by what changed.
          Or the file of an index, or an index of `index_sounds`.
        - top: how many, at most.

        Raises MediaError for a video that cannot be read; OptionError for a folder without sound,
        an index of another model, and a model that cannot tell.
        """
        from vab_rt.search import search
        from vab_rt.sound_index import SoundIndex

        count, system = check_top(top), self.system
        if not isinstance(sounds, SoundIndex):
            *_, last = self.index_sounds(sounds)
            assert last.index is not None, "with the last"
            sounds = last.index
        windows = windows_of(as_video(video), system, self._clock())
        return search(windows, sounds, require_score(system), count)

    def index_sounds(
        self, sounds: str | Path, file: str | Path | None = None
    ) -> "Iterator[Progress]":
        """Brings the index of a folder up to date, or that of an index's file, and keeps it: yields
        how many of the files that changed are read (`number` of `total`), at last with the `index`.

        file: where it is kept; None is the user's cache folder. Raises OptionError, OutputError.
        """
        from vab_rt.sound_index import indexed

        self._check_process()
        folder = as_path("sounds", sounds, "a folder of sounds, or the file of an index")
        path = None if file is None else as_path("file", file, "where the index is kept")
        return indexed(folder, path, require_score(self.system), self._editor.encode)

    @cached_property
    def _editor(self) -> "Editor":
        from vab_rt.editing import open_editor

        return open_editor(self.system, self._open_encoder, seen_s(self.config))

    def _edit_steps(self, edit: "Edit", options: Any, library: "Library | None") -> Iterator[Step]:
        """The steps of what is decoded anew; the sound with it in its place is the last step's."""
        if library is not None:
            raise OptionError(
                "a library plays in a sound that is generated whole, expected none to change or "
                "go on with a sound; leave it out"
            )
        clock = self._clock()
        windows = windows_of(edit.seen, self.system, clock, is_whole=not edit.first)
        parts: list[npt.NDArray[np.float32]] = []
        for step in decoded(windows, options, edit.seen, self.system, clock, given=edit.given):
            parts += [] if step.audio is None else [step.audio]
            if step.take is None:
                yield replace(step, audio=None)
            else:
                sound = edit.splice(np.concatenate(parts), step.take)
                yield replace(step, audio=sound.samples, take=sound.take)

    def _clock(self, *more: str) -> Stopwatch:
        """The clock of one call. Raises BackendError where the call would wait for ever."""
        self._check_process()
        return Stopwatch(*STAGES, *self.system.stages, *more)

    def _check_process(self) -> None:
        """A fork is without the threads of libraries, and what waits for them hangs."""
        if os.getpid() != self._process:
            raise BackendError(
                f"the pipeline was loaded in process {self._process}, and this is a fork of it, "
                "expected one of its own; load it after the fork, or start processes by spawn"
            )

    def render(self, state: State) -> npt.NDArray[np.float32]:
        """Sound [B, S] of finished states [B, ...]. Raises BundleError when it is not finite."""
        return render(self.system, state)


def load(
    model: str | Path | None = None,
    device: str = "auto",
    *,
    engines: Engines | None = None,
    threads: int | None = None,
    precision: str | None = None,
    offline: bool = False,
) -> Pipeline:
    """A pipeline of a model, checked and ready.

    - model: the folder of a bundle, the name of a shipped model, or hf:ORG/NAME[@REVISION] on a
      hub; None is the shipped one.
    - device: auto, cpu, cuda, tensorrt, tensorrt-rtx (cuda:1: the second GPU), openvino, coreml,
      directml or migraphx; never another than asked for. auto takes cuda where it is installed,
      else cpu.
    - engines: ready ones that a host brings along, instead of the bundle's own.
    - threads: for work on the CPU; None takes one per physical core.
    - precision: what the backbones multiply in: fp32, or int8, which is faster on a CPU with VNNI
      or its like and makes other sounds as good; None is the model's own. On the CPU alone.
    - offline: of a hub, only what was fetched before.

    Raises BundleError, BackendError, OptionError.
    """
    begin = time.perf_counter()
    if engines is not None and (device, threads, precision) != ("auto", None, None):
        raise OptionError(
            f"device {device}, threads {threads} and precision {precision} came with ready "
            "engines, expected none of them; open the engines as you want them"
        )
    bundle = open_model(model, offline=offline)
    if engines is None:
        engines = open_engines(bundle, device, threads, precision=precision)
    check_kind("engines", engines, Engines, "vab_rt.engines.Engines, with the bundle's graphs")
    return assembled(bundle, engines, time.perf_counter() - begin, threads)


def assembled(bundle: Bundle, engines: Engines, load_s: float, threads: int | None) -> Pipeline:
    """A pipeline of what was opened already, in so many seconds. Raises BundleError."""
    return Pipeline(open_system(bundle, engines), load_s, partial(_open_encoder, bundle, threads))


def _open_encoder(bundle: Bundle, threads: int | None) -> Engine:
    """On the CPU, whatever the others run on. Raises OptionError where the bundle has none."""
    from vab_rt.engines.sessions import open_graph

    if "codec_encoder" not in bundle.manifest.graphs:
        raise OptionError(
            f"model {bundle.config.name} comes without codec_encoder, expected one for recordings; "
            "export it again, or choose another model"
        )
    return open_graph(bundle, "codec_encoder", threads)


def _as_audio(sound: Audio | str | Path) -> Audio:
    if isinstance(sound, str | os.PathLike):
        return Audio.load(sound)
    check_kind("sound", sound, Audio, "vab_rt.Audio, or the name of a sound file")
    return sound
