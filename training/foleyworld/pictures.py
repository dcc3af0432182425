"""An antialiased rasteriser in world coordinates, y up, that paints many frames at once.

Each frame's strokes are noted down first. The first strokes of all frames are then painted
together, then the second ones, and so on: numpy is called per stroke and not per stroke and frame.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from training.foleyworld.shapes import SHAPES

Color = tuple[float, float, float]
Point = tuple[float, float]
Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]

PALETTE: dict[str, Color] = {
    "red": (214, 48, 42),
    "orange": (238, 135, 35),
    "yellow": (240, 208, 50),
    "green": (48, 160, 74),
    "blue": (46, 92, 208),
    "purple": (140, 62, 178),
    "white": (240, 240, 236),
    "black": (34, 34, 40),
    "brown": (134, 84, 46),
    "grey": (140, 144, 150),
}


NOTHING: tuple[str, tuple[float, ...]] = ("nothing", ())


def mix(a: Color, b: Color, amount: float) -> Color:
    """Colour a at amount 0, b at amount 1."""
    rest = 1 - amount
    return a[0] * rest + b[0] * amount, a[1] * rest + b[1] * amount, a[2] * rest + b[2] * amount


class View(NamedTuple):
    """Where a camera looks: the world point in the middle of the picture, and its zoom."""

    x: float
    y: float
    zoom: float


class Stroke(NamedTuple):
    """A shape in picture coordinates; `mask` is a coverage [H, W] for shapes given pixel by pixel.

    A shape is named by its kind and the number of its values, so that those of many frames stack.
    """

    shape: tuple[str, int]
    values: tuple[float, ...]
    color: Color
    alpha: float = 1.0
    mask: np.ndarray | None = None


class Film:
    """Frames under work: float32 [F, 3, H, W] in 0..255, and the grid of all of them.

    The central square of a picture spans [-1, 1]^2, so a wider one only shows more to the sides.
    """

    def __init__(self, count: int, width: int, height: int, pixel: float | None = None):
        self.pixel = pixel or 2.0 / height
        self.xs = ((np.arange(width) + 0.5 - width / 2) * self.pixel).astype(np.float32)
        self.ys = ((height / 2 - 0.5 - np.arange(height)) * self.pixel).astype(np.float32)
        self._images = np.zeros((count, 3, height, width), np.float32)
        self._strokes: list[list[Stroke]] = [[] for _ in range(count)]

    def canvas(self, frame: int) -> "Canvas":
        return Canvas(self, frame)

    def note(self, frame: int, stroke: Stroke) -> None:
        self._strokes[frame].append(stroke)

    @property
    def images(self) -> np.ndarray:
        """[F, 3, H, W] with all that was noted down."""
        for turn in range(max(map(len, self._strokes))):
            groups: dict[tuple[str, int], list[int]] = {}
            for frame, strokes in enumerate(self._strokes):
                if turn < len(strokes) and strokes[turn].shape[0] != NOTHING[0]:
                    groups.setdefault(strokes[turn].shape, []).append(frame)
            for shape, frames in groups.items():
                self._paint(shape, frames, [self._strokes[frame][turn] for frame in frames])
        for strokes in self._strokes:
            strokes.clear()
        return self._images

    def _paint(self, shape: tuple[str, int], frames: list[int], strokes: Sequence[Stroke]) -> None:
        rows, cols = slice(None), slice(None)
        if shape[0] == "mask":
            inside = np.stack([stroke.mask for stroke in strokes])
        else:
            values = np.array([stroke.values for stroke in strokes], np.float32)
            if (values == values[0]).all():
                values = values[:1]
            window = self._window(SHAPES[shape[0]].bounds(values))
            if window is None:
                return
            rows, cols = window
            inside = SHAPES[shape[0]].inside(values, self.xs[cols], self.ys[rows], self.pixel)
        coverage = np.clip(inside, 0.0, 1.0, out=inside)  # [1 or N, h, w]
        alphas = np.array([stroke.alpha for stroke in strokes], np.float32)
        if (alphas != 1.0).any():
            coverage = coverage * alphas[:, None, None]
        colors = np.array([stroke.color for stroke in strokes], np.float32)
        everyone = frames[-1] - frames[0] + 1 == len(frames)
        which = slice(frames[0], frames[-1] + 1) if everyone else np.array(frames)
        patch = self._images[which, :, rows, cols]  # [N, 3, h, w]
        change = colors[:, :, None, None] - patch
        change *= coverage[:, None]
        patch += change
        if not everyone:
            self._images[which, :, rows, cols] = patch

    def _window(self, bounds: tuple[float, float, float, float]) -> tuple[slice, slice] | None:
        left, top, pixel = float(self.xs[0]), float(self.ys[0]), self.pixel
        c0 = max(0, int((bounds[0] - left) / pixel) - 1)
        c1 = min(len(self.xs), int((bounds[2] - left) / pixel + 3))
        r0 = max(0, int((top - bounds[3]) / pixel) - 1)
        r1 = min(len(self.ys), int((top - bounds[1]) / pixel + 3))
        return (slice(r0, r1), slice(c0, c1)) if r0 < r1 and c0 < c1 else None


class Canvas:
    """One frame of a film and the coordinates to paint it in.

    `at` gives the same frame with moved and scaled coordinates.
    """

    def __init__(
        self,
        film: Film,
        frame: int,
        origin: Point = (0.0, 0.0),
        scale: float = 1.0,
        haze: tuple[Color, float] | None = None,
    ):
        self.film, self.frame, self.origin, self.scale, self.haze = film, frame, origin, scale, haze

    @classmethod
    def blank(cls, width: int, height: int, pixel: float | None = None) -> "Canvas":
        """Black; the height spans 2 units unless the size of a pixel is given."""
        return Film(1, width, height, pixel).canvas(0)

    @property
    def image(self) -> np.ndarray:
        """Float32 [3, H, W] in 0..255, to be read or written."""
        return self.film.images[self.frame]

    @property
    def xs(self) -> np.ndarray:
        return (self.film.xs - np.float32(self.origin[0])) / np.float32(self.scale)

    @property
    def ys(self) -> np.ndarray:
        return (self.film.ys - np.float32(self.origin[1])) / np.float32(self.scale)

    @property
    def pixel(self) -> float:
        return self.film.pixel / self.scale

    def at(self, origin: Point, scale: float, haze: tuple[Color, float] | None = None) -> "Canvas":
        """Coordinates whose origin lies at `origin` here and whose unit is `scale` here.

        Colours drawn through it are mixed with the haze colour by the haze amount.
        """
        return Canvas(
            self.film, self.frame, self._spot(origin), self.scale * scale, haze or self.haze
        )

    def through(self, view: View) -> "Canvas":
        """World coordinates as a camera with this view sees them."""
        return self.at((-view.x * view.zoom, -view.y * view.zoom), view.zoom)

    def _spot(self, point: Point) -> Point:
        return (
            self.origin[0] + self.scale * float(point[0]),
            self.origin[1] + self.scale * float(point[1]),
        )

    def _note(
        self,
        kind: str,
        values: tuple[float, ...],
        color: Color,
        alpha: float,
        mask: np.ndarray | None = None,
    ) -> None:
        if alpha <= 0.0:
            kind, values = NOTHING  # keeps the strokes after it at their place in the order
        if self.haze is not None:
            color = mix(color, *self.haze)
        self.film.note(self.frame, Stroke((kind, len(values)), values, color, alpha, mask))

    def circle(self, center: Point, radius: float, color: Color, alpha: float = 1.0) -> None:
        self.ellipse(center, (radius, radius), color, alpha)

    def ellipse(self, center: Point, radii: Point, color: Color, alpha: float = 1.0) -> None:
        radii = self.scale * float(radii[0]), self.scale * float(radii[1])
        self._note("ellipse", (*self._spot(center), *radii), color, alpha)

    def ring(
        self, center: Point, radius: float, width: float, color: Color, alpha: float = 1.0
    ) -> None:
        sizes = self.scale * radius, self.scale * width / 2
        self._note("ring", (*self._spot(center), *sizes), color, alpha)

    def line(self, a: Point, b: Point, width: float, color: Color, alpha: float = 1.0) -> None:
        """A segment with round ends."""
        half = self.scale * width / 2
        self._note("line", (*self._spot(a), *self._spot(b), half), color, alpha)

    def box(self, low: Point, high: Point, color: Color, alpha: float = 1.0) -> None:
        self._note("box", (*self._spot(low), *self._spot(high)), color, alpha)

    def polygon(self, points: Sequence[Point], color: Color, alpha: float = 1.0) -> None:
        """A convex polygon, corners in either direction of turn."""
        corners = tuple(value for point in points for value in self._spot(point))
        self._note("polygon", corners, color, alpha)

    def glow(self, center: Point, radius: float, color: Color, alpha: float) -> None:
        """A soft light: alpha at the centre, 2 % of it at `radius`."""
        self._note("glow", (*self._spot(center), self.scale * radius), color, alpha)

    def fill(self, distance: Distance, color: Color) -> None:
        """Paint where distance(x, y) < 0."""
        d = distance(self.xs[None, :], self.ys[:, None])
        self._note("mask", (), color, 1.0, (0.5 - d / self.pixel).astype(np.float32))

    def below(self, heights: np.ndarray, color: Color, alpha: float = 1.0) -> None:
        """Everything below a curve: heights [W] over `xs`."""
        inside = 0.5 - (self.ys[:, None] - heights[None, :]) / self.pixel
        self._note("mask", (), color, alpha, inside.astype(np.float32))

    def cover(self, coverage: np.ndarray, color: Color) -> None:
        """Paint the whole picture by a coverage [H, W] in 0..1."""
        self._note("mask", (), color, 1.0, coverage.astype(np.float32))
