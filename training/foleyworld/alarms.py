"""An alarm box whose lamp is lit exactly while it beeps."""

from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, mix
from training.foleyworld.sounds import CLIP_S, clip_times, tone
from training.foleyworld.stage import Place

BEEP_HZ = (2300, 1300)  # small to large
PARTIALS = [1.0, 0.0, 0.4]  # a square wave as far as 8 kHz goes
RAMP_S = 0.003


@dataclass(frozen=True)
class Alarm:
    """Groups of two to four beeps of one steady pitch, with pauses between the groups.

    `groups` holds the start times of each group's beeps.
    """

    place: Place
    color: str
    beep_s: float
    groups: tuple[tuple[float, ...], ...]
    kind = "alarm"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Alarm":
        color = str(rng.choice(["yellow", "white", "green", "grey"]))
        beep_s, gap_s = float(rng.uniform(0.14, 0.26)), float(rng.uniform(0.13, 0.22))
        groups, start = [], float(rng.uniform(0.1, 0.9))
        while start < CLIP_S - 0.4:
            beeps = [start + i * (beep_s + gap_s) for i in range(int(rng.integers(2, 5)))]
            groups.append(tuple(time_s for time_s in beeps if time_s + beep_s < CLIP_S))
            start = beeps[-1] + beep_s + float(rng.uniform(0.7, 1.5))
        return cls(place, color, beep_s, tuple(groups))

    @property
    def events_s(self) -> tuple[float, ...]:
        return tuple(time_s for group in self.groups for time_s in group)

    def level(self, time_s: float) -> float:
        """Of the lamp: 1 lit, 0 dark."""
        return float(any(start <= time_s < start + self.beep_s for start in self.events_s))

    def in_group(self, time_s: float) -> bool:
        return any(group[0] <= time_s < group[-1] + self.beep_s for group in self.groups)

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color, "pitch_hz": round(self.place.between(*BEEP_HZ), 1)}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        grow = 0.75 + 0.3 * self.place.size
        case = PALETTE[self.color]
        dark = mix(case, (0, 0, 0), 0.6)
        lit, awake = self.level(time_s), self.in_group(time_s)
        half, low, high = 0.55 * grow, 0.12 * grow, 1.0 * grow
        canvas.box((-half - 0.05, low - 0.05), (half + 0.05, high + 0.05), dark)
        canvas.box((-half, low), (half, high), case)
        for i in range(4):
            y = low + (0.14 + 0.13 * i) * grow
            canvas.line((-0.38 * grow, y), (0.38 * grow, y), 0.055 * grow, (30, 30, 34))
        canvas.circle((0.38 * grow, 0.86 * grow), 0.08 * grow, (30, 30, 34))
        if awake:
            canvas.circle((0.38 * grow, 0.86 * grow), 0.065 * grow, (120, 255, 90))
        lamp = (0.0, 1.18 * grow)
        canvas.box((-0.3 * grow, 1.0 * grow), (0.3 * grow, 1.06 * grow), (30, 30, 34))
        canvas.box((-0.22 * grow, 1.06 * grow), (0.22 * grow, 1.36 * grow), (92, 16, 20))
        if lit:
            canvas.box((-0.22 * grow, 1.06 * grow), (0.22 * grow, 1.36 * grow), (255, 60, 40))
            canvas.circle(lamp, 0.12 * grow, (255, 250, 225))
            canvas.glow(lamp, 0.7 * grow, (255, 90, 60), 0.75)
            for side in (-1.0, 1.0):
                for reach in (0.72, 0.86):
                    x = side * reach * grow
                    canvas.line((x, 0.35 * grow), (x, 0.8 * grow), 0.06, (255, 245, 160))

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        grid = np.arange(0.0, CLIP_S + 0.001, 0.0005)
        gain = np.zeros(len(grid))
        for start in self.events_s:
            ramp = np.minimum(grid - start, start + self.beep_s - grid) / RAMP_S
            gain = np.maximum(gain, np.clip(ramp, 0, 1))
        times = clip_times()
        pitch = np.full(len(times), self.place.between(*BEEP_HZ))
        return (tone(pitch, PARTIALS) * np.interp(times, grid, gain)).astype(np.float32)

    def describe(self, time_s: float) -> str:
        state = "with its lamp dark"
        if self.level(time_s):
            state = "beeping with its lamp lit"
        elif self.in_group(time_s):
            state = "between two beeps"
        return f"a {self.place.size_word} {self.color} alarm {state}"
