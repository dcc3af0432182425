"""Things that hit: a bouncing ball, a drum and its stick, a hammer on an anvil."""

from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.sounds import CLIP_S, play_hits, strike
from training.foleyworld.stage import Place, level_word, since, swing

GRAVITY = 9.6
LAST_EVENT_S = 9.85


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
        0.72, (560, 1300), (1, 2.76, 4.1), (1, 0.7, 0.35), 0.26, (0.08, 0.006), ("grey",)
    ),
    "glass": Material(
        0.66, (1700, 3300), (1, 1.52), (1, 0.6), 0.13, (0.05, 0.005), ("blue", "green", "purple")
    ),
    "rubber": Material(
        0.8, (110, 300), (1, 1.9), (1, 0.35), 0.075, (0.06, 0.02), ("red", "yellow", "black")
    ),
}
HEIGHT_WORDS = (
    "just above the ground",
    "low above the ground",
    "halfway up",
    "high above the ground",
)


@dataclass(frozen=True)
class Ball:
    """A ball that bounces itself out, is lifted on a string and dropped again.

    `arcs` are (start_s, height, speed, gravity): height + speed*t - gravity*t^2/2 after start_s.
    """

    place: Place
    material: str
    color: str
    drop_height: float
    arcs: tuple[tuple[float, float, float, float], ...]
    events_s: tuple[float, ...]
    gains: tuple[float, ...]
    kind = "ball"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Ball":
        material = str(rng.choice(list(MATERIALS)))
        color = str(rng.choice(MATERIALS[material].colors))
        drop_height = float(rng.uniform(0.8, 1.2))
        arcs, events, gains = [], [], []
        start = -float(rng.uniform(0.0, 0.3))
        while start < CLIP_S:
            arcs.append((start, drop_height, 0.0, 0.0))
            start += float(rng.uniform(0.3, 0.6))
            start = bounce_out(start, drop_height, MATERIALS[material].bounce, arcs, events, gains)
            arcs.append((start, 0.0, 0.0, 0.0))
            start += float(rng.uniform(0.15, 0.35))
            lift_s = float(rng.uniform(0.5, 0.8))
            arcs.append((start, 0.0, drop_height / lift_s, 0.0))
            start += lift_s
        kept = sum(time_s <= LAST_EVENT_S for time_s in events)
        return cls(
            place, material, color, drop_height, tuple(arcs), tuple(events[:kept]),
            tuple(gains[:kept]),
        )  # fmt: skip

    @property
    def radius(self) -> float:
        return 0.15 + 0.15 * self.place.size

    def height(self, time_s: float) -> float:
        """Of the ball's lowest point above the ground; 1 is about the drop height."""
        i = max(0, int(np.searchsorted([a[0] for a in self.arcs], time_s, side="right")) - 1)
        start, height, speed, gravity = self.arcs[i]
        t = time_s - start
        return max(0.0, height + speed * t - 0.5 * gravity * t * t)

    def carried(self, time_s: float) -> bool:
        i = max(0, int(np.searchsorted([a[0] for a in self.arcs], time_s, side="right")) - 1)
        return self.arcs[i][3] == 0.0 and self.arcs[i][1:3] != (0.0, 0.0)

    def attributes(self) -> dict[str, str | float]:
        return {
            "material": self.material,
            "color": self.color,
            "drop_height": round(self.drop_height, 3),
        }

    def paint(self, canvas: Canvas, time_s: float) -> None:
        radius, height = self.radius, self.height(time_s)
        y, base = height + radius, PALETTE[self.color]
        shadow = 1.0 - 0.55 * min(1.0, height)
        canvas.line((-0.75, -0.025), (0.75, -0.025), 0.05, mix(PALETTE["black"], base, 0.15), 0.75)
        canvas.ellipse((0, -0.02), (radius * (1.5 - 0.6 * shadow), 0.05), (0, 0, 0), shadow)
        if self.carried(time_s):
            canvas.line((0, y), (0, 3.0), 0.03, PALETTE["black"])
        canvas.circle((0, y), radius, mix(base, (0, 0, 0), 0.45))
        canvas.circle((0, y), radius - 0.025, base)
        paint_surface(canvas, self.material, base, y, radius)

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        m = MATERIALS[self.material]
        root = self.place.between(m.hz[1], m.hz[0])
        modes = [root * ratio for ratio in m.ratios]
        decays = [m.decay_s / ratio**0.35 for ratio in m.ratios]
        return play_hits(strike(modes, m.gains, decays, rng, m.noise), self.events_s, self.gains)

    def describe(self, time_s: float) -> str:
        height = self.height(time_s)
        state = "touching the ground"
        if height > 0.04:
            state = level_word(height / 1.2, HEIGHT_WORDS)
        color = "" if self.material == "metal" else f"{self.color} "
        return f"a {self.place.size_word} {color}{self.material} ball {state}"


