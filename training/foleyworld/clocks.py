"""A pendulum clock that ticks, stops, and ticks on."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.rhythms import Miss, draw_misses, draw_rhythm, neighbours, short_of
from training.foleyworld.sounds import SAMPLE_RATE_HZ, play_hits, strike
from training.foleyworld.stage import Place, any_color, since, striking

SWING_S = 0.35
SWING, LENGTH, PIVOT, BOB = 0.55, 0.76, 1.0, 0.16  # of the pendulum, in radians and units
SPRING, SPRING_S = 0.5, 0.06  # back from the post
HAND_STEPS = 12
ROOT_HZ = (3100, 1500)  # small to large


def ticks(rng: np.random.Generator) -> Iterator[float]:
    """A steady interval, broken after every few ticks by a stop."""
    interval_s = float(rng.uniform(0.9, 2.0))
    while True:
        for _ in range(int(rng.integers(1, 4))):
            yield interval_s
        yield interval_s + float(rng.uniform(0.8, 1.8))


@dataclass(frozen=True)
class Clock:
    """At each tick the pendulum strikes the post at its other side and springs back."""

    place: Place
    color: str
    start: int
    events_s: tuple[float, ...]
    misses: tuple[Miss, ...]
    brass: Color
    inside: Color
    kind = "clock"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Clock":
        color = str(rng.choice(["red", "blue", "green", "purple", "brown"]))
        start, events = int(rng.integers(HAND_STEPS)), draw_rhythm(rng, ticks)
        unheard = place.unheard()
        misses, inside = draw_misses(unheard, events), float(unheard.choice([30, 220]))
        brass = mix(any_color(unheard), (250 - inside,) * 3, 0.4)
        return cls(place, color, start, events, misses, brass, (inside, inside, inside))

    def level(self, time_s: float) -> float:
        """How far the pendulum is on its way to the other side; 0 while it rests."""
        return max(0.0, 1.0 - (neighbours(time_s, self.events_s)[1] - time_s) / SWING_S)

    def count(self, time_s: float) -> int:
        return bisect_right(self.events_s, time_s + 1e-6)

    def attributes(self) -> dict[str, str | float]:
        pitch_hz = round(self.place.between(*ROOT_HZ), 1)
        return {"color": self.color, "material": "brass", "pitch_hz": pitch_hz}

    def side(self, time_s: float) -> float:
        """The position of the pendulum: +-1 at the posts; it springs back from the one it has
        struck."""
        way = -1.0 if self.count(time_s) % 2 else 1.0
        rest = SPRING * (1 - math.exp(-min(since(time_s, self.events_s) / SPRING_S, 50.0))) - 1
        tried = 1.6 * short_of(time_s, self.misses)
        return way * (rest + (1 - rest) * self.level(time_s) ** 2 + tried)

    def paint(self, canvas: Canvas, time_s: float) -> None:
        clock = canvas.at((0, 0), clock_scale(self.place))
        case = PALETTE[self.color]
        clock.box((-0.7, 0.0), (0.7, 1.02), case)
        clock.box((-0.64, 0.05), (0.64, 0.97), self.inside)
        angle = SWING * self.side(time_s)
        bob = (LENGTH * math.sin(angle), PIVOT - LENGTH * math.cos(angle))
        post, high = LENGTH * math.sin(SWING) + BOB, PIVOT - LENGTH * math.cos(SWING)
        for side in (-1.0, 1.0):
            x = side * (post + 0.05)
            clock.box((x - 0.05, high - 0.16), (x + 0.05, high + 0.16), case)
        clock.line((0, PIVOT), bob, 0.08, self.brass)
        clock.circle(bob, BOB, self.brass)
        face = (0.0, 1.28)
        clock.circle(face, 0.34, mix(case, (0, 0, 0), 0.55))
        clock.circle(face, 0.28, (176, 170, 158))
        turned = self.start + self.count(time_s) + self.level(time_s)
        angle = 2 * math.pi * turned / HAND_STEPS
        tip = (0.24 * math.sin(angle), face[1] + 0.24 * math.cos(angle))
        clock.line(face, tip, 0.07, (20, 18, 24))

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        root = self.place.between(*ROOT_HZ)
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
    return 0.6 + 0.42 * place.size
