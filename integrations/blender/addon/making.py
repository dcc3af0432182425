# SPDX-License-Identifier: GPL-3.0-or-later
"""Sounds for pieces of movies, in a thread beside Blender: no call of Blender's is in here."""

import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .planning import Piece, Refused, check_speed, one_line, sound_path, speed_changed

if TYPE_CHECKING:
    from vab_rt import Audio, Pipeline, Step

_loaded: dict[str, "Pipeline"] = {}  # the model that was used last

_SAME_LENGTH_S = 0.1  # a movie may end within a frame


@dataclass(frozen=True)
class Settings:
    """What the panel says. steps, guidance: 0 leaves them to the model."""

    model: str = "default"
    seed: int = 0
    num_takes: int = 1
    steps: int = 0
    guidance: float = 0.0
    kinds: tuple[str, ...] = ()

    def options(self) -> dict[str, Any]:
        named: dict[str, Any] = {"kinds": self.kinds}
        named |= {"steps": self.steps} if self.steps else {}
        return named | ({"guidance": self.guidance} if self.guidance else {})


@dataclass(frozen=True)
class Again:
    """Seconds of a sound of ours, that are to be made anew."""

    name: str
    video: Path
    sound: Path
    start_s: float
    end_s: float
    seed: int
    content_s: float
    """how long the scene plays the whole of it"""


Order = Piece | Again


@dataclass(frozen=True)
class Take:
    """A finished file. score: how well it fits, where there are several."""

    path: Path
    seed: int
    score: float | None = None


@dataclass
class Making:
    """Orders, and what came of them; another thread than the one that runs it may look."""

    orders: list[Order]
    settings: Settings
    folder: Path
    stop: threading.Event = field(default_factory=threading.Event)
    share: float = 0.0
    """of the work that is done"""
    stage: str = "loads the model"
    made: list[tuple[Order, list[Take]]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """a line each, for the user"""

    def run(self) -> None:
        """Until all is made, or somebody sets `stop`: then nothing of it stays."""
        try:
            pipeline = _load(self.settings.model)
        except Exception as error:  # noqa: BLE001  # a thread has nobody to raise it to
            self.failed.append(_told(error))
            return
        for number, order in enumerate(self.orders):
            self.stage = order.name
            try:
                takes = self._make(pipeline, order, number)
            except Exception as error:  # noqa: BLE001
                self.failed.append(_told(error))
                continue
            if self.stop.is_set():
                break
            self.made.append((order, takes))
        if self.stop.is_set():
            self._forget()

    def _make(self, pipeline: "Pipeline", order: Order, number: int) -> list[Take]:
        makes = _sounds if isinstance(order, Piece) else _sounds_again
        sounds: list[Audio] = []
        for found in makes(pipeline, order, self.settings):
            if self.stop.is_set():
                return []
            if isinstance(found, list):
                sounds = found
            else:
                self.share = (number + found) / len(self.orders)
                time.sleep(0)  # lets Blender's own thread in
        self.folder.mkdir(parents=True, exist_ok=True)
        return [_saved(sound, self.folder, order.name) for sound in sounds]

    def _forget(self) -> None:
        for _, takes in self.made:
            for take in takes:
                take.path.unlink(missing_ok=True)
                take.path.with_name(take.path.name + ".vab.json").unlink(missing_ok=True)
        self.made.clear()


def _sounds(
    pipeline: "Pipeline", piece: Piece, settings: Settings
) -> Iterator["float | list[Audio]"]:
    """Shares of the work, at last the sounds, the best first. Raises Refused, VabError."""
    import vab_rt
    from vab_rt.candidates import ranked

    video = vab_rt.Video(piece.path, piece.start_s, piece.duration_s)
    check_speed(piece, video.info.duration_s)
    count = settings.num_takes
    wishes = vab_rt.GenerateOptions(seed=settings.seed, **settings.options())
    if count == 1:
        steps = pipeline.generate_steps(video, wishes)
    else:
        steps = pipeline.candidate_steps(video, wishes, num_candidates=count)
    kept: list[Step] = []
    for step in steps:
        kept += [] if step.audio is None else [step]
        done, total = step.position(count)
        yield done / (total or done + 1)
    rate_hz = pipeline.config.sample_rate_hz
    sounds = ranked(kept, wishes, rate_hz)
    num_samples = round((piece.end - piece.begin) * rate_hz / piece.rate_hz)
    yield [_fitted(sound, num_samples, count > 1) for sound in sounds]


def _fitted(sound: "Audio", num_samples: int, has_score: bool) -> "Audio":
    """Exactly so long: a movie may end within its last frame."""
    import numpy as np

    import vab_rt

    samples = np.zeros(num_samples, np.float32)
    samples[: len(sound.samples)] = sound.samples[:num_samples]
    score = sound.score if has_score else None
    return vab_rt.Audio(samples, sound.sample_rate_hz, sound.seed, score, sound.take)


def _sounds_again(
    pipeline: "Pipeline", again: Again, settings: Settings
) -> Iterator["float | list[Audio]"]:
    """The same of a part that is made anew, with one seed after another."""
    import vab_rt

    old = vab_rt.Audio.load(again.sound)
    if abs(old.duration_s - again.content_s) > _SAME_LENGTH_S:
        raise Refused(speed_changed(again.name))
    end_s, sounds = min(again.end_s, old.duration_s), []
    for number in range(settings.num_takes):
        wishes = vab_rt.GenerateOptions(seed=again.seed + number, **settings.options())
        steps = pipeline.regenerate_steps(again.video, old, again.start_s, end_s, wishes)
        for step in steps:
            done, total = step.position()
            yield (number + done / (total or done + 1)) / settings.num_takes
        assert step.audio is not None, "with the last"
        sounds.append(
            vab_rt.Audio(step.audio, old.sample_rate_hz, seed=again.seed + number, take=step.take)
        )
    yield sounds


def _saved(sound: "Audio", folder: Path, name: str) -> Take:
    seed = sound.seed or 0
    path = sound_path(folder, name, seed)
    sound.save(path)
    return Take(path, seed, sound.score)


def _load(model: str) -> "Pipeline":
    """The model that was used last is at hand. Raises Refused, VabError."""
    try:
        import vab_rt
    except ImportError as error:
        raise Refused(
            f"the runtime cannot be loaded ({error}); install the zip that was built for this "
            "version of Blender and this kind of machine"
        ) from error
    if model not in _loaded:
        _loaded.clear()
        from vab_rt.threads import num_physical_cores

        threads = max(1, num_physical_cores() - 1)  # one core is left to Blender's window
        _loaded[model] = vab_rt.load(model, "cpu", threads=threads, offline=True)
    return _loaded[model]


def unload() -> None:
    """Gives the memory of the model back."""
    _loaded.clear()


def _told(error: Exception) -> str:
    """For the user; what is a bug also goes to the console, whole."""
    from_us = isinstance(error, Refused | OSError) or type(error).__module__ == "vab_rt.errors"
    if not from_us:
        traceback.print_exception(error)
        return f"a bug in vab-rt: {one_line(repr(error))}; the console has the whole of it"
    return one_line(error)
