"""Where things stand and how values move: placements, curves, words for quantities."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import Color, Point, View
from training.foleyworld.sounds import CLIP_S

NEAREST, FARTHEST = 1.0, 3.0
STRIKING_S = 0.1
LOW, HIGH = 40.0, 215.0
VIVID = np.array([(r, g, b) for r in (LOW, HIGH) for g in (LOW, HIGH) for b in (LOW, HIGH)])


@dataclass(frozen=True)
class Place:
    """Where a source stands: `size` 0..1 within its class, `distance` 1..3, `side` -1..1.

    `look` seeds what is seen and never heard: the colours of tools, strokes that miss.
    Two sources share the picture: each has its own `center` and is drawn at `share` of its scale.
    """

    size: float
    distance: float
    side: float
    center: float = 0.0
    share: float = 1.0
    look: int = 0

    def unheard(self) -> np.random.Generator:
        """The draws that no sound depends on; the same ones at each call."""
        return np.random.default_rng((self.look, 2))

    @property
    def scale(self) -> float:
        return self.share * self.distance**-0.4

    @property
    def ground(self) -> Point:
        """The world point it stands on; farther is higher up in the picture."""
        farness = (self.distance - NEAREST) / (FARTHEST - NEAREST)
        # keeps the action inside the central square
        room = max(0.0, 0.93 - 0.86 * self.scale - abs(self.center))
        return self.center + room * self.side, -0.82 + 0.45 * farness**0.7

    @property
    def gain(self) -> float:
        """RMS while sounding."""
        return 0.15 * self.distance**-1.1

    @property
    def size_word(self) -> str:
        return level_word(self.size, ("small", "medium-sized", "large"))

    @property
    def distance_word(self) -> str:
        farness = (self.distance - NEAREST) / (FARTHEST - NEAREST)
        return level_word(farness, ("near", "at middle distance", "far away"))

    def between(self, small: float, large: float) -> float:
        """A geometric scale over size, e.g. from the smallest's pitch to the largest's."""
        return small * (large / small) ** self.size


@dataclass(frozen=True)
class Curve:
    """A smooth path through (time, value) knots."""

    times_s: tuple[float, ...]
    values: tuple[float, ...]

    @classmethod
    def wander(
        cls, rng: np.random.Generator, low: float, high: float, hold_s: tuple[float, float]
    ) -> "Curve":
        """Random knots that alternate between the lower and the upper half of the range."""
        times, values = [0.0], []
        upper = bool(rng.random() < 0.5)
        while times[-1] < CLIP_S:
            times.append(times[-1] + float(rng.uniform(*hold_s)))
        for _ in times:
            values.append(low + (high - low) * (0.65 * upper + 0.35 * float(rng.random())))
            upper = not upper
        return cls(tuple(times), tuple(values))

    def __call__(self, times_s: np.ndarray | float) -> np.ndarray | float:
        if isinstance(times_s, float):
            return self._at(times_s)
        knots, values = np.asarray(self.times_s), np.asarray(self.values)
        i = np.clip(np.searchsorted(knots, times_s, side="right") - 1, 0, len(knots) - 2)
        u = np.clip((times_s - knots[i]) / (knots[i + 1] - knots[i]), 0.0, 1.0)
        return values[i] + (values[i + 1] - values[i]) * (u * u * (3 - 2 * u))

    def _at(self, time_s: float) -> float:
        """One value, without numpy: a third of the time of a picture would go here."""
        knots, values = self.times_s, self.values
        i = min(max(0, bisect_right(knots, time_s) - 1), len(knots) - 2)
        u = min(1.0, max(0.0, (time_s - knots[i]) / (knots[i + 1] - knots[i])))
        return values[i] + (values[i + 1] - values[i]) * (u * u * (3 - 2 * u))

    def area(self, time_s: float) -> float:
        """The curve's integral from its first knot on."""
        whole = 0.0
        for start, end, low, high in zip(
            self.times_s, self.times_s[1:], self.values, self.values[1:], strict=False
        ):
            u = min(1.0, max(0.0, (time_s - start) / (end - start)))
            whole += (end - start) * (low * u + (high - low) * (u**3 - 0.5 * u**4))
        return whole

    def over_clip(self, times_s: np.ndarray) -> np.ndarray:
        """The curve at sample rate, from a 1-kHz grid: much faster than calling it."""
        grid = np.arange(0.0, CLIP_S + 0.002, 0.001)
        return np.interp(times_s, grid, self(grid)).astype(np.float32)


@dataclass(frozen=True)
class Camera:
    """Where the picture looks and how bright it is, each a slow path over the clip."""

    x: Curve
    y: Curve
    zoom: Curve
    light: Curve

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Camera":
        """Half of the cameras stand still; lighting changes in all."""
        drift = float(rng.uniform(0.3, 1.0)) if rng.random() < 0.5 else 0.0

        def path(low: float, high: float, reach: float) -> Curve:
            center = float(rng.uniform(low, high))
            return Curve.wander(rng, center - reach, center + reach, (2.5, 6.0))

        return cls(
            x=path(-0.03, 0.03, 0.03 * drift),
            y=path(-0.03, 0.03, 0.03 * drift),
            zoom=path(0.92, 0.99, 0.02 * drift),
            light=path(0.8, 1.1, 0.06),
        )

    @property
    def rest(self) -> View:
        """The view halfway between its extremes."""
        x, y, zoom = (0.5 * (min(c.values) + max(c.values)) for c in (self.x, self.y, self.zoom))
        return View(x, y, zoom)

    def views(self, times_s: np.ndarray) -> list[View]:
        paths = np.stack([self.x(times_s), self.y(times_s), self.zoom(times_s)], axis=1)
        return [View(x, y, zoom) for x, y, zoom in paths.tolist()]


def level_word(value: float, words: Sequence[str]) -> str:
    """The word for a value in 0..1, from equally wide levels."""
    return words[min(len(words) - 1, max(0, int(value * len(words))))]


def since(time_s: float, beats_s: Sequence[float]) -> float:
    """Seconds since the last beat; large before the first."""
    i = bisect_right(beats_s, time_s + 1e-6)
    return time_s - beats_s[i - 1] if i else 99.0


def jolt(time_s: float, events_s: Sequence[float], decay_s: float = 0.06) -> float:
    """How far something struck gives way: 1 at each event, then springing back."""
    return math.exp(-min(since(time_s, events_s) / decay_s, 50.0))


def any_color(rng: np.random.Generator) -> Color:
    """A vivid colour: each channel low or high."""
    r, g, b = (VIVID[int(rng.integers(len(VIVID)))] + rng.uniform(-30, 30, 3)).tolist()
    return r, g, b


def striking(time_s: float, events_s: Sequence[float]) -> bool:
    """Whether an event began within the last tenth of a second."""
    return since(time_s, events_s) < STRIKING_S
