"""Tonal signals: a siren with its turning reflector, a singing bird."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, mix
from training.foleyworld.sounds import CLIP_S, NUM_SAMPLES, SAMPLE_RATE_HZ, clip_times, tone
from training.foleyworld.stage import Place, level_word

RAMP_S = 0.03
PARK_S = 0.25  # in which the reflector falls back
SIREN_HZ = (650, 350)  # small to large, at the bottom of the sweep
BIRD_HZ = (2800, 1600)
BEAK_COLORS = ((250, 170, 30), (225, 130, 20))


@dataclass(frozen=True)
class Siren:
    """A wail that is highest while its beam points up; silent while the beam hangs down.

    `on_s` are the (start, end) spans in which it sounds; each starts a new cycle.
    """

    place: Place
    period_s: float
    on_s: tuple[tuple[float, float], ...]
    color: str
    kind = "siren"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Siren":
        color = str(rng.choice(["red", "blue", "orange"]))
        spans, start = [], float(rng.uniform(0.0, 1.2))
        while start < CLIP_S - 1.0:
            end = start + float(rng.uniform(3.0, 6.0))
            spans.append((start, min(end, CLIP_S)))
            start = end + float(rng.uniform(0.8, 1.8))
        return cls(place, float(rng.uniform(1.2, 2.6)), tuple(spans), color)

    @property
    def events_s(self) -> tuple[float, ...]:
        return tuple(start for start, _ in self.on_s)

    def sweep(self, times_s: np.ndarray | float) -> np.ndarray:
        """0 at the lowest pitch, 1 at the highest."""
        return 0.5 - 0.5 * np.cos(2 * np.pi * self.turns(times_s))

    def heading(self, time_s: float) -> float:
        """The direction of the reflector, in turns: 0 down, 0.5 up. It falls back once the siren is
        silent."""
        starts = self.events_s
        i = max(0, bisect_right(starts, time_s) - 1)
        turned = max(0.0, min(time_s, self.on_s[i][1]) - starts[i]) / self.period_s
        off = turned - round(turned)
        return off * max(0.0, 1 - max(0.0, time_s - self.on_s[i][1]) / PARK_S)

    def turns(self, times_s: np.ndarray | float) -> np.ndarray:
        starts = np.asarray(self.events_s)
        i = np.maximum(np.searchsorted(starts, times_s, side="right") - 1, 0)
        return (times_s - starts[i]) / self.period_s

    def sounding(self, times_s: np.ndarray | float) -> np.ndarray:
        """0 silent, 1 sounding, with short ramps after each start and before each end."""
        gain = np.zeros(np.shape(times_s))
        for start, end in self.on_s:
            ramp = np.minimum(times_s - start, end - times_s) / RAMP_S
            gain = np.maximum(gain, np.clip(ramp, 0, 1))
        return gain

    def level(self, time_s: float) -> float:
        """How far up the beam points: the sweep while it sounds, else 0."""
        return float(self.sweep(time_s) * self.sounding(time_s))

    def attributes(self) -> dict[str, str | float]:
        return {
            "color": self.color,
            "period_s": round(self.period_s, 3),
            "low_hz": round(self.place.between(*SIREN_HZ), 1),
        }

    def paint(self, canvas: Canvas, time_s: float) -> None:
        grow = 0.6 + 0.5 * self.place.size
        light, lamp = PALETTE[self.color], (0.0, 0.95 * grow)
        canvas.box((-0.06, 0.0), (0.06, 0.6 * grow), (60, 62, 70))
        canvas.box((-0.34 * grow, 0.0), (0.34 * grow, 0.14 * grow), (60, 62, 70))
        canvas.box((-0.26 * grow, 0.58 * grow), (0.26 * grow, 0.72 * grow), (36, 38, 44))
        canvas.circle(lamp, 0.27 * grow, mix(light, (0, 0, 0), 0.75))
        canvas.circle(lamp, 0.23 * grow, light)
        self._paint_beam(canvas, lamp, 2 * np.pi * self.heading(time_s) - 0.5 * np.pi)

    def _paint_beam(self, canvas: Canvas, lamp: tuple[float, float], angle: float) -> None:
        """A beam of even brightness; its direction is what tells the pitch."""
        color = mix(PALETTE[self.color], (255, 255, 210), 0.5)
        ends = (angle - 0.24, angle + 0.24)
        corners = [(lamp[0] + 0.75 * np.cos(v), lamp[1] + 0.75 * np.sin(v)) for v in ends]
        canvas.polygon([lamp, *corners], color, 0.75)

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        grid = np.arange(0.0, CLIP_S + 0.002, 0.001)
        times = clip_times()
        pitch = self.place.between(*SIREN_HZ) * 2.0 ** self.sweep(grid)
        partials = [1.0, 0.1, 0.4, 0.08, 0.18]
        gain = np.interp(times, grid, self.sounding(grid))
        return (tone(np.interp(times, grid, pitch), partials) * gain).astype(np.float32)

    def describe(self, time_s: float) -> str:
        state = "silent, its beam hanging down"
        if float(self.sounding(time_s)) > 0:
            words = ("down", "below level", "above level", "up")
            state = f"wailing, its beam pointing {level_word(self.level(time_s), words)}"
        return f"a {self.place.size_word} {self.color} siren {state}"


@dataclass(frozen=True)
class Bird:
    """A bird on a branch; the beak is open while it chirps.

    `chirps` are (start_s, duration_s, pitch ratio at start, at end).
    """

    place: Place
    color: str
    chirps: tuple[tuple[float, float, float, float], ...]
    kind = "bird"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Bird":
        color = str(rng.choice(["red", "blue", "yellow", "green", "purple"]))
        motif = [
            (float(rng.uniform(0.2, 0.42)), *rng.uniform(0.75, 1.3, 2).tolist())
            for _ in range(int(rng.integers(1, 3)))
        ]
        gap_s, pause_s = float(rng.uniform(0.2, 0.32)), float(rng.uniform(0.8, 1.5))
        chirps, start = [], float(rng.uniform(0.1, 0.9))
        while start < 9.5:
            for duration, first, last in motif * int(rng.integers(1, 3)):
                if start + duration < CLIP_S:
                    chirps.append((start, duration, first, last))
                start += duration + gap_s
            start += pause_s
        return cls(place, color, tuple(chirps))

    @property
    def events_s(self) -> tuple[float, ...]:
        return tuple(chirp[0] for chirp in self.chirps)

    def level(self, time_s: float) -> float:
        """How far the beak is open: 0 closed, 1 wide open."""
        for start, duration, *_ in self.chirps:
            if start <= time_s < start + duration:
                return float(np.sin(np.pi * (0.12 + 0.88 * (time_s - start) / duration)) ** 0.6)
        return 0.0

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color, "pitch_hz": round(self.place.between(*BIRD_HZ), 1)}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        gape = self.level(time_s)
        grow = 0.65 + 0.55 * self.place.size
        coat, belly = PALETTE[self.color], mix(PALETTE[self.color], (255, 255, 255), 0.55)
        canvas.line((-0.85, 0.1), (0.85, 0.04), 0.09, mix(PALETTE["brown"], (0, 0, 0), 0.35))
        bird = canvas.at((-0.16, 0.1), grow)
        bird.polygon([(-0.3, 0.25), (-0.6, 0.02), (-0.5, -0.08), (-0.15, 0.1)], coat)
        bird.ellipse((-0.1, 0.3), (0.32, 0.27), coat)
        bird.ellipse((0.0, 0.24), (0.2, 0.18), belly)
        bird.ellipse((-0.2, 0.3), (0.18, 0.11), mix(coat, (0, 0, 0), 0.4))
        head = (0.1, 0.72 + 0.08 * gape)
        wide = 0.06 + 0.82 * gape
        hinge, reach = (head[0] + 0.14, head[1]), 0.58
        tips = [(hinge[0] + reach * np.cos(a), hinge[1] + reach * np.sin(a)) for a in (wide, -wide)]
        if gape > 0.05:
            bird.polygon([hinge, *tips], (110, 10, 24))
        for tip, side, color in zip(tips, (0.12, -0.12), BEAK_COLORS, strict=True):
            bird.polygon([hinge, tip, (hinge[0] + 0.06, hinge[1] + side * (1 + 2 * gape))], color)
        bird.circle(head, 0.25, coat)
        bird.circle((head[0] + 0.07, head[1] + 0.09), 0.075, (255, 255, 255))
        bird.circle((head[0] + 0.09, head[1] + 0.09), 0.045, (10, 10, 10))

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        audio = np.zeros(NUM_SAMPLES, np.float32)
        center = self.place.between(*BIRD_HZ)
        for start, duration, first, last in self.chirps:
            length = int(duration * SAMPLE_RATE_HZ)
            u = np.arange(length, dtype=np.float32) / length
            pitch = center * (first + (last - first) * u)
            edge = np.minimum(1.0, np.minimum(u * duration / 0.004, (1 - u) * duration / 0.04))
            chirp = tone(pitch, [1.0, 0.12]) * edge
            at = round(start * SAMPLE_RATE_HZ)
            audio[at : at + length] += chirp[: NUM_SAMPLES - at]
        return audio

    def describe(self, time_s: float) -> str:
        words = ("barely open", "half open", "open", "wide open")
        gape = self.level(time_s)
        who = f"{self.place.size_word} {self.color} bird"
        if gape > 0.05:
            return f"a {who} singing, its beak {level_word(gape, words)}"
        return f"a silent {who}, its beak closed"