def bounce_out(
    start: float, drop_height: float, bounce: float, arcs: list, events: list, gains: list
) -> float:
    """Append a fall and its bounces; the time at which the ball rests."""
    fall_s = float(np.sqrt(2 * drop_height / GRAVITY))
    arcs.append((start, drop_height, 0.0, GRAVITY))
    start, speed = start + fall_s, fall_s * GRAVITY
    top_speed = float(np.sqrt(2 * 1.2 * GRAVITY))
    while True:
        events.append(start)
        gains.append((speed / top_speed) ** 0.8)
        speed *= bounce
        if 2 * speed / GRAVITY < 0.17:
            return start
        arcs.append((start, 0.0, speed, GRAVITY))
        start += 2 * speed / GRAVITY


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
        canvas.circle((0, y), 0.68 * radius, white, 0.65)
        canvas.circle((-0.35 * radius, y + 0.35 * radius), 0.25 * radius, (255, 255, 255))
    else:
        canvas.circle((-0.3 * radius, y + 0.35 * radius), 0.3 * radius, white, 0.25)


def draw_beats(rng: np.random.Generator, intervals_s: list[float]) -> tuple[float, ...]:
    """Beat times: the first within a second, then a cycle of intervals up to the clip's end.

    One beat before and one after the clip are included, so a tool's swing is defined throughout.
    """
    beats = [float(rng.uniform(0.15, 0.9))]
    for i in range(200):
        after = beats[-1] + intervals_s[i % len(intervals_s)]
        if after > LAST_EVENT_S:
            break
        beats.append(after)
    return (min(-0.05, beats[0] - 0.8), *beats, max(beats[-1] + 0.5, CLIP_S + 0.1))


@dataclass(frozen=True)
class Drum:
    """A stick on a drum: a low membrane, in a repeating rhythm with long and short steps."""

    place: Place
    color: str
    beats_s: tuple[float, ...]
    kind = "drum"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Drum":
        color = str(rng.choice(["red", "blue", "green", "purple", "orange"]))
        unit_s = float(rng.uniform(0.3, 0.5))
        steps = rng.choice([1, 1, 2, 2, 3], size=int(rng.integers(2, 6)))
        return cls(place, color, draw_beats(rng, [unit_s * int(step) for step in steps]))

    @property
    def events_s(self) -> tuple[float, ...]:
        return self.beats_s[1:-1]

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color, "material": "skin"}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        half, top = 0.34 + 0.2 * self.place.size, 0.4 + 0.2 * self.place.size
        shell, white = PALETTE[self.color], PALETTE["white"]
        canvas.ellipse((0, 0), (half, 0.1), mix(shell, (0, 0, 0), 0.5))
        canvas.box((-half, 0), (half, top), shell)
        for x in (-0.6, 0.0, 0.6):
            canvas.line((x * half, 0), (x * half + 0.1, top), 0.035, white, 0.8)
        canvas.ellipse((0, top), (half + 0.03, 0.13), mix(shell, (0, 0, 0), 0.55))
        canvas.ellipse((0, top), (half - 0.03, 0.1), mix((205, 195, 170), (0, 0, 0), 0.12))
        hit = float(np.exp(-since(time_s, self.beats_s) / 0.09))
        canvas.ellipse((0, top), (half - 0.03, 0.1), (255, 250, 225), hit)
        lift = swing(time_s, self.beats_s)
        angle = 0.16 + 0.95 * lift
        grip = (0.72, top + 0.14)
        tip = (grip[0] - 0.78 * np.cos(angle), top + 0.05 + 0.8 * np.sin(angle) - 0.127)
        canvas.line(grip, tip, 0.055, PALETTE["brown"])
        canvas.circle(tip, 0.075, mix(PALETTE["brown"], (0, 0, 0), 0.5))

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        root = self.place.between(240, 85)
        ratios = (1.0, 1.59, 2.14, 2.65, 3.5)
        decays = (0.14, 0.1, 0.08, 0.06, 0.04)
        gains = (1.0, 0.6, 0.45, 0.3, 0.2)
        modes = [root * ratio for ratio in ratios]
        hit = strike(modes, gains, decays, rng, (0.25, 0.015))
        return play_hits(hit, self.events_s, rng.uniform(0.75, 1.0, len(self.events_s)).tolist())

    def describe(self, time_s: float) -> str:
        lift = swing(time_s, self.beats_s)
        state = "hitting the drum"
        if lift > 0.06:
            words = ("just above the drum", "low above the drum", "raised", "raised high")
            state = level_word(lift, words)
        return f"a drum stick {state}, a {self.place.size_word} {self.color} drum"


