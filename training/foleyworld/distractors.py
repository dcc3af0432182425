"""Things that move silently in the background, at their own pace: clouds, a balloon, a car."""

import math
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.sounds import CLIP_S
from training.foleyworld.stage import Curve, any_color

LEVER_SHARE = 0.35
FORMS = ("cloud", "cloud", "balloon", "car")


@dataclass(frozen=True)
class Distractor:
    """A silent thing on a slow path in world coordinates."""

    form: str
    x: Curve
    y: Curve
    size: float
    color: Color
    foot: float = 0.0

    @classmethod
    def draw(cls, rng: np.random.Generator, horizon: float) -> "Distractor":
        form = str(rng.choice(FORMS))
        size = float(rng.uniform(0.12, 0.24))
        start, end = (1.7, -1.7) if rng.random() < 0.5 else (-1.7, 1.7)
        if form == "car":
            ground = horizon - float(rng.uniform(0.0, 0.15))
            r, g, b = rng.uniform(40, 220, 3).tolist()
            return cls(form, _journey(rng, start, end), _still(ground), size, (r, g, b))
        height = horizon + float(rng.uniform(0.4, 1.0))
        y = Curve.wander(rng, height - 0.12, height + 0.12, (2.0, 4.0))
        if form == "balloon":
            color = PALETTE[str(rng.choice(["red", "yellow", "purple", "green"]))]
            x = float(rng.uniform(0.25, 1.1)) * (1 if start > 0 else -1)
            return cls(form, Curve.wander(rng, x - 0.3, x + 0.3, (2.0, 4.0)), y, size, color)
        grey = float(rng.uniform(200, 250))
        far = float(rng.uniform(0.2, 0.6))
        x = float(rng.uniform(-0.9, 0.9))
        return cls(form, _journey(rng, x - far, x + far), _still(height), size, (grey, grey, grey))

    @classmethod
    def lever(cls, rng: np.random.Generator, horizon: float) -> "Distractor":
        """A post with an arm that swings as a tool does, stops and turns back, silently.

        `y` is the arm's angle; it stands beside the action.
        """
        side = float(rng.choice([-1.0, 1.0])) * float(rng.uniform(0.7, 0.95))
        times, angles = [0.0], [float(rng.uniform(-0.6, 1.2))]
        while times[-1] < CLIP_S:
            pause = times[-1] + float(rng.uniform(0.05, 1.5))
            times += [pause, pause + float(rng.uniform(0.12, 0.5))]
            angles += [angles[-1], float(rng.uniform(-0.6, 1.2))]
        angle = Curve(tuple(times), tuple(angles))
        size, still = float(rng.uniform(0.3, 0.5)), _still(side)
        return cls("lever", still, angle, size, any_color(rng), horizon - float(rng.random()) * 0.2)

    def paint(self, canvas: Canvas, time_s: float) -> None:
        if self.form == "lever":
            post = canvas.at((float(self.x(time_s)), self.foot), self.size)
            angle = float(self.y(time_s))
            tip = (math.copysign(math.cos(angle), -self.x.values[0]), 1 + math.sin(angle))
            post.line((0, 0), (0, 1), 0.16, (70, 70, 76))
            post.line((0, 1), tip, 0.2, self.color)
            return
        at = canvas.at((float(self.x(time_s)), float(self.y(time_s))), self.size)
        if self.form == "cloud":
            for x, y, radius in ((-0.9, 0.0, 0.7), (0.0, 0.25, 0.95), (0.9, -0.05, 0.65)):
                at.ellipse((x, y), (radius, 0.7 * radius), self.color, 0.8)
        elif self.form == "balloon":
            at.line((0, -0.8), (0.15, -2.4), 0.12, (60, 60, 64))
            at.ellipse((0, 0), (0.75, 0.95), self.color)
            at.ellipse((-0.25, 0.35), (0.18, 0.25), mix(self.color, (255, 255, 255), 0.6))
        else:
            at.box((-0.7, 0.55), (0.55, 1.0), mix(self.color, (210, 230, 245), 0.5))
            at.box((-1.3, 0.15), (1.3, 0.6), self.color)
            for x in (-0.75, 0.75):
                at.circle((x, 0.15), 0.3, (24, 24, 28))


def draw_distractors(
    rng: np.random.Generator, horizon: float, unheard: np.random.Generator
) -> tuple[Distractor, ...]:
    """None in two clips of five, else one or two; and in LEVER_SHARE of the clips a lever."""
    count = int(rng.choice([0, 0, 1, 1, 2]))
    drawn = [Distractor.draw(rng, horizon) for _ in range(count)]
    if unheard.random() < LEVER_SHARE:
        drawn.append(Distractor.lever(unheard, horizon))
    return tuple(drawn)


def _journey(rng: np.random.Generator, start: float, end: float) -> Curve:
    """From one place to another in uneven steps, with halts."""
    times = [0.0, *np.sort(rng.uniform(1.0, 9.0, 4)).tolist(), 10.0]
    ways = [0.0, *np.sort(rng.uniform(0.0, 1.0, 4)).tolist(), 1.0]
    ways[3] = ways[2]
    return Curve(tuple(times), tuple(start + (end - start) * way for way in ways))


def _still(value: float) -> Curve:
    return Curve((0.0, 10.0), (value, value))
