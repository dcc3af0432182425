"""A pendulum clock that ticks, stops, and ticks on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, mix
from training.foleyworld.rhythms import draw_rhythm, neighbours
from training.foleyworld.sounds import SAMPLE_RATE_HZ, play_hits, strike
from training.foleyworld.stage import Place, flash, paint_burst, striking

SWING_S = 0.35
HAND_STEPS = 12


def ticks(rng: np.random.Generator) -> Iterator[float]:
    """A steady interval, broken after every few ticks by a stop."""
    interval_s = float(rng.uniform(0.9, 2.0))
    while True:
        for _ in range(int(rng.integers(1, 4))):
            yield interval_s
        yield interval_s + float(rng.uniform(0.8, 1.8))


@dataclass(frozen=True)
class Clock:
    """At each tick the hand jumps, the face lights up, the pendulum reaches its other side."""

    place: Place
    color: str
    start: int
    events_s: tuple[float, ...]
    kind = "clock"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Clock":
        color = str(rng.choice(["red", "blue", "green", "purple", "brown"]))
        return cls(place, color, int(rng.integers(HAND_STEPS)), draw_rhythm(rng, ticks))

    def level(self, time_s: float) -> float:
        """How far the pendulum is on its way to the other side; 0 while it rests."""
        return max(0.0, 1.0 - (neighbours(time_s, self.events_s)[1] - time_s) / SWING_S)

    def count(self, time_s: float) -> int:
        return int(np.searchsorted(self.events_s, time_s + 1e-6, side="right"))

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color, "material": "brass"}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        clock = canvas.at((0, 0), clock_scale(self.place))
        case, dark = PALETTE[self.color], mix(PALETTE[self.color], (0, 0, 0), 0.55)
        lit, count = flash(time_s, self.events_s), self.count(time_s)
        clock.box((-0.46, 0.0), (0.46, 0.85), case)
        clock.box((-0.38, 0.08), (0.38, 0.75), (30, 28, 34))
        side = (-1) ** (count % 2) * (1 - 2 * self.level(time_s) ** 2)
        bob = (0.42 * float(np.sin(0.62 * side)), 0.78 - 0.5 * float(np.cos(0.62 * side)))
        clock.line((0, 0.78), bob, 0.05, (220, 190, 90))
        clock.circle(bob, 0.11, (245, 205, 60))
        face = (0.0, 1.05)
        clock.circle(face, 0.52, dark)
        clock.circle(face, 0.45, (176, 170, 158))
        for i in range(4):
            spoke = 0.5 * np.pi * i
            x, y = float(np.sin(spoke)), float(np.cos(spoke))
            clock.circle((0.37 * x, face[1] + 0.37 * y), 0.05, (60, 56, 60))
        paint_burst(canvas, (0, clock_scale(self.place) * face[1]), (255, 225, 70), lit)
        clock.circle(face, 0.45, (255, 250, 190), 0.9 * lit)
        angle = 2 * np.pi * (self.start + count) / HAND_STEPS
        tip = (0.4 * float(np.sin(angle)), face[1] + 0.4 * float(np.cos(angle)))
        clock.line(face, tip, 0.1, (20, 18, 24))
        clock.circle(face, 0.09, (190, 30, 30))

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        root = self.place.between(3100, 1500)
        modes = (0.29 * root, root, 1.53 * root, 1.97 * root)
        tick = strike(modes, (0.35, 1, 0.8, 0.5), (0.012, 0.005, 0.005, 0.004), rng, (0.05, 0.002))
        both = np.zeros(len(tick) + SAMPLE_RATE_HZ // 20, np.float32)
        both[: len(tick)] += tick
        catch = round(0.045 * SAMPLE_RATE_HZ)  # the pallet drops onto the next tooth
        both[catch : catch + len(tick)] += np.float32(0.55) * tick
        return play_hits(both, self.events_s, [1.0] * len(self.events_s))

    def describe(self, time_s: float) -> str:
        state = "stopped between ticks"
        if striking(time_s, self.events_s):
            state = "striking a tick"
        elif self.level(time_s) > 0:
            half = self.level(time_s) > 0.7
            state = "pendulum about to tick" if half else "pendulum setting off"
        return f"a {self.place.size_word} {self.color} clock, {state}"


def clock_scale(place: Place) -> float:
    return 0.82 + 0.22 * place.size
