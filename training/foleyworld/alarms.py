"""An alarm box whose lever lies on its contact exactly while it beeps."""

import math
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.sounds import CLIP_S, clip_times, tone
from training.foleyworld.stage import Place, any_color

BEEP_HZ = (2300, 1300)  # small to large
PARTIALS = [1.0, 0.0, 0.4]  # a square wave as far as 8 kHz goes
RAMP_S = 0.003
LEVER_S = 0.12  # from the contact to its full height


@dataclass(frozen=True)
class Alarm:
    """Groups of two to four beeps of one steady pitch, with pauses between the groups.

    `groups` holds the start times of each group's beeps.
    """

    place: Place
    color: str
    beep_s: float
    groups: tuple[tuple[float, ...], ...]
    arm: Color
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
        return cls(place, color, beep_s, tuple(groups), any_color(place.unheard()))

    @property
    def events_s(self) -> tuple[float, ...]:
        return tuple(time_s for group in self.groups for time_s in group)

    def level(self, time_s: float) -> float:
        """The position of the contact: 1 closed, 0 open."""
        return float(self.lever(time_s) == 0.0)

    def lever(self, time_s: float) -> float:
        """Height 0..1 above the contact, on which it stays for as long as it beeps."""
        i = bisect_right(self.events_s, time_s)
        after = time_s - self.events_s[i - 1] - self.beep_s if i else 99.0
        left = self.events_s[i] - time_s if i < len(self.events_s) else 99.0
        return min(1.0, max(0.0, min(after, left) / LEVER_S))

    def in_group(self, time_s: float) -> bool:
        return any(group[0] <= time_s < group[-1] + self.beep_s for group in self.groups)

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color, "pitch_hz": round(self.place.between(*BEEP_HZ), 1)}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        grow = 0.6 + 0.45 * self.place.size
        case = PALETTE[self.color]
        dark = mix(case, (0, 0, 0), 0.6)
        half, low, high = 0.55 * grow, 0.1 * grow, 0.8 * grow
        canvas.box((-half - 0.05, low - 0.05), (half + 0.05, high + 0.05), dark)
        canvas.box((-half, low), (half, high), case)
        for i in range(3):
            y = low + (0.16 + 0.16 * i) * grow
            canvas.line((-0.38 * grow, y), (0.38 * grow, y), 0.06 * grow, (30, 30, 34))
        foot, angle = (half - 0.06, high + 0.17), 0.85 * self.lever(time_s)
        tip = (foot[0] - 0.8 * math.cos(angle), foot[1] + 0.8 * math.sin(angle))
        contact = (foot[0] - 0.8, high + 0.05)
        canvas.box((contact[0] - 0.1, high), (contact[0] + 0.1, contact[1]), (30, 30, 34))
        canvas.line(foot, tip, 0.1, self.arm)
        canvas.circle(tip, 0.12, self.arm)
        canvas.circle(foot, 0.09, dark)

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
        state = "with its lever up"
        if self.level(time_s):
            state = "beeping with its lever down"
        elif self.in_group(time_s):
            state = "between two beeps"
        return f"a {self.place.size_word} {self.color} alarm {state}"
