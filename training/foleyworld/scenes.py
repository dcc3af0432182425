"""Scenes: what a seed stands for, its pictures, its sound, its truth."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from training.foleyworld.backdrops import Backdrop
from training.foleyworld.balls import Ball
from training.foleyworld.percussion import Drum, Hammer
from training.foleyworld.pictures import Canvas
from training.foleyworld.signals import Bird, Siren
from training.foleyworld.sounds import CLIP_S, NUM_SAMPLES, active_rms, limit
from training.foleyworld.stage import FARTHEST, NEAREST, Place
from training.foleyworld.textures import Engine, Rain, Waves
from training.foleyworld.truth import LEVEL_RATE_HZ, Truth


class Source(Protocol):
    """Something seen and heard. Coordinates: stands at the origin, within x +-0.9, y 0..1.6."""

    kind: str

    @property
    def place(self) -> Place: ...
    @property
    def events_s(self) -> tuple[float, ...]: ...
    def level(self, time_s: float) -> float: ...
    def attributes(self) -> dict[str, str | float]: ...
    def paint(self, canvas: Canvas, time_s: float) -> None: ...
    def sound(self, rng: np.random.Generator) -> np.ndarray: ...
    def describe(self, time_s: float) -> str: ...


# One entry per class; its family says what evaluation applies (onsets only for impacts).
SOURCES: dict[str, tuple[str, Callable[[np.random.Generator, Place], Source]]] = {
    "ball": ("impact", Ball.draw),
    "drum": ("impact", Drum.draw),
    "hammer": ("impact", Hammer.draw),
    "rain": ("continuous", Rain.draw),
    "waves": ("continuous", Waves.draw),
    "engine": ("continuous", Engine.draw),
    "siren": ("tonal", Siren.draw),
    "bird": ("tonal", Bird.draw),
}
CLASSES: tuple[str, ...] = tuple(SOURCES)
FAMILIES: dict[str, str] = {kind: family for kind, (family, _) in SOURCES.items()}

SPLITS: dict[str, range] = {
    "train": range(100_000_000),
    "validation": range(100_000_000, 110_000_000),
    "test": range(110_000_000, 120_000_000),
}
AMBIENT_RMS = 0.001


@dataclass(frozen=True)
class Scene:
    """A 10-s clip: sources before a backdrop, through a camera (centre x, y, zoom)."""

    seed: int
    backdrop: Backdrop
    camera: tuple[float, float, float]
    sources: tuple[Source, ...]

    def frames(self, times_s: np.ndarray, width: int, height: int) -> np.ndarray:
        """RGB pictures uint8 [F, height, width, 3] at the given times.

        The central square of a wide picture is what a square picture shows.
        """
        x, y, zoom = self.camera
        blank = Canvas.blank(width, height)
        canvas = blank.at((-x * zoom, -y * zoom), zoom)
        self.backdrop.paint(canvas)
        still = canvas.image.copy()
        views = [(source, self._view(canvas, source.place)) for source in self.sources]
        frames = np.empty((len(times_s), height, width, 3), np.uint8)
        for frame, time_s in zip(frames, np.asarray(times_s, float).tolist(), strict=True):
            canvas.image[:] = still
            for source, view in views:
                source.paint(view, time_s)
            np.clip(canvas.image + 0.5, 0, 255, out=frame, casting="unsafe")
        return frames

    def _view(self, canvas: Canvas, place: Place) -> Canvas:
        haze = 0.3 * (place.distance - NEAREST) / (FARTHEST - NEAREST)
        return canvas.at(place.ground, place.scale, (self.backdrop.haze, haze))

    def audio(self) -> np.ndarray:
        """16 kHz mono float32 [160000], |x| <= 0.9; each source's RMS falls with distance."""
        rng = np.random.default_rng((self.seed, 1))
        audio = AMBIENT_RMS * rng.standard_normal(NUM_SAMPLES, dtype=np.float32)
        for source in self.sources:
            sound = source.sound(rng)
            audio += sound * np.float32(source.place.gain / (active_rms(sound) + 1e-9))
        return limit(audio)

    @property
    def truth(self) -> Truth:
        return Truth(
            seed=self.seed,
            classes=tuple(source.kind for source in self.sources),
            events={source.kind: source.events_s for source in self.sources},
            levels={source.kind: _levels(source) for source in self.sources},
            attributes={source.kind: _attributes(source) for source in self.sources},
        )

    def caption(self, time_s: float) -> str:
        """What one frame shows, in English."""
        parts = [f"{s.describe(time_s)}, {s.place.distance_word}" for s in self.sources]
        return " and ".join(parts)


def _levels(source: Source) -> tuple[float, ...]:
    times = (np.arange(round(CLIP_S * LEVEL_RATE_HZ)) + 0.5) / LEVEL_RATE_HZ
    return tuple(round(min(1.0, source.level(time_s)), 4) for time_s in times.tolist())


def _attributes(source: Source) -> dict[str, str | float]:
    place = source.place
    return {
        "size": round(place.size, 4),
        "size_word": place.size_word,
        "distance": round(place.distance, 4),
        "distance_word": place.distance_word,
        **source.attributes(),
    }


def make_scene(seed: int, kind: str | None = None) -> Scene:
    """The clip of a seed; its class is drawn from the seed unless given."""
    if kind is not None and kind not in SOURCES:
        raise ValueError(f"unknown class {kind!r}; choose one of {', '.join(CLASSES)}")
    rng = np.random.default_rng((seed, 0))
    drawn = CLASSES[int(rng.integers(len(CLASSES)))]
    place = Place(
        size=float(rng.random()),
        distance=float(rng.uniform(NEAREST, FARTHEST)),
        side=float(rng.uniform(-1.0, 1.0)),
    )
    camera = (
        float(rng.uniform(-0.05, 0.05)),
        float(rng.uniform(-0.05, 0.05)),
        float(rng.uniform(0.92, 1.02)),
    )
    backdrop = Backdrop.draw(rng)
    source = SOURCES[kind or drawn][1](rng, place)
    return Scene(seed, backdrop, camera, (source,))


def clip_seeds(split: str, start: int, count: int) -> list[int]:
    """`count` seeds of a split, from its `start`-th; the splits share none."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    seeds = SPLITS[split][start : start + count]
    if start < 0 or len(seeds) < count:
        raise ValueError(f"split {split} has {len(SPLITS[split])} seeds, {start}+{count} asked for")
    return list(seeds)
