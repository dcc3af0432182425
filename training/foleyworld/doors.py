"""A fist that knocks at a door of wood, metal or glass."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.rhythms import Miss, draw_misses, draw_rhythm, phase, raised
from training.foleyworld.sounds import SAMPLE_RATE_HZ, play_hits, strike
from training.foleyworld.stage import Place, any_color, since

WORDS = ("striking the door", "pulled back", "waiting", "about to strike")
EDGE = -0.02  # of the door, where the fist meets it
RATTLE_S = (0.03, 0.047, 0.07, 0.1)


@dataclass(frozen=True)
class Panel:
    """`hz` is the lowest mode of a small and of a large door."""

    color: Color
    hz: tuple[float, float]
    ratios: tuple[float, ...]
    decay_s: float
    noise: tuple[float, float]


PANELS = {
    "wood": Panel((136, 82, 40), (170, 90), (1, 1.47, 2.09, 2.56, 3.39, 4.1), 0.03, (0.5, 0.012)),
    "metal": Panel((104, 116, 132), (240, 130), (1, 1.36, 1.83, 2.7, 3.3, 4.9), 0.16, (0.35, 0.01)),
    "glass": Panel((128, 196, 206), (520, 300), (1, 1.32, 1.71, 2.2, 3.1), 0.05, (0.25, 0.006)),
}


def knocks(rng: np.random.Generator) -> Iterator[float]:
    """Groups of one to three, with long pauses."""
    while True:
        step_s = float(rng.uniform(0.3, 0.48))
        for _ in range(int(rng.integers(0, 3))):
            yield step_s * float(rng.uniform(0.9, 1.1))
        yield float(rng.uniform(1.2, 2.6))


@dataclass(frozen=True)
class Knock:
    """The fist comes in from the right; the door quivers, its latch rattles."""

    place: Place
    material: str
    color: str
    events_s: tuple[float, ...]
    misses: tuple[Miss, ...]
    glove: Color
    kind = "knock"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Knock":
        material = str(rng.choice(list(PANELS)))
        color = str(rng.choice(["red", "blue", "green", "purple", "orange"]))
        events, unheard = draw_rhythm(rng, knocks), place.unheard()
        misses = draw_misses(unheard, events)
        return cls(place, material, color, events, misses, any_color(unheard))

    def level(self, time_s: float) -> float:
        """How far the fist is from the door."""
        return raised(time_s, self.events_s, self.misses)

    def attributes(self) -> dict[str, str | float]:
        pitch_hz = round(self.place.between(*PANELS[self.material].hz), 1)
        return {"material": self.material, "color": self.color, "pitch_hz": pitch_hz}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        """The door shows its edge to the fist, which comes in from the right."""
        panel, size = PANELS[self.material].color, self.place.size
        wide, top = 0.42 + 0.4 * size, 1.0 + 0.5 * size
        after = since(time_s, self.events_s)
        quiver = math.exp(-min(after / 0.12, 50.0)) * math.sin(2 * math.pi * 6 * after)
        right, dark = EDGE - 0.06 * quiver, mix(panel, (0, 0, 0), 0.45)
        left = right - wide
        canvas.box((EDGE - wide - 0.1, 0.0), (EDGE - wide + 0.08, top + 0.07), (46, 42, 44))
        canvas.box((left, 0.0), (right, top), panel)
        for low, high in ((0.1, 0.42 * top), (0.52 * top, top - 0.12)):
            canvas.box((left + 0.1, low), (right - 0.1, high), dark)
        if self.material == "glass":
            canvas.line((left + 0.2, 0.6 * top), (right - 0.2, 0.8 * top), 0.05, (240, 250, 250))
        canvas.circle((right - 0.08, 0.47 * top), 0.06, (200, 170, 60))
        away = self.level(time_s)
        fist = (EDGE + 0.15 + 0.6 * away, 0.7 + 0.15 * away)
        canvas.line((fist[0] + 0.04, fist[1] - 0.5), fist, 0.17, PALETTE[self.color])
        canvas.circle(fist, 0.15, self.glove)

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        panel = PANELS[self.material]
        root = self.place.between(*panel.hz)
        modes = [root * ratio for ratio in panel.ratios]
        gains = [1.0 / (1 + 0.25 * i) for i in range(len(modes))]
        decays = [panel.decay_s / ratio**0.5 for ratio in panel.ratios]
        hit = strike(modes, gains, decays, rng, panel.noise)
        hit = np.pad(hit, (0, max(0, SAMPLE_RATE_HZ // 5 - len(hit)))).astype(np.float32)
        latch_hz = self.place.between(3000, 1900)
        latch = strike([latch_hz, 1.37 * latch_hz], (1, 0.7), (0.006, 0.005), rng)
        for i, start_s in enumerate(RATTLE_S):
            at = round(start_s * SAMPLE_RATE_HZ)
            hit[at : at + len(latch)] += np.float32(0.22 * 0.75**i) * latch[: len(hit) - at]
        return play_hits(hit, self.events_s, rng.uniform(0.8, 1.0, len(self.events_s)).tolist())

    def describe(self, time_s: float) -> str:
        door = f"a {self.place.size_word} {self.material} door"
        return f"a knock at {door}, {self.color} arm, fist {WORDS[phase(time_s, self.events_s)]}"
