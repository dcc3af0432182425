"""Scenes: what a seed stands for, its pictures, its sound, its truth."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from training.foleyworld.alarms import Alarm
from training.foleyworld.backdrops import Backdrop, Still
from training.foleyworld.balls import Ball
from training.foleyworld.bells import Bell
from training.foleyworld.clocks import Clock
from training.foleyworld.distractors import Distractor, draw_distractors
from training.foleyworld.doors import Knock
from training.foleyworld.engines import Engine
from training.foleyworld.fires import Fire
from training.foleyworld.footsteps import Footsteps
from training.foleyworld.holdouts import held_out_kinds
from training.foleyworld.percussion import Drum, Hammer
from training.foleyworld.pictures import Canvas, Film
from training.foleyworld.saws import Saw
from training.foleyworld.signals import Bird, Siren
from training.foleyworld.sounds import CLIP_S, NUM_SAMPLES, active_rms, limit
from training.foleyworld.stage import FARTHEST, NEAREST, Camera, Place
from training.foleyworld.textures import Rain, Waves
from training.foleyworld.truth import LEVEL_RATE_HZ, Truth
from training.foleyworld.winds import Wind
from vab_rt.errors import OptionError


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
    "footsteps": ("impact", Footsteps.draw),
    "clock": ("impact", Clock.draw),
    "knock": ("impact", Knock.draw),
    "rain": ("continuous", Rain.draw),
    "waves": ("continuous", Waves.draw),
    "engine": ("continuous", Engine.draw),
    "wind": ("continuous", Wind.draw),
    "fire": ("continuous", Fire.draw),
    "saw": ("continuous", Saw.draw),
    "siren": ("tonal", Siren.draw),
    "bird": ("tonal", Bird.draw),
    "bell": ("tonal", Bell.draw),
    "alarm": ("tonal", Alarm.draw),
}
CLASSES: tuple[str, ...] = tuple(SOURCES)
FAMILIES: dict[str, str] = {kind: family for kind, (family, _) in SOURCES.items()}
IMPACTS = frozenset(kind for kind, family in FAMILIES.items() if family == "impact")

VERSION = 3  # of what a seed stands for; clips rendered by another version are not reused
HELD_OUT = "held-out"
SPLITS: dict[str, range] = {
    "train": range(100_000_000),
    "validation": range(100_000_000, 110_000_000),
    "test": range(110_000_000, 120_000_000),
    HELD_OUT: range(120_000_000, 130_000_000),
}
AMBIENT_RMS = 0.001
PIXELS_AT_ONCE = 32 * 64 * 64  # they fit the cache
PAIR_SHARE = 0.15
ALONE = ("waves", "wind")  # they fill the picture
BACKGROUND = "rain"  # it fills the picture too, but an impact in front of it reads well


@dataclass(frozen=True)
class Scene:
    """A 10-s clip: sources before a backdrop, through a camera; the first source is primary."""

    seed: int
    backdrop: Backdrop
    distractors: tuple[Distractor, ...]
    camera: Camera
    sources: tuple[Source, ...]

    def frames(self, times_s: np.ndarray, width: int, height: int) -> np.ndarray:
        """RGB pictures uint8 [F, height, width, 3] at the given times.

        The central square of a wide picture is what a square picture shows.
        """
        times_s = np.asarray(times_s, float)
        still = self.backdrop.still(self.camera.rest, width, height)
        frames = np.empty((len(times_s), height, width, 3), np.uint8)
        at_once = max(1, PIXELS_AT_ONCE // (width * height))
        for start in range(0, len(times_s), at_once):
            some = slice(start, start + at_once)
            images = self._film(still, times_s[some], width, height).images  # [F, 3, H, W]
            light = self.camera.light(times_s[some]) * flicker(times_s[some], self.seed)
            images *= light[:, None, None, None].astype(np.float32)
            images += np.float32(0.5)
            np.clip(images, 0, 255, out=images)
            np.copyto(frames[some].transpose(0, 3, 1, 2), images, casting="unsafe")
        return frames

    def _film(self, still: Still, times_s: np.ndarray, width: int, height: int) -> Film:
        film, views = Film(len(times_s), width, height), self.camera.views(times_s)
        for i, view in enumerate(views):
            still.look(film.canvas(i), view)
        for i, (view, time_s) in enumerate(zip(views, times_s.tolist(), strict=True)):
            self._paint(film.canvas(i).through(view), time_s)
        return film

    def _paint(self, canvas: Canvas, time_s: float) -> None:
        for distractor in self.distractors:
            distractor.paint(canvas, time_s)
        for source in sorted(self.sources, key=_depth):
            place = source.place
            haze = 0.3 * (place.distance - NEAREST) / (FARTHEST - NEAREST)
            view = canvas.at(place.ground, place.scale, (self.backdrop.haze, haze))
            source.paint(view, time_s)

    def audio(self, take: int = 1) -> np.ndarray:
        """16 kHz mono float32 [160000], |x| <= 0.9; each source's RMS falls with distance.

        Another take has other noise: whatever of the sound cannot be seen.
        """
        rng = np.random.default_rng((self.seed, take))
        audio = AMBIENT_RMS * rng.standard_normal(NUM_SAMPLES, dtype=np.float32)
        for source in self.sources:
            sound = source.sound(rng)
            audio += sound * np.float32(source.place.gain / (active_rms(sound) + 1e-9))
        return limit(audio)

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(source.kind for source in self.sources)

    @property
    def held_out(self) -> tuple[str, ...]:
        """Which of `holdouts.KINDS` it has: none outside the split `held-out`."""
        return held_out_kinds(self.sources, self.backdrop.kind, IMPACTS)

    @property
    def truth(self) -> Truth:
        return Truth(
            seed=self.seed,
            held_out=self.held_out,
            classes=self.classes,
            events={source.kind: source.events_s for source in self.sources},
            levels={source.kind: _levels(source) for source in self.sources},
            attributes={source.kind: _attributes(source) for source in self.sources},
        )

    def caption(self, time_s: float) -> str:
        """What one frame shows, in English."""
        parts = [f"{s.describe(time_s)}, {s.place.distance_word}" for s in self.sources]
        return " and ".join(parts)


def flicker(times_s: np.ndarray, seed: int) -> np.ndarray:
    """The exposure's restlessness, a factor of 1 +- 0.015, beside which small motion drowns."""
    rng = np.random.default_rng((seed, 4))
    hz, phase = rng.uniform(6.0, 12.0, 3), rng.uniform(0.0, 2 * np.pi, 3)
    waves = np.sin(2 * np.pi * np.asarray(times_s)[:, None] * hz + phase)
    return 1 + 0.005 * waves.sum(axis=1)


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


