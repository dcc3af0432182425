"""Continuous sounds of water: rain, waves."""

from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, mix
from training.foleyworld.sounds import (
    CLIP_S,
    NUM_SAMPLES,
    band,
    clip_times,
    noise_band,
)
from training.foleyworld.stage import Curve, Place, level_word


@dataclass(frozen=True)
class Rain:
    """Rain whose density comes and goes; large drops sound lower, near ones look longer."""

    place: Place
    density: Curve
    slant: float
    events_s: tuple[float, ...] = ()
    kind = "rain"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Rain":
        return cls(place, Curve.wander(rng, 0.06, 1.0, (1.2, 3.0)), float(rng.uniform(-0.25, 0.25)))

    def level(self, time_s: float) -> float:
        return float(self.density(time_s))

    def attributes(self) -> dict[str, str | float]:
        return {"slant": round(self.slant, 3)}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        density = self.level(time_s)
        whole = canvas.at((-self.place.ground[0], 0.0), 1.0)
        whole.cover(
            np.full((len(canvas.ys), len(canvas.xs)), 0.15 + 0.4 * density, np.float32),
            (84, 92, 108),
        )
        pixel = canvas.pixel
        lane = 0.13 * (0.55 + 0.75 * self.place.size)
        x = canvas.xs[None, :] - np.float32(self.slant) * canvas.ys[:, None]
        number = np.floor(x / lane)
        across = np.abs(x - (number + 0.5) * lane)
        width = 0.014 + 0.022 * self.place.size
        lane_hash = _hash(number)
        fall = canvas.ys[:, None] + np.float32(4.0 * time_s) + lane_hash * 7.0
        period = 0.8
        drop = np.floor(fall / period)
        along = fall - drop * period
        lit = _hash(number * 17.0 + drop * 31.0) < density
        length = 0.18 + 0.2 * self.place.size
        coverage = np.clip(0.5 - (across - width) / pixel, 0, 1) * lit * (along < length)
        whole.cover(coverage.astype(np.float32) * np.float32(0.9), (214, 230, 250))
        self._paint_puddle(canvas, time_s, density)

    def _paint_puddle(self, canvas: Canvas, time_s: float, density: float) -> None:
        canvas.ellipse((0, 0.02), (0.85, 0.14), (70, 96, 130), 0.9)
        for i in range(7):
            cycle = time_s * 3.1 + i * 0.618
            u = cycle % 1.0
            x = 0.7 * (2 * ((np.floor(cycle) * 0.382 + i * 0.27) % 1.0) - 1)
            radii = (0.05 + 0.17 * u, 0.02 + 0.05 * u)
            canvas.ellipse(
                (x, 0.02), radii, (220, 235, 250), 0.9 * (1 - u) * (i < round(7 * density))
            )

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        density = self.density.over_clip(clip_times())
        center = self.place.between(3600, 1300)
        hiss = noise_band(rng, 0.6 * center, 1.5 * center)
        drops = np.zeros(NUM_SAMPLES, np.float32)
        times = rng.integers(0, NUM_SAMPLES, 1500)
        heard = times[rng.random(len(times)) < density[times]]
        drops[heard] = rng.uniform(0.3, 1.0, len(heard))
        ticks = band(drops, 0.75 * center, 1.1 * center)
        return (0.8 * hiss * density**0.9 + 0.7 * ticks).astype(np.float32)

    def describe(self, time_s: float) -> str:
        words = ("very light", "light", "moderate", "heavy", "very heavy")
        strength = level_word(self.level(time_s), words)
        return f"{strength} rain of {self.place.size_word} drops"


def _hash(x: np.ndarray) -> np.ndarray:
    """A fixed pseudo-random number in 0..1 for each whole number."""
    s = np.sin(x.astype(np.float64) * 12.9898 + 4.1) * 43758.5453
    return (s - np.floor(s)).astype(np.float32)


@dataclass(frozen=True)
class Waves:
    """Slow swells; `crests_s` are the highest moments, where the breaking is loudest."""

    place: Place
    crests_s: tuple[float, ...]
    color: str
    kind = "waves"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Waves":
        crests = [-float(rng.uniform(0.5, 2.5))]
        while crests[-1] < CLIP_S:
            crests.append(crests[-1] + float(rng.uniform(2.0, 3.6)))
        return cls(place, tuple(crests), str(rng.choice(["blue", "green"])))

    @property
    def events_s(self) -> tuple[float, ...]:
        return tuple(t for t in self.crests_s if 0.0 <= t < CLIP_S)

    def height(self, times_s: np.ndarray | float) -> np.ndarray:
        """0 in the trough, 1 at a crest; the rise is slower than the fall."""
        crests = np.asarray(self.crests_s)
        i = np.clip(np.searchsorted(crests, times_s, side="right") - 1, 0, len(crests) - 2)
        u = (times_s - crests[i]) / (crests[i + 1] - crests[i])
        return 0.5 + 0.5 * np.cos(2 * np.pi * u**0.8)

    def level(self, time_s: float) -> float:
        return float(self.height(time_s))

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        height = self.level(time_s)
        tall = 0.55 + 0.45 * self.place.size
        sea = mix(PALETTE[self.color], (20, 60, 90), 0.35)
        xs = canvas.xs
        back = 0.42 + 0.03 * np.sin(9 * xs + 1.7 * time_s)
        canvas.below(back.astype(np.float32), mix(sea, (255, 255, 255), 0.25))
        ripple = 0.04 * np.sin(6 * xs - 2.5 * time_s) + 0.02 * np.sin(13 * xs + 3.1 * time_s)
        hump = np.exp(-((xs * 0.9) ** 2))
        front = (0.05 + tall * height * hump + ripple).astype(np.float32)
        canvas.below(front, sea)
        foam = np.float32(0.03 + 0.2 * height**2)
        canvas.below(front, (244, 250, 252), 0.25 + 0.75 * height**2)
        canvas.below(front - foam, sea)

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        grid = np.arange(0.0, CLIP_S + 0.002, 0.001)
        height = np.interp(clip_times(), grid, self.height(grid)).astype(np.float32)
        low = self.place.between(700, 260)
        body = noise_band(rng, 0.4 * low, low) * (0.12 + height)
        crash = noise_band(rng, 2.2 * low, 7.0 * low) * height**4
        return body + 0.6 * crash

    def describe(self, time_s: float) -> str:
        words = (
            "a flat sea between waves",
            "a low wave",
            "a half-high wave",
            "a high wave",
            "a towering wave breaking white",
        )
        state = level_word(self.level(time_s), words)
        return f"{state}, {self.place.size_word} {self.color} waves"