@dataclass(frozen=True)
class Hammer:
    """A smith's hammer on an anvil at a steady tempo; sparks fly at each blow."""

    place: Place
    color: str
    beats_s: tuple[float, ...]
    kind = "hammer"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Hammer":
        color = str(rng.choice(["red", "blue", "yellow", "green"]))
        return cls(place, color, draw_beats(rng, [float(rng.uniform(0.65, 1.3))]))

    @property
    def events_s(self) -> tuple[float, ...]:
        return self.beats_s[1:-1]

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color, "material": "iron"}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        grow = 0.8 + 0.35 * self.place.size
        iron, top = (58, 60, 68), 0.42 * grow
        canvas.box((-0.3 * grow, 0), (0.3 * grow, 0.1), iron)
        canvas.box((-0.14 * grow, 0.1), (0.14 * grow, top - 0.14), iron)
        canvas.box((-0.36 * grow, top - 0.16), (0.36 * grow, top), iron)
        canvas.polygon([(-0.36 * grow, top), (-0.36 * grow, top - 0.14), (-0.66 * grow, top)], iron)
        canvas.line((-0.36 * grow, top - 0.02), (0.36 * grow, top - 0.02), 0.03, (150, 152, 160))
        hit = float(np.exp(-since(time_s, self.beats_s) / 0.1))
        canvas.glow((0, top), 0.55, (255, 190, 60), hit)
        angle = 1.15 * swing(time_s, self.beats_s)
        along, across = (np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))
        reach, grip = 0.78, (0.78, top + 0.1)
        head = (grip[0] - reach * along[0], grip[1] + reach * along[1])
        canvas.line(grip, head, 0.07, PALETTE["brown"])
        down = (across[0] * 0.02, -abs(across[1]) * 0.02)
        a = (head[0] - 0.11 * np.sin(angle), head[1] - 0.0 - 0.04 * np.cos(angle))
        b = (head[0] + 0.11 * np.sin(angle) + down[0], head[1] + 0.13 * np.cos(angle))
        canvas.line(a, b, 0.2 * grow, PALETTE[self.color])

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        root = self.place.between(1300, 800)
        ratios = (0.37, 1.0, 1.13, 1.71, 1.83, 2.36, 2.9, 3.12, 3.77)
        gains = (0.35, 0.6, 0.6, 0.55, 0.5, 0.5, 0.45, 0.4, 0.3)
        decays = (0.05, 0.16, 0.13, 0.11, 0.13, 0.1, 0.08, 0.09, 0.07)
        modes = [root * ratio for ratio in ratios]
        hit = strike(modes, gains, decays, rng, (0.9, 0.02))
        return play_hits(hit, self.events_s, [1.0] * len(self.events_s))

    def describe(self, time_s: float) -> str:
        lift = swing(time_s, self.beats_s)
        state = "striking the anvil"
        if lift > 0.06:
            words = ("just above the anvil", "low above the anvil", "raised", "raised high")
            state = level_word(lift, words)
        return f"a {self.color} hammer {state}, a {self.place.size_word} anvil"
