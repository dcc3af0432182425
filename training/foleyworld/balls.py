"""A bouncing ball of wood, metal, glass or rubber."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.rhythms import MISS_S, MISS_SHARE, Miss, short_of, sparse
from training.foleyworld.sounds import CLIP_S, LAST_HIT_S, play_hits, strike
from training.foleyworld.stage import Place, any_color, jolt, level_word, striking

GRAVITY = 9.6
TOP_HEIGHT = 1.1
SHORTEST_GAP_S = 0.25


@dataclass(frozen=True)
class Material:
    """`hz` spans large to small balls; `bounce` is the speed kept at each contact."""

    bounce: float
    hz: tuple[float, float]
    ratios: tuple[float, ...]
    gains: tuple[float, ...]
    decay_s: float
    noise: tuple[float, float]
    colors: tuple[str, ...]


MATERIALS = {
    "wood": Material(
        0.62, (380, 950), (1, 2.57, 4.3), (1, 0.5, 0.3), 0.045, (0.25, 0.012), ("brown", "orange")
    ),
    "metal": Material(
        0.72, (560, 1300), (1, 2.76, 4.1), (1, 0.7, 0.35), 0.2, (0.08, 0.006), ("grey",)
    ),
    "glass": Material(
        0.66, (1700, 3300), (1, 1.52), (1, 0.6), 0.13, (0.05, 0.005), ("blue", "green", "purple")
    ),
    "rubber": Material(
        0.8,
        (150, 400),
        (1, 1.9, 3.1),
        (1, 0.4, 0.2),
        0.075,
        (0.12, 0.01),
        ("red", "yellow", "black"),
    ),
}
HEIGHT_WORDS = (
    "just above the ground",
    "low above the ground",
    "halfway up",
    "high above the ground",
)


class Arc(NamedTuple):
    """A piece of flight: height + speed*t - gravity*t^2/2, t from `start_s`."""

    start_s: float
    height: float
    speed: float = 0.0
    gravity: float = 0.0


class Contact(NamedTuple):
    time_s: float
    gain: float


@dataclass(frozen=True)
class Ball:
    """A ball on a string: dropped, caught after one to three contacts, lifted, dropped again."""

    place: Place
    material: str
    color: str
    arcs: tuple[Arc, ...]
    contacts: tuple[Contact, ...]
    misses: tuple[Miss, ...]
    ground: Color
    kind = "ball"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Ball":
        material = str(rng.choice(list(MATERIALS)))
        color = str(rng.choice(MATERIALS[material].colors))
        for _ in range(1000):
            arcs, contacts = draw_flight(rng, MATERIALS[material].bounce)
            if sparse([contact.time_s for contact in contacts]):
                unheard = place.unheard()
                misses, ground = draw_dips(unheard, arcs), any_color(unheard)
                return cls(place, material, color, tuple(arcs), tuple(contacts), misses, ground)
        raise AssertionError(f"no sparse flight of a {material} ball")

    @property
    def events_s(self) -> tuple[float, ...]:
        return tuple(contact.time_s for contact in self.contacts)

    @property
    def radius(self) -> float:
        return 0.13 + 0.14 * self.place.size

    def height(self, time_s: float) -> float:
        """The height of the ball's lowest point above the ground, at most TOP_HEIGHT."""
        arc = self.arc(time_s)
        t = time_s - arc.start_s
        height = max(0.0, arc.height + arc.speed * t - 0.5 * arc.gravity * t * t)
        return height * (1 - short_of(time_s, self.misses))

    def level(self, time_s: float) -> float:
        return self.height(time_s) / TOP_HEIGHT

    def arc(self, time_s: float) -> Arc:
        return self.arcs[max(0, bisect_right([a.start_s for a in self.arcs], time_s) - 1)]

    def carried(self, time_s: float) -> bool:
        arc = self.arc(time_s)
        return arc.gravity == 0.0 and (arc.height > 0.0 or arc.speed > 0.0)

    def attributes(self) -> dict[str, str | float]:
        pitch_hz = round(self.place.between(*MATERIALS[self.material].hz[::-1]), 1)
        return {"material": self.material, "color": self.color, "pitch_hz": pitch_hz}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        radius, height = self.radius, self.height(time_s)
        base, soft = PALETTE[self.color], 0.35 if self.material == "rubber" else 0.08
        flat = soft * jolt(time_s, self.events_s, 0.04)
        wide, tall = radius * (1 + 0.7 * flat), radius * (1 - flat)
        y = height + tall
        canvas.box((-0.75, -0.08), (0.75, 0.0), self.ground)
        canvas.line((0, y), (0, 3.0), 0.03, PALETTE["black"], float(self.carried(time_s)))
        canvas.ellipse((0, y), (wide, tall), mix(base, (0, 0, 0), 0.45))
        canvas.ellipse((0, y), (wide - 0.025, tall - 0.025), base)
        paint_surface(canvas, self.material, base, y, radius)

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        m = MATERIALS[self.material]
        root = self.place.between(m.hz[1], m.hz[0])
        modes = [root * ratio for ratio in m.ratios]
        decays = [m.decay_s / ratio**0.35 for ratio in m.ratios]
        hit = strike(modes, m.gains, decays, rng, m.noise)
        return play_hits(hit, self.events_s, [contact.gain for contact in self.contacts])

    def describe(self, time_s: float) -> str:
        height = self.height(time_s)
        state = level_word(height / TOP_HEIGHT, HEIGHT_WORDS)
        if striking(time_s, self.events_s):
            state = "striking the ground"
        color = "" if self.material == "metal" else f"{self.color} "
        return f"a {self.place.size_word} {color}{self.material} ball {state}"


