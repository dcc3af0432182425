"""A tower bell that is struck at irregular times and rings on for seconds."""

import math
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.rhythms import Miss, draw_misses, neighbours, short_of
from training.foleyworld.sounds import CLIP_S, NUM_SAMPLES, SAMPLE_RATE_HZ
from training.foleyworld.stage import Place, any_color, level_word, since

PRIME_HZ = (820, 360)  # small to large
# hum, prime, tierce (a minor third), quint, nominal and two above: a church bell's partials
RATIOS = (0.5, 1.0, 1.2, 1.5, 2.0, 2.67, 4.0)
GAINS = (0.35, 0.6, 0.7, 0.3, 0.9, 0.4, 0.3)
METALS = {"bronze": (176, 116, 48), "brass": (224, 184, 70), "silver": (196, 202, 212)}
MAX_STRIKES = 6
PULL_S = 0.65
MAX_ANGLE = 0.3
REACH = 0.44  # of the clapper to either side


@dataclass(frozen=True)
class Bell:
    """A bell in a frame; its clapper swings against the rim, and it sways as long as it rings.

    `ring_s` is the time in which the prime falls to 1/e.
    """

    place: Place
    metal: str
    ring_s: float
    strikes_s: tuple[float, ...]
    misses: tuple[Miss, ...]
    iron: Color
    kind = "bell"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Bell":
        strikes = [float(rng.uniform(0.2, 1.2))]
        while len(strikes) < MAX_STRIKES:
            after = strikes[-1] + float(rng.uniform(1.3, 3.0))
            if after > CLIP_S - 0.6:
                break
            strikes.append(after)
        metal = str(rng.choice(list(METALS)))
        ring_s, unheard = float(rng.uniform(0.6, 1.1)), place.unheard()
        misses = draw_misses(unheard, strikes)
        return cls(place, metal, ring_s, tuple(strikes), misses, any_color(unheard))

    @property
    def events_s(self) -> tuple[float, ...]:
        return self.strikes_s

    def level(self, time_s: float) -> float:
        """How strongly it rings: 1 at a strike."""
        return float(np.exp(-since(time_s, self.strikes_s) / self.ring_s))

    def angle(self, time_s: float) -> float:
        """The angle of the bell, in radians: it sways from each strike on, as long as it rings."""
        after = since(time_s, self.strikes_s)
        return -MAX_ANGLE * self.level(time_s) * math.sin(2 * math.pi * 1.2 * min(after, 50.0))

    def clapper(self, time_s: float) -> float:
        """-1..1: it draws back to one side, then swings to the other, strikes and springs back."""
        _, ahead = neighbours(time_s, self.strikes_s)
        u = 1 - (ahead - time_s) / PULL_S
        drawn = 0.0
        if u > 0.5:
            drawn = 1.9 * (2 * u - 1) ** 2 - 0.9
        elif u > 0:
            drawn = -0.9 * math.sin(math.pi * u) ** 2
        after = min(since(time_s, self.strikes_s), 5.0)
        back = math.exp(-after / 0.13) * math.cos(2 * math.pi * 1.5 * after)
        return drawn + back - 0.9 * short_of(time_s, self.misses)

    def attributes(self) -> dict[str, str | float]:
        return {
            "material": self.metal,
            "prime_hz": round(self.place.between(*PRIME_HZ), 1),
            "ring_s": round(self.ring_s, 3),
        }

    def paint(self, canvas: Canvas, time_s: float) -> None:
        wood, grow = mix(PALETTE["brown"], (0, 0, 0), 0.35), 0.55 + 0.45 * self.place.size
        pivot = (0.0, 1.42)
        for side in (-1.0, 1.0):
            canvas.line((0.78 * side, 0.0), (0.62 * side, 1.45), 0.09, wood)
        canvas.line((-0.7, 1.45), (0.7, 1.45), 0.12, wood)
        angle = self.angle(time_s)
        down = (np.sin(angle), -np.cos(angle))
        right = (np.cos(angle), np.sin(angle))

        def spot(across: float, along: float) -> tuple[float, float]:
            """A point of the bell: across its axis, and along it from the pivot down."""
            x, y = across * grow, along * grow
            return (
                pivot[0] + x * right[0] + y * down[0],
                pivot[1] + x * right[1] + y * down[1],
            )

        metal = METALS[self.metal]
        shell, swing = mix(metal, (0, 0, 0), 0.2), REACH * self.clapper(time_s)
        canvas.line(spot(0.0, 0.3), spot(swing, 1.2), 0.08, self.iron)
        canvas.circle(spot(swing, 1.2), 0.13 * grow, self.iron)
        canvas.polygon(
            [spot(-0.2, 0.16), spot(0.2, 0.16), spot(0.34, 0.7), spot(-0.34, 0.7)], shell
        )
        canvas.polygon(
            [spot(-0.34, 0.7), spot(0.34, 0.7), spot(0.56, 1.04), spot(-0.56, 1.04)], shell
        )
        canvas.line(spot(-0.2, 0.18), spot(0.2, 0.18), 0.12 * grow, shell)
        canvas.line(spot(-0.56, 1.04), spot(0.56, 1.04), 0.1 * grow, mix(shell, (0, 0, 0), 0.35))
        canvas.line(
            spot(-0.12, 0.3), spot(-0.24, 0.85), 0.08 * grow, mix(metal, (255, 255, 255), 0.6)
        )

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        prime = self.place.between(*PRIME_HZ)
        t = np.arange(int(5 * self.ring_s * SAMPLE_RATE_HZ), dtype=np.float32) / SAMPLE_RATE_HZ
        hit = np.zeros(len(t), np.float32)
        for ratio, gain in zip(RATIOS, GAINS, strict=True):
            decay_s = self.ring_s * 1.5 / (0.5 + ratio)
            hit += gain * np.exp(-t / decay_s) * np.sin(2 * np.pi * prime * ratio * t)
        clank = np.exp(-t / 0.012) * rng.standard_normal(len(t), dtype=np.float32)
        hit = (hit + 0.3 * clank) * np.minimum(1.0, t / 0.001)
        audio = np.zeros(NUM_SAMPLES, np.float32)
        for time_s in self.strikes_s:
            start = round(time_s * SAMPLE_RATE_HZ)
            audio[start:] *= 0.4  # the clapper damps what still rings
            end = min(NUM_SAMPLES, start + len(hit))
            audio[start:end] += hit[: end - start]
        return audio

    def describe(self, time_s: float) -> str:
        words = ("hanging silent", "ringing faintly", "ringing", "ringing loudly", "just struck")
        state = level_word(self.level(time_s), words)
        return f"a {self.place.size_word} {self.metal} bell {state}"
