"""A hand saw that goes back and forth through a log."""

from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas
from training.foleyworld.sounds import CLIP_S, SAMPLE_RATE_HZ, clip_times, noise_band
from training.foleyworld.stage import Place, level_word

FORMANT_HZ = (2700, 1500)  # small to large
TEETH_HZ = (150, 90)  # at full speed
STROKE_S = (0.5, 0.9)
FULL_SPEED = 0.5 * np.pi / STROKE_S[0]  # of the shortest stroke at its middle, strokes a second


class Stroke(NamedTuple):
    """One pull or push, from one end of the blade's travel (0..1) to the other."""

    start_s: float
    duration_s: float
    first: float
    last: float


@dataclass(frozen=True)
class Saw:
    """The blade's speed makes the rasp; it rests between strokes. Events are stroke starts."""

    place: Place
    strokes: tuple[Stroke, ...]
    color: str
    kind = "saw"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Saw":
        strokes, start, last = [], float(rng.uniform(0.0, 0.3)), float(rng.uniform(0.0, 0.2))
        while start < CLIP_S:
            first, last = last, float(rng.uniform(0.0, 0.2))
            if first < 0.5:
                last = 1.0 - last
            duration = float(rng.uniform(*STROKE_S))
            strokes.append(Stroke(start, duration, first, last))
            start += duration + float(rng.uniform(0.08, 0.3))
        return cls(place, tuple(strokes), str(rng.choice(["red", "blue", "yellow", "green"])))

    @property
    def events_s(self) -> tuple[float, ...]:
        return tuple(stroke.start_s for stroke in self.strokes)

    def speed(self, times_s: np.ndarray | float) -> np.ndarray:
        """-1..1 as a share of FULL_SPEED; positive while pushed away from the hand."""
        start, duration, first, last, u = self._stroke(times_s)
        peak = 0.5 * np.pi * (last - first) / duration / FULL_SPEED
        return np.where(times_s < start, 0.0, peak * np.sin(np.pi * u))

    def position(self, times_s: np.ndarray | float) -> np.ndarray:
        """The position of the blade, 0..1 of its travel."""
        _, _, first, last, u = self._stroke(times_s)
        return first + (last - first) * (0.5 - 0.5 * np.cos(np.pi * u))

    def _stroke(self, times_s: np.ndarray | float) -> tuple[np.ndarray | float, ...]:
        """Start, duration, ends and progress 0..1 of the stroke at each time."""
        if isinstance(times_s, float):
            i = max(bisect_right(self.strokes, times_s, key=itemgetter(0)) - 1, 0)
            start, duration, first, last = self.strokes[i]
            return start, duration, first, last, min(1.0, max(0.0, (times_s - start) / duration))
        table = np.asarray(self.strokes)
        i = np.maximum(np.searchsorted(table[:, 0], times_s, side="right") - 1, 0)
        start, duration, first, last = np.moveaxis(table[i], -1, 0)
        return start, duration, first, last, np.clip((times_s - start) / duration, 0.0, 1.0)

    def level(self, time_s: float) -> float:
        return float(np.abs(self.speed(time_s)))

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color, "formant_hz": round(self.place.between(*FORMANT_HZ), 1)}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        grow, speed = 0.65 + 0.5 * self.place.size, float(self.speed(time_s))
        radius = 0.36 * grow
        log = (0.0, 0.2 + radius)
        cut = log[1] + 0.35 * radius
        for side in (-1.0, 1.0):
            canvas.line((0.45 * side, 0.0), (-0.2 * side, 0.4 * grow), 0.1, (58, 60, 70))
        canvas.circle(log, radius, (84, 52, 30))
        canvas.circle(log, 0.86 * radius, (232, 190, 128))
        canvas.ring(log, 0.5 * radius, 0.05, (186, 136, 82))
        canvas.circle(log, 0.16 * radius, (186, 136, 82))
        self._paint_dust(canvas, time_s, speed, cut)
        for age in range(3, 0, -1):
            then = float(self.position(time_s - 0.035 * age))
            self._paint_blade(canvas, then, cut, 0.35 * abs(speed))
        self._paint_blade(canvas, float(self.position(time_s)), cut, 1.0)
        canvas.ring(log, 0.93 * radius, 0.14 * radius, (84, 52, 30), 0.5)

    def _paint_blade(self, canvas: Canvas, position: float, cut: float, alpha: float) -> None:
        """A steel blade with its coloured handle on the right."""
        x = 0.5 * (0.5 - position)
        shade = PALETTE[self.color]
        corners = [(x - 0.55, cut), (x + 0.4, cut), (x + 0.4, cut + 0.24), (x - 0.55, cut + 0.1)]
        canvas.polygon(corners, (222, 228, 236), alpha)
        canvas.line((x - 0.54, cut), (x + 0.4, cut), 0.035, (60, 64, 72), alpha)
        canvas.line((x + 0.44, cut), (x + 0.5, cut + 0.26), 0.15, shade, alpha)

    def _paint_dust(self, canvas: Canvas, time_s: float, speed: float, cut: float) -> None:
        """Sawdust thrown the way the blade moves (+1 pushes to the left), more the faster."""
        amount, way = abs(speed), -1.0 if speed > 0 else 1.0
        for grain in range(12):
            u = (2.2 * time_s + 0.618 * grain) % 1.0
            x = way * (0.15 + 0.6 * u * (0.5 + 0.5 * ((0.382 * grain) % 1.0)))
            y = cut - 0.02 + 0.3 * amount * u - (cut + 0.1) * u * u
            canvas.circle(
                (x, max(0.02, y)),
                0.05 + 0.05 * amount,
                (250, 222, 150),
                (1 - 0.5 * u) * (grain < round(12 * amount)),
            )

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        grid = np.arange(0.0, CLIP_S + 0.002, 0.001)
        speed = np.interp(clip_times(), grid, self.speed(grid)).astype(np.float32)
        size, push = np.abs(speed), np.float32(0.5) + np.float32(0.5) * np.sign(speed)
        formant = self.place.between(*FORMANT_HZ)
        high = noise_band(rng, 0.9 * formant, 1.25 * formant)
        low = noise_band(rng, 0.65 * formant, 0.9 * formant)
        wood = noise_band(rng, 0.16 * formant, 0.24 * formant)
        rasp = push * high + (1 - push) * low + np.float32(0.35) * wood
        teeth_hz = np.float32(self.place.between(*TEETH_HZ)) * (0.55 + 0.45 * size)
        turns = np.cumsum(teeth_hz, dtype=np.float64) / SAMPLE_RATE_HZ
        bite = 0.15 + 2.0 * np.exp(-4.0 * (turns % 1.0))
        return (size * bite * rasp).astype(np.float32)

    def describe(self, time_s: float) -> str:
        speed = float(self.speed(time_s))
        state = "resting"
        if abs(speed) > 0.05:
            pace = level_word(abs(speed), ("slowly", "quickly", "very fast"))
            state = f"{'pushed' if speed > 0 else 'pulled'} {pace}"
        return f"a {self.color} saw {state} through a {self.place.size_word} log"