def draw_flight(rng: np.random.Generator, bounce: float) -> tuple[list[Arc], list[Contact]]:
    """A clip of drops: wait on the string, fall, touch once to thrice, be caught at the top."""
    arcs: list[Arc] = []
    contacts: list[Contact] = []
    start, height = -float(rng.uniform(0.0, 0.8)), float(rng.uniform(0.5, TOP_HEIGHT))
    while start < CLIP_S:
        arcs.append(Arc(start, height))
        start += float(rng.uniform(0.8, 2.0))
        start, height = fall(start, height, bounce, int(rng.integers(1, 4)), arcs, contacts)
        target = float(rng.uniform(max(0.5, height), TOP_HEIGHT))
        lift_s = float(rng.uniform(0.3, 0.5))
        arcs.append(Arc(start, height, (target - height) / lift_s))
        start, height = start + lift_s, target
    return arcs, [contact for contact in contacts if 0.0 <= contact.time_s <= LAST_HIT_S]


def fall(
    start: float,
    height: float,
    bounce: float,
    touches: int,
    arcs: list[Arc],
    contacts: list[Contact],
) -> tuple[float, float]:
    """Append a fall and its bounces; the time and height at which the string catches it."""
    fall_s = float(np.sqrt(2 * height / GRAVITY))
    arcs.append(Arc(start, height, 0.0, GRAVITY))
    start, speed = start + fall_s, fall_s * GRAVITY
    top_speed = float(np.sqrt(2 * TOP_HEIGHT * GRAVITY))
    for touch in range(touches):
        contacts.append(Contact(start, (speed / top_speed) ** 0.8))
        speed *= bounce
        rise_s = speed / GRAVITY
        arcs.append(Arc(start, 0.0, speed, GRAVITY))
        last = touch == touches - 1 or 2 * rise_s < SHORTEST_GAP_S
        start += rise_s if last else 2 * rise_s
        if last:
            break
    return start, 0.5 * speed * rise_s


def draw_dips(rng: np.random.Generator, arcs: list[Arc]) -> tuple[Miss, ...]:
    """The string lets the waiting ball down a little and lifts it again, in half of the waits."""
    dips = []
    for wait, drop in pairwise(arcs):
        where, depth, drawn = float(rng.random()), float(rng.uniform(0.4, 0.7)), rng.random()
        room = drop.start_s - wait.start_s - 2 * MISS_S
        if drop.gravity and not wait.gravity and room > 0 and drawn < MISS_SHARE:
            dips.append(Miss(wait.start_s + MISS_S + room * where, depth))
    return tuple(dips)


def paint_surface(canvas: Canvas, material: str, base: Color, y: float, radius: float) -> None:
    """What tells the materials apart: grain, mirror, rim, or a matte seam."""
    white, dark = PALETTE["white"], mix(base, (0, 0, 0), 0.5)
    if material == "wood":
        for offset in (-0.45, 0.0, 0.45):
            reach = radius * np.sqrt(1 - offset**2) * 0.8
            height = y + offset * radius
            canvas.line((-reach, height), (reach, height), 0.16 * radius, dark, 0.8)
    elif material == "metal":
        canvas.ellipse((0, y - 0.4 * radius), (0.75 * radius, 0.4 * radius), dark, 0.9)
        canvas.ellipse((0, y + 0.35 * radius), (0.7 * radius, 0.35 * radius), white, 0.9)
    elif material == "glass":
        canvas.circle((0, y), 0.6 * radius, white, 0.65)
        canvas.circle((-0.35 * radius, y + 0.35 * radius), 0.25 * radius, (255, 255, 255))
    else:
        canvas.circle((-0.3 * radius, y + 0.35 * radius), 0.3 * radius, white, 0.25)
