"""A fist that knocks at a door of wood, metal or glass."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.rhythms import draw_rhythm, phase, raised
from training.foleyworld.sounds import SAMPLE_RATE_HZ, play_hits, strike
from training.foleyworld.stage import Place, flash

WORDS = ("striking the door", "pulled back", "waiting", "about to strike")
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
    """The fist comes in from the right; the door shakes and lights up, its latch rattles."""

    place: Place
    material: str
    color: str
    events_s: tuple[float, ...]
    kind = "knock"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Knock":
        material = str(rng.choice(list(PANELS)))
        color = str(rng.choice(["red", "blue", "green", "purple", "orange"]))
        return cls(place, material, color, draw_rhythm(rng, knocks))

    def level(self, time_s: float) -> float:
        """How far the fist is from the door."""
        return raised(time_s, self.events_s)

    def attributes(self) -> dict[str, str | float]:
        return {"material": self.material, "color": self.color}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        lit, panel = flash(time_s, self.events_s), PANELS[self.material].color
        half, top = 0.42 + 0.1 * self.place.size, 1.35 + 0.2 * self.place.size
        dark, white = mix(panel, (0, 0, 0), 0.5), (255, 255, 255)
        canvas.box((-half - 0.2, 0.0), (half - 0.02, top + 0.07), (46, 42, 44))
        shake = -0.1 + 0.05 * lit * float(np.sin(2 * np.pi * 11 * time_s))
        left, right = shake - half + 0.04, shake + half - 0.06
        canvas.box((left, 0.0), (right, top), mix(panel, white, 0.75 * lit))
        for low, high in ((0.12, 0.45 * top), (0.53 * top, top - 0.12)):
            inset = mix(mix(panel, dark, 0.5), white, 0.85 * lit)
            canvas.box((left + 0.1, low), (right - 0.1, high), inset)
        canvas.circle((left + 0.07, 0.49 * top), 0.06, (240, 200, 70))
        away, hit = self.level(time_s), (0.06, 0.8)
        fist = (hit[0] + 0.58 * away, hit[1] + 0.12 * away)
        canvas.glow(hit, 0.78, (255, 255, 255), 0.9 * lit)
        canvas.line((0.7, 0.22), (fist[0] + 0.06, fist[1] - 0.1), 0.17, PALETTE[self.color])
        canvas.circle(fist, 0.17, (120, 74, 50))
        canvas.circle(fist, 0.14, (228, 170, 128))

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