def _depth(source: Source) -> tuple[bool, float]:
    """The order of painting: rain first, then from far to near."""
    return source.kind != BACKGROUND, -source.place.distance


def make_scene(seed: int, kind: str | None = None, num_sources: int | None = None) -> Scene:
    """The clip of a seed; its class is drawn from the seed unless given.

    A share PAIR_SHARE of the seeds has two sources; with `kind` there is one unless
    `num_sources` says 2, and `kind` is the nearer. Seeds of the split `held-out` draw again
    until something is held out, all others until nothing is; class and number of sources stay.
    Raises OptionError.
    """
    _check(seed, kind, num_sources)
    scene = _draw_scene(seed, 0, kind, num_sources)
    kind, num_sources = scene.classes[0], len(scene.sources)
    for attempt in range(1, 1000):
        if bool(scene.held_out) == (seed in SPLITS[HELD_OUT]):
            return scene
        scene = _draw_scene(seed, attempt, kind, num_sources)
    raise AssertionError(f"no scene of seed {seed} as it is asked for")


def _draw_scene(seed: int, attempt: int, kind: str | None, num_sources: int | None) -> Scene:
    rng = np.random.default_rng((seed, 0, attempt) if attempt else (seed, 0))
    drawn = CLASSES[int(rng.integers(len(CLASSES)))]
    paired = bool(rng.random() < PAIR_SHARE) and kind is None
    if num_sources is not None:
        paired = num_sources == 2
        drawn = _pairable(rng) if paired and drawn in ALONE else drawn
    kind = kind or drawn
    camera = Camera.draw(rng)
    backdrop = Backdrop.draw(rng)
    distractors = draw_distractors(rng, backdrop.horizon, np.random.default_rng((seed, 3)))
    kinds = (kind, _partner(rng, kind)) if paired and kind not in ALONE else (kind,)
    places = _two_places(rng, seed) if len(kinds) == 2 else (_place(rng, seed),)
    sources = tuple(SOURCES[k][1](rng, place) for k, place in zip(kinds, places, strict=True))
    return Scene(seed, backdrop, distractors, camera, sources)


def _check(seed: int, kind: str | None, num_sources: int | None) -> None:
    if seed < 0:
        raise OptionError(f"seed is {seed}; expected 0 or more")
    if kind is not None and kind not in SOURCES:
        raise OptionError(f"unknown class {kind!r}; choose one of {', '.join(CLASSES)}")
    if num_sources not in (None, 1, 2):
        raise OptionError(f"{num_sources} sources asked for; a scene has 1 or 2")
    if num_sources == 2 and kind in ALONE:
        raise OptionError(f"{kind} fills the picture; ask for 1 source, or for another class")


def _pairable(rng: np.random.Generator) -> str:
    return str(rng.choice([kind for kind in CLASSES if kind not in ALONE]))


def _partner(rng: np.random.Generator, kind: str) -> str:
    """A class that is seen and heard well beside another: at most one of two is an impact."""
    fitting = []
    for other in CLASSES:
        impacts = [FAMILIES[kind], FAMILIES[other]].count("impact")
        fits = impacts == 1 or (impacts == 0 and BACKGROUND not in (kind, other))
        if fits and other != kind and other not in ALONE:
            fitting.append(other)
    return str(rng.choice(fitting))


def _place(rng: np.random.Generator, seed: int) -> Place:
    size, side = float(rng.random()), float(rng.uniform(-1.0, 1.0))
    return Place(size, float(rng.uniform(NEAREST, FARTHEST)), side, look=2 * seed)


def _two_places(rng: np.random.Generator, seed: int) -> tuple[Place, Place]:
    """Left and right of each other, the first nearer."""
    left = 1.0 if rng.random() < 0.5 else -1.0
    near = float(rng.uniform(NEAREST, 1.5))
    far = near + float(rng.uniform(0.15, 0.7))
    one, two = (
        Place(float(rng.random()), distance, 0.0, center=center, share=0.56, look=look)
        for distance, center, look in (
            (near, 0.47 * left, 2 * seed),
            (far, -0.47 * left, 2 * seed + 1),
        )
    )
    return one, two


def clip_seeds(split: str, start: int, count: int) -> list[int]:
    """`count` seeds of a split, from its `start`-th; the splits share none."""
    if split not in SPLITS:
        raise OptionError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if start < 0:
        raise OptionError(f"first seed is {start}; expected 0 or more")
    if count < 1:
        raise OptionError(f"{count} clips asked for; expected 1 or more")
    seeds = SPLITS[split][start : start + count]
    if len(seeds) < count:
        raise OptionError(
            f"split {split} has {len(SPLITS[split])} seeds; expected at most that many, "
            f"{start}+{count} asked for"
        )
    return list(seeds)
