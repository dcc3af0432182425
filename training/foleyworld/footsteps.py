"""A walking figure, seen from the side, on gravel, wood, stone or snow."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, Point, mix
from training.foleyworld.rhythms import Miss, draw_misses, draw_rhythm, neighbours, short_of
from training.foleyworld.sounds import CLIP_S, SAMPLE_RATE_HZ, band, play_hits
from training.foleyworld.stage import Place, any_color, jolt, striking

STEP_S, DOWN_S = 0.5, 0.22
STRIDE, LIFT = 0.34, 0.5
DUST_S, GRAINS = 0.35, 3
PITCH = (1.4, 0.75)  # small to large
STEP_SAMPLES = SAMPLE_RATE_HZ // 4
GRAIN_SAMPLES = 80
THUMP_HZ = 85


@dataclass(frozen=True)
class Ground:
    """`hz` is the band of the step's noise, `thump` the gain of the body's weight.

    `crunch` is the gain of the grains that give way after the heel has landed.
    """

    color: Color
    hz: tuple[float, float]
    decay_s: float
    thump: float
    crunch: float


GROUNDS = {
    "gravel": Ground((120, 112, 104), (1700, 5200), 0.02, 0.25, 0.55),
    "wood": Ground((150, 88, 40), (260, 800), 0.022, 0.9, 0.0),
    "stone": Ground((92, 104, 126), (1500, 4200), 0.007, 0.2, 0.08),
    "snow": Ground((236, 240, 250), (500, 1500), 0.03, 0.15, 0.7),
}


def strides(rng: np.random.Generator) -> Iterator[float]:
    """Steps, and now and then a stand."""
    while True:
        standing = rng.random() < 0.4
        yield float(rng.uniform(1.4, 2.4) if standing else rng.uniform(0.6, 1.0))


@dataclass(frozen=True)
class Footsteps:
    """A walker who lifts the rear foot and puts it down in front, knees giving way.

    Gravel and snow fly up under some of the steps (`dust_s`), and at other times with the wind;
    an arm is raised now and then (`gestures`), without a sound.
    """

    place: Place
    material: str
    color: str
    events_s: tuple[float, ...]
    gestures: tuple[Miss, ...]
    dust_s: tuple[float, ...]
    skin: Color
    kind = "footsteps"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Footsteps":
        material = str(rng.choice(list(GROUNDS)))
        color = str(rng.choice(["red", "blue", "green", "purple", "orange"]))
        events, unheard = draw_rhythm(rng, strides), place.unheard()
        gestures, skin = draw_misses(unheard, events), any_color(unheard)
        dust = draw_dust(unheard, events) if GROUNDS[material].crunch > 0.5 else ()
        return cls(place, material, color, events, gestures, dust, skin)

    def progress(self, time_s: float) -> float:
        """The progress of the moving foot: 0 still behind, 1 landed in front."""
        return max(0.0, 1.0 - (neighbours(time_s, self.events_s)[1] - time_s) / STEP_S)

    def level(self, time_s: float) -> float:
        """Height of the moving foot: it rises slowly and comes down fast."""
        left_s = neighbours(time_s, self.events_s)[1] - time_s
        if left_s < DOWN_S:
            return 1.0 - (1.0 - left_s / DOWN_S) ** 2
        return float(np.sin(0.5 * np.pi * min(1.0, self.progress(time_s) / (1 - DOWN_S / STEP_S))))

    def attributes(self) -> dict[str, str | float]:
        pitch_hz = round(THUMP_HZ * self.place.between(*PITCH), 1)
        return {"material": self.material, "color": self.color, "pitch_hz": pitch_hz}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        self._paint_ground(canvas)
        progress, lift = self.progress(time_s), self.level(time_s)
        smooth = progress * progress * (3 - 2 * progress)
        moving = (STRIDE * (2 * smooth - 1), LIFT * lift)
        standing = (-STRIDE * (2 * smooth - 1), 0.0)
        walker = canvas.at((0, 0), 0.65 + 0.5 * self.place.size)
        dark, light = mix(PALETTE[self.color], (0, 0, 0), 0.5), PALETTE[self.color]
        sunk = 0.06 * jolt(time_s, self.events_s, 0.1)
        hip, neck = (0.0, 0.64 - sunk), (0.04, 1.05 - sunk)
        self._paint_leg(walker, hip, moving, dark)
        walker.line(hip, neck, 0.26, light)
        walker.circle((0.06, 1.26 - sunk), 0.14, self.skin)
        self._paint_leg(walker, hip, standing, light)
        arm = 1.1 * smooth - 0.55 + 2.6 * short_of(time_s, self.gestures)
        hand = (0.02 + 0.36 * math.sin(arm), 1.02 - sunk - 0.36 * math.cos(arm))
        walker.line((0.02, 1.02 - sunk), hand, 0.1, dark)
        self._paint_dust(walker, time_s)

    def _paint_dust(self, canvas: Canvas, time_s: float) -> None:
        """Grains fly up from the front foot's place and fall back."""
        for n, start in enumerate(self.dust_s):
            u = (time_s - start) / DUST_S
            for i in range(GRAINS):
                way = (0.618 * (n + 3 * i)) % 1.0
                spot = (STRIDE + (way - 0.4) * 0.6 * u, 0.02 + (0.3 + 0.5 * way) * u * (1 - u))
                canvas.circle(spot, 0.05, GROUNDS[self.material].color, float(0 < u < 1))

    def _paint_ground(self, canvas: Canvas) -> None:
        ground = GROUNDS[self.material]
        low, line = (-0.85, -0.16), mix(ground.color, (0, 0, 0), 0.45)
        canvas.box(low, (0.85, 0.03), line)
        canvas.box((-0.83, -0.14), (0.83, 0.01), ground.color)
        if self.material == "gravel":
            for i in range(7):
                canvas.circle((-0.72 + 0.24 * i, -0.03 - 0.06 * (i % 2)), 0.045, (60, 56, 54))
        elif self.material != "snow":
            for i in range(3):
                x = -0.5 + 0.5 * i
                canvas.line((x, -0.13), (x + 0.1 * (self.material == "wood"), 0.0), 0.03, line)

    def _paint_leg(self, canvas: Canvas, hip: Point, foot: Point, color: Color) -> None:
        bend = 0.22 * foot[1] / LIFT
        knee = ((hip[0] + foot[0]) / 2 + 0.06 + bend, (hip[1] + foot[1]) / 2 + 0.5 * bend)
        ankle = (foot[0], foot[1] + 0.08)
        canvas.line(hip, knee, 0.14, color)
        canvas.line(knee, ankle, 0.12, color)
        canvas.line((foot[0] - 0.03, foot[1] + 0.05), (foot[0] + 0.14, foot[1] + 0.05), 0.1, color)

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        step = footfall(GROUNDS[self.material], self.place.between(*PITCH), rng)
        return play_hits(step, self.events_s, rng.uniform(0.8, 1.0, len(self.events_s)).tolist())

    def describe(self, time_s: float) -> str:
        if striking(time_s, self.events_s):
            state = "landing"
        elif neighbours(time_s, self.events_s)[1] - time_s <= DOWN_S:
            state = "coming down"
        else:
            state = "lifted" if self.progress(time_s) > 0.05 else "standing still"
        who = f"a {self.place.size_word} walker in {self.color}"
        return f"footsteps on {self.material}, {who}, foot {state}"


