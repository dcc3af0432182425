"""An engine: a flywheel, a piston, a rev counter, an exhaust."""

from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import PALETTE, Canvas, Color, mix
from training.foleyworld.sounds import SAMPLE_RATE_HZ, clip_times, noise_band, tone
from training.foleyworld.stage import Curve, Place, level_word

IDLE_HZ = (120, 65)  # small to large


@dataclass(frozen=True)
class Engine:
    """A flywheel with a piston; turning speed sets the pitch, a large engine sounds lower."""

    place: Place
    speed: Curve
    color: str
    events_s: tuple[float, ...] = ()
    kind = "engine"

    @classmethod
    def draw(cls, rng: np.random.Generator, place: Place) -> "Engine":
        color = str(rng.choice(["red", "green", "blue", "orange"]))
        return cls(place, Curve.wander(rng, 0.0, 1.0, (1.2, 2.8)), color)

    def turns(self, time_s: float) -> float:
        """The turns of the seen wheel, 0.3 to 1.8 a second."""
        return 0.3 * time_s + 1.5 * self.speed.area(time_s)

    def level(self, time_s: float) -> float:
        return float(self.speed(time_s))

    def attributes(self) -> dict[str, str | float]:
        return {"color": self.color, "idle_hz": round(self.place.between(*IDLE_HZ), 2)}

    def paint(self, canvas: Canvas, time_s: float) -> None:
        speed, turns = self.level(time_s), self.turns(time_s)
        shade, steel = PALETTE[self.color], (70, 74, 82)
        self._paint_smoke(canvas, speed, turns)
        canvas.box((-0.72, 0.0), (0.82, 0.16), steel)
        canvas.box((0.34, 0.16), (0.78, 0.5), shade)
        canvas.box((0.6, 0.5), (0.72, 0.68), steel)
        self._paint_wheel(canvas, speed, 2 * np.pi * turns)
        self._paint_dial(canvas, speed)
        canvas.box((-0.68, 0.03), (0.78, 0.13), (14, 14, 18))
        canvas.box((-0.68, 0.03), (-0.68 + 1.46 * speed, 0.13), speed_color(speed))

    def _paint_wheel(self, canvas: Canvas, speed: float, angle: float) -> None:
        """The spokes blur into a bright disc as it turns faster."""
        radius = 0.22 + 0.18 * self.place.size
        shade = PALETTE[self.color]
        center = (-0.3, 0.16 + radius)
        canvas.circle(center, radius, mix((34, 36, 44), (235, 235, 225), speed))
        canvas.ring(center, radius - 0.04, 0.09, shade)
        for spoke in range(3):
            a = angle + spoke * 2 * np.pi / 3
            rim = (
                center[0] + (radius - 0.08) * np.cos(a),
                center[1] - (radius - 0.08) * np.sin(a),
            )
            bright = (255, 235, 90) if spoke == 0 else (190, 194, 200)
            canvas.line(center, rim, 0.07, bright, 1.0 - 0.55 * speed)
        crank = (center[0] + 0.6 * radius * np.cos(angle), center[1] - 0.6 * radius * np.sin(angle))
        slide = 0.42 + 0.22 * np.cos(angle)
        canvas.line(crank, (slide, 0.33), 0.05, (225, 225, 230))
        canvas.box((slide, 0.23), (slide + 0.12, 0.43), (235, 235, 240))

    def _paint_dial(self, canvas: Canvas, speed: float) -> None:
        """A rev counter whose arc fills clockwise, from green to red."""
        center, angle = (-0.28, 1.2), np.pi * (1.1 - 1.2 * speed)
        canvas.circle(center, 0.36, (20, 20, 24))
        canvas.circle(center, 0.32, (245, 245, 240))

        def arc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            dx, dy = x - center[0], y - center[1]
            turned = np.pi * 1.1 - (np.arctan2(dy, dx) + np.pi / 2) % (2 * np.pi) + np.pi / 2
            outside = np.abs(np.hypot(dx, dy) - 0.23) - 0.08
            return np.maximum(outside, 0.23 * np.maximum(-turned, turned - 1.2 * np.pi * speed))

        canvas.fill(arc, speed_color(speed))
        tip = (center[0] + 0.29 * np.cos(angle), center[1] + 0.29 * np.sin(angle))
        canvas.line(center, tip, 0.07, (15, 15, 20))

    def _paint_smoke(self, canvas: Canvas, speed: float, turns: float) -> None:
        """Puffs above the exhaust: few, small and pale when idle; a tall dark plume at speed."""
        grey = mix((225, 225, 225), (40, 38, 40), speed)
        for puff in range(5):
            u = (2.0 * turns + puff / 5) % 1.0
            size = 0.05 + (0.04 + 0.2 * u) * speed
            center = (0.64 - 0.1 * u, 0.7 + (0.15 + 0.7 * speed) * u)
            canvas.circle(center, size, grey, (1 - 0.7 * u) * (0.15 + 0.8 * speed))

    def sound(self, rng: np.random.Generator) -> np.ndarray:
        speed = self.speed.over_clip(clip_times())
        pitch = np.float32(self.place.between(*IDLE_HZ)) * 3.2**speed
        partials = [1 / k**0.8 * (1.6 if k % 3 == 0 else 1.0) for k in range(1, 15)]
        stack = tone(pitch, partials)
        chug = 1 + 0.4 * np.sin(2 * np.pi * np.cumsum(pitch / 4) / SAMPLE_RATE_HZ)
        rattle = noise_band(rng, 300, 1500) * 0.12
        return ((stack * chug + rattle) * (0.6 + 0.4 * speed)).astype(np.float32)

    def describe(self, time_s: float) -> str:
        words = ("idling", "turning slowly", "at medium speed", "turning fast", "at full speed")
        state = level_word(self.level(time_s), words)
        return f"a {self.place.size_word} {self.color} engine {state}"


def speed_color(speed: float) -> Color:
    """Green when slow, yellow at medium speed, red at full speed."""
    green, yellow, red = (40, 190, 70), (245, 215, 40), (225, 25, 20)
    if speed < 0.5:
        return mix(green, yellow, 2 * speed)
    return mix(yellow, red, 2 * speed - 1)
