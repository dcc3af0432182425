"""Tools that strike: a drum stick, a hammer on an anvil."""

from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.rhythms import (
    Miss,
    draw_misses,
    draw_rhythm,
    irregular,
    phase,
    raised,
)
from training.foleyworld.sounds import play_hits, strike
from training.foleyworld.stage import Place, any_color, jolt

WORDS = ("rising", "raised", "about to strike")
DRUM_HZ = (280, 115)  # small to large
ANVIL_HZ = (1300, 800)


@dataclass(frozen=True)
class Drum:
    """A stick on a drum: a low membrane, which dips under each blow."""

    place: Place
    color: str
    events_s: tuple[float, ...]
    misses: tuple[Miss, ...]
    stick: Color
    skin: Color
    kind = "drum"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Drum":
        color = str(rng.choice(["red", "blue", "green", "purple", "orange"]))
        events, unheard = draw_rhythm(rng, irregular), place.unheard()
        misses = draw_misses(unheard, events)
        return cls(place, color, events, misses, any_color(unheard), any_color(unheard))

    def level(self, time_s: float) -> float:
        return raised(time_s, self.events_s, self.misses)

    def attributes(self) -> dict[str, str | float]:
        pitch_hz = round(self.place.between(*DRUM_HZ), 1)
        return {"color": self.color, "material": "skin", "pitch_hz": pitch_hz}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        half, top = 0.28 + 0.28 * self.place.size, 0.32 + 0.3 * self.place.size
        top -= 0.05 * jolt(time_s, self.events_s)
        shell, white = PALETTE[self.color], PALETTE["white"]
        canvas.ellipse((0, 0), (half, 0.1), mix(shell, (0, 0, 0), 0.5))
        canvas.box((-half, 0), (half, top), shell)
        for x in (-0.6, 0.0, 0.6):
            canvas.line((x * half, 0), (x * half + 0.1, top), 0.035, white, 0.8)
        canvas.ellipse((0, top), (half + 0.03, 0.13), mix(shell, (0, 0, 0), 0.55))
        canvas.ellipse((0, top), (half - 0.03, 0.1), self.skin)
        angle = 0.16 + 1.0 * self.level(time_s)
        grip = (0.74, top + 0.14)
        tip = (grip[0] - 0.78 * np.cos(angle), top + 0.07 + 0.8 * np.sin(angle) - 0.127)
        canvas.line(grip, tip, 0.09, self.stick)
        canvas.circle(tip, 0.12, mix(self.stick, (0, 0, 0), 0.4))

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        root = self.place.between(*DRUM_HZ)
        ratios = (1.0, 1.59, 2.14, 2.65, 3.5)
        decays = (0.14, 0.1, 0.08, 0.06, 0.04)
        gains = (1.0, 0.6, 0.45, 0.3, 0.2)
        modes = [root * ratio for ratio in ratios]
        hit = strike(modes, gains, decays, rng, (0.25, 0.015))
        return play_hits(hit, self.events_s, rng.uniform(0.75, 1.0, len(self.events_s)).tolist())

    def describe(self, time_s: float) -> str:
        words = ("striking the drum", *WORDS)
        state = words[phase(time_s, self.events_s)]
        return f"a drum stick {state}, a {self.place.size_word} {self.color} drum"


@dataclass(frozen=True)
class Hammer:
    """A smith's hammer on an anvil, which springs it back."""

    place: Place
    color: str
    events_s: tuple[float, ...]
    misses: tuple[Miss, ...]
    shaft: Color
    iron: Color
    kind = "hammer"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Hammer":
        color = str(rng.choice(["red", "blue", "yellow", "green"]))
        events, unheard = draw_rhythm(rng, irregular), place.unheard()
        misses, grey = draw_misses(unheard, events), float(unheard.uniform(25, 150))
        return cls(place, color, events, misses, any_color(unheard), (grey, grey, grey + 8))

    def level(self, time_s: float) -> float:
        return raised(time_s, self.events_s, self.misses)

    def attributes(self) -> dict[str, str | float]:
        pitch_hz = round(self.place.between(*ANVIL_HZ), 1)
        return {"color": self.color, "material": "iron", "pitch_hz": pitch_hz}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        grow, iron = 0.6 + 0.6 * self.place.size, self.iron
        top = 0.42 * grow - 0.03 * jolt(time_s, self.events_s)
        canvas.box((-0.3 * grow, 0), (0.3 * grow, 0.1), iron)
        canvas.box((-0.14 * grow, 0.1), (0.14 * grow, top - 0.14), iron)
        canvas.box((-0.36 * grow, top - 0.16), (0.36 * grow, top), iron)
        canvas.polygon([(-0.36 * grow, top), (-0.36 * grow, top - 0.14), (-0.66 * grow, top)], iron)
        canvas.line((-0.36 * grow, top - 0.02), (0.36 * grow, top - 0.02), 0.03, (150, 152, 160))
        angle = 1.2 * self.level(time_s)
        grip, reach = (0.78, top + 0.16 * grow), 0.78
        head = (grip[0] - reach * np.cos(angle), grip[1] + reach * np.sin(angle))
        canvas.line(grip, head, 0.08, self.shaft)
        down, up = 0.06 * grow, 0.12 * grow
        a = (head[0] - down * np.sin(angle), head[1] - down * np.cos(angle))
        b = (head[0] + up * np.sin(angle), head[1] + up * np.cos(angle))
        canvas.line(a, b, 0.2 * grow, PALETTE[self.color])

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        root = self.place.between(*ANVIL_HZ)
        ratios = (0.37, 1.0, 1.13, 1.71, 1.83, 2.36, 2.9, 3.12, 3.77)
        gains = (0.35, 0.7, 0.4, 0.55, 0.35, 0.5, 0.45, 0.3, 0.3)
        decays = (0.05, 0.16, 0.13, 0.11, 0.13, 0.1, 0.08, 0.09, 0.07)
        modes = [root * ratio for ratio in ratios]
        hit = strike(modes, gains, decays, rng, (0.9, 0.02))
        return play_hits(hit, self.events_s, [1.0] * len(self.events_s))

    def describe(self, time_s: float) -> str:
        words = ("striking the anvil", *WORDS)
        state = words[phase(time_s, self.events_s)]
        return f"a {self.color} hammer {state}, a {self.place.size_word} anvil"