def draw_dust(rng: np.random.Generator, events_s: Sequence[float]) -> tuple[float, ...]:
    """Half of the steps and as many other times, sorted."""
    steps = [time_s for time_s in events_s if rng.random() < 0.5]
    return tuple(sorted([*steps, *rng.uniform(0.0, CLIP_S, len(steps)).tolist()]))


def footfall(ground: Ground, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Heel, weight, grains, and the sole 0.1 s later. Peak 1, float32."""
    t = np.arange(STEP_SAMPLES, dtype=np.float32) / SAMPLE_RATE_HZ
    white = rng.standard_normal(STEP_SAMPLES, dtype=np.float32)
    noise = band(white, ground.hz[0] * pitch, ground.hz[1] * pitch)
    heel = np.exp(-t / ground.decay_s)
    sole = 0.5 * (t > 0.1) * np.exp(-np.maximum(0, t - 0.1) / ground.decay_s)
    grains = np.repeat(rng.random(STEP_SAMPLES // GRAIN_SAMPLES) ** 3, GRAIN_SAMPLES)
    tail = ground.crunch * grains * (t > 0.035) * np.exp(-t / 0.1)
    weight = ground.thump * 2.0 * np.sin(2 * np.pi * THUMP_HZ * pitch * t) * np.exp(-t / 0.03)
    step = noise * (heel + sole + tail) * np.minimum(1.0, t / 0.001) + weight
    return (step / np.abs(step).max()).astype(np.float32)
