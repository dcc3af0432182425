"""A campfire: flames, sparks, crackles over a rumble."""

from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import Canvas, Color
from training.foleyworld.sounds import NUM_SAMPLES, SAMPLE_RATE_HZ, band, clip_times, noise_band
from training.foleyworld.stage import Curve, Place, level_word

RUMBLE_HZ = (300, 130)  # small to large
CRACKLE_HZ = (3400, 1500)
CRACKLES_PER_S = 26  # at full height
MAX_SPARKS = 9
# Of the flames, outside in: colour, width and height as shares of the outermost.
LAYERS: tuple[tuple[Color, float, float], ...] = (
    ((214, 52, 20), 1.0, 1.0),
    ((248, 140, 24), 0.7, 0.76),
    ((255, 236, 110), 0.4, 0.48),
)


@dataclass(frozen=True)
class Fire:
    """A campfire whose flames rise and sink; a large one sounds lower. Crackles are no events."""

    place: Place
    height: Curve
    phase: float
    events_s: tuple[float, ...] = ()
    kind = "fire"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Fire":
        curve = Curve.wander(rng, 0.05, 1.0, (0.9, 2.2))
        return cls(place, curve, float(rng.uniform(0.0, 50.0)))

    def level(self, time_s: float) -> float:
        return float(self.height(time_s))

    def attributes(self) -> dict[str, str | float]:
        return {"rumble_hz": round(self.place.between(*RUMBLE_HZ), 1)}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        height, t = self.level(time_s), time_s + self.phase
        wide = 0.75 + 0.35 * self.place.size
        canvas.glow((0.0, 0.3), 0.85, (255, 150, 40), 0.15 + 0.5 * height)
        canvas.ellipse((0.0, 0.02), (0.62 * wide, 0.12), (40, 32, 30))
        self._paint_flames(canvas, height, wide, t)
        for side in (-1.0, 1.0):
            ends = (-0.5 * side * wide, 0.02), (0.42 * side * wide, 0.2)
            canvas.line(*ends, 0.13, (74, 44, 26))
        for spark in range(MAX_SPARKS):
            u = (0.9 * t + 0.618 * spark) % 1.0
            x = 0.55 * wide * np.sin(2.4 * spark + 5.0 * u) * (0.4 + 0.6 * u)
            y = 0.3 + (0.35 + 0.85 * height) * u
            canvas.circle(
                (x, y), 0.035, (255, 225, 90), (1 - 0.5 * u) * (spark < round(MAX_SPARKS * height))
            )

    def _paint_flames(self, canvas: Canvas, height: float, wide: float, t: float) -> None:
        """Three tongues in each of three colours; their tips dance."""
        for color, breadth, share in LAYERS:
            for i, (x, tall) in enumerate(((-0.24, 0.66), (0.24, 0.72), (0.0, 1.0))):
                flicker = 1 + 0.1 * np.sin(23.0 * t + 2.1 * i) + 0.06 * np.sin(37.0 * t + 4.0 * i)
                top = 0.14 + share * tall * flicker * (0.12 + 1.0 * height)
                half = 0.19 * wide * breadth * (0.8 + 0.4 * height)
                lean = 0.06 * np.sin(11.0 * t + 1.7 * i)
                foot = x * wide * (0.6 + 0.4 * breadth)
                belly = 0.14 + 0.35 * (top - 0.14)
                low = [(foot - 0.7 * half, 0.1), (foot + 0.7 * half, 0.1)]
                sides = [(foot + half, belly), (foot + lean, top), (foot - half, belly)]
                canvas.polygon([*low, *sides], color)

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        height = self.height.over_clip(clip_times())
        low = self.place.between(*RUMBLE_HZ)
        roar = noise_band(rng, 0.5 * low, 1.3 * low)
        flutter = 1 + 0.35 * noise_band(rng, 3.0, 9.0)
        crackles = crackle(rng, height, self.place.between(*CRACKLE_HZ))
        loudness = 0.07 + 0.93 * height
        return (loudness * (0.8 * roar * flutter + 0.65 * crackles)).astype(np.float32)

    def describe(self, time_s: float) -> str:
        words = ("glowing", "with small flames", "with flames", "with tall flames", "blazing")
        return f"a {self.place.size_word} camp fire {level_word(self.level(time_s), words)}"


def crackle(rng: np.random.Generator, rate: np.ndarray, center_hz: float) -> np.ndarray:
    """Sparse clicks of a few ms at random times, RMS 1, float32 [S].

    `rate` 0..1 [S] thins them out; a few are much louder than the rest.
    """
    count = int(CRACKLES_PER_S * NUM_SAMPLES / SAMPLE_RATE_HZ)
    at = rng.integers(0, NUM_SAMPLES, count)
    at = at[rng.random(count) < 0.2 + 0.8 * rate[at]]
    clicks = np.zeros(NUM_SAMPLES, np.float32)
    clicks[at] = rng.uniform(0.25, 1.0, len(at)) ** 2
    tail = np.exp(-np.arange(96, dtype=np.float32) / 24) * rng.standard_normal(96, np.float32)
    return band(np.convolve(clicks, tail)[:NUM_SAMPLES], 0.6 * center_hz, 1.5 * center_hz)
