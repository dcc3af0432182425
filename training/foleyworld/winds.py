"""Wind: a tree that bends in gusts, flying leaves, a moaning band of noise."""

from dataclasses import dataclass

import numpy as np
from scipy import signal

from training.foleyworld.pictures import PALETTE, Canvas, Point, mix
from training.foleyworld.sounds import NUM_SAMPLES, SAMPLE_RATE_HZ, clip_times
from training.foleyworld.stage import Curve, Place, level_word

CALM_HZ = (480, 260)  # small to large tree, at no gust
GUST_RATIO = 1.85  # of the centre frequency, from calm to the strongest gust
MAX_LEAVES = 12
LEAF_COLORS = ((255, 215, 40), (240, 110, 30), (205, 40, 35))
# Of the crown, as (sideways, along the trunk, radius); later ones lie in front.
TUFTS = ((-0.2, 0.0, 0.2), (0.2, 0.0, 0.2), (0.0, 0.22, 0.21), (0.0, 0.06, 0.23))


@dataclass(frozen=True)
class Wind:
    """A tree in gusts; `heading` +-1 is the side it bends to. Large trees moan lower."""

    place: Place
    gust: Curve
    heading: float
    color: str
    events_s: tuple[float, ...] = ()
    kind = "wind"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Wind":
        heading = float(rng.choice([-1.0, 1.0]))
        color = str(rng.choice(["green", "yellow", "white"]))
        return cls(place, Curve.wander(rng, 0.03, 1.0, (0.9, 2.2)), heading, color)

    def level(self, time_s: float) -> float:
        return float(self.gust(time_s))

    def blown(self, time_s: float) -> float:
        """How far the air has moved since the start, in widths of the picture."""
        return 0.2 * time_s + 1.6 * self.gust.area(time_s)

    def attributes(self) -> dict[str, str | float]:
        return {
            "color": self.color,
            "heading": "right" if self.heading > 0 else "left",
            "calm_hz": round(self.place.between(*CALM_HZ), 1),
        }

    def paint(self, canvas: Canvas, time_s: float) -> None:
        gust, blown = self.level(time_s), self.blown(time_s)
        bend = 0.05 + gust * (1.15 + 0.05 * np.sin(19.0 * time_s))
        self._paint_streaks(canvas, gust, blown)
        self._paint_grass(canvas, bend)
        self._paint_tree(canvas, bend)
        self._paint_leaves(canvas, gust, blown)

    def _paint_tree(self, canvas: Canvas, bend: float) -> None:
        """The trunk turns away from the vertical, the more the higher up."""
        grow = 0.75 + 0.35 * self.place.size
        x, y, segment = -0.4, 0.0, 0.21 * grow
        for i in range(4):
            angle = bend * (i + 1) / 4
            end = (x + segment * np.sin(angle), y + segment * np.cos(angle))
            canvas.line(self._at(x, y), self._at(*end), 0.13 - 0.02 * i, (92, 58, 34))
            x, y = end
        coat, side, up = PALETTE[self.color], np.cos(bend), np.sin(bend)
        for i, (across, along, radius) in enumerate(TUFTS):
            u, v = grow * across * (1 - 0.35 * bend / 1.2), grow * along * (1 + 0.4 * bend / 1.2)
            center = self._at(x + u * side + v * up, y - u * up + v * side)
            shade = mix(coat, (0, 30, 0), 0.45 - 0.15 * i)
            canvas.circle(center, grow * radius * (1 - 0.12 * bend), shade)

    def _paint_grass(self, canvas: Canvas, bend: float) -> None:
        for i in range(8):
            foot = -0.75 + 0.19 * i
            tip = (foot + 0.2 * np.sin(bend * 1.2), 0.2 * np.cos(bend * 1.2))
            canvas.line(self._at(foot, 0.0), self._at(*tip), 0.045, (60, 120, 40))

    def _paint_streaks(self, canvas: Canvas, gust: float, blown: float) -> None:
        for i in range(6):
            u = (0.8 * blown + 0.382 * i) % 1.0
            x, y = -0.8 + 1.1 * u, 0.3 + 1.1 * ((0.618 * i) % 1.0)
            fade = float(np.sin(np.pi * u))
            ends = self._at(x, y), self._at(x + 0.1 + 0.4 * gust, y)
            canvas.line(*ends, 0.035, (250, 252, 255), 0.85 * fade * min(1.0, 1.5 * gust))

    def _paint_leaves(self, canvas: Canvas, gust: float, blown: float) -> None:
        for i in range(MAX_LEAVES):
            u = (blown + 0.618 * i) % 1.0
            x = -0.15 + 0.95 * u
            y = 0.2 + 0.9 * ((0.382 * i) % 1.0) + 0.1 * np.sin(9.0 * u + i) - 0.15 * u
            canvas.ellipse(
                self._at(x, y),
                (0.06, 0.035),
                LEAF_COLORS[i % 3],
                float(i < round(MAX_LEAVES * gust)),
            )

    def _at(self, x: float, y: float) -> Point:
        """A point of the picture in which the wind blows to the right."""
        return self.heading * x, y

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        gust = self.gust.over_clip(clip_times())
        calm = self.place.between(*CALM_HZ)
        center = np.float32(calm) * np.float32(GUST_RATIO) ** gust
        breath = moving_band(rng, center, 0.3 * calm)
        moan = moving_band(rng, center, 0.07 * calm)
        return ((0.75 * breath + 0.66 * moan) * (0.08 + 0.92 * gust)).astype(np.float32)

    def describe(self, time_s: float) -> str:
        words = ("barely moving", "swaying", "leaning over", "bent over", "bent to the ground")
        state = level_word(self.level(time_s), words)
        return f"a {self.place.size_word} {self.color} tree {state} in the wind"


def moving_band(rng: np.random.Generator, center_hz: np.ndarray, half_hz: float) -> np.ndarray:
    """Noise around a moving centre [S], `half_hz` to either side, RMS 1, float32 [S].

    Low-passed complex noise, shifted up in frequency by the centre.
    """
    sos = signal.butter(2, half_hz, fs=SAMPLE_RATE_HZ, output="sos").astype(np.float32)
    white = rng.standard_normal((2, NUM_SAMPLES), dtype=np.float32)
    real, imaginary = signal.sosfilt(sos, white, axis=1)
    turns = np.cumsum(center_hz, dtype=np.float64) / SAMPLE_RATE_HZ
    phase = (2 * np.pi * (turns % 1.0)).astype(np.float32)
    out = real * np.cos(phase) - imaginary * np.sin(phase)
    return out / (np.sqrt(np.mean(out * out)) + 1e-9)
