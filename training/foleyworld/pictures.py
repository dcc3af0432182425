"""An antialiased rasteriser: signed distances to coverage, in world coordinates, y up."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

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


def mix(a: Color, b: Color, amount: float) -> Color:
    """Colour a at amount 0, b at amount 1."""
    return tuple(p + (q - p) * amount for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


class View(NamedTuple):
    """Where a camera looks: the world point in the middle of the picture, and its zoom."""

    x: float
    y: float
    zoom: float


class Canvas:
    """A picture under work: `image` float32 [3, H, W] in 0..255, and its coordinate grid.

    The central square of the picture spans [-1, 1]^2, so a wider picture only shows more to the
    sides. `at` gives the same picture with moved and scaled coordinates.
    """

    def __init__(self, image: np.ndarray, xs: np.ndarray, ys: np.ndarray, pixel: float):
        self.image, self.xs, self.ys, self.pixel = image, xs, ys, pixel
        self.haze: tuple[Color, float] | None = None

    @classmethod
    def blank(cls, width: int, height: int, pixel: float | None = None) -> "Canvas":
        """Black; the height spans 2 units unless the size of a pixel is given."""
        pixel = pixel or 2.0 / height
        xs = (np.arange(width) + 0.5 - width / 2) * pixel
        ys = (height / 2 - 0.5 - np.arange(height)) * pixel
        image = np.zeros((3, height, width), np.float32)
        return cls(image, xs.astype(np.float32), ys.astype(np.float32), pixel)

    def at(self, origin: Point, scale: float, haze: tuple[Color, float] | None = None) -> "Canvas":
        """Coordinates whose origin lies at `origin` here and whose unit is `scale` here.

        Colours drawn through it are mixed with the haze colour by the haze amount.
        """
        xs, ys = (self.xs - origin[0]) / scale, (self.ys - origin[1]) / scale
        canvas = Canvas(self.image, xs, ys, self.pixel / scale)
        canvas.haze = haze or self.haze
        return canvas

    def through(self, view: View) -> "Canvas":
        """World coordinates as a camera with this view sees them."""
        return self.at((-view.x * view.zoom, -view.y * view.zoom), view.zoom)

    def fill(
        self,
        bounds: tuple[float, float, float, float],
        distance: Distance,
        color: Color,
        alpha: float = 1.0,
    ) -> None:
        """Paint where distance(x, y) < 0, inside bounds (x0, y0, x1, y1)."""
        window = self._window(bounds)
        if window is None:
            return
        rows, cols = window
        d = distance(self.xs[None, cols], self.ys[rows, None])
        self._blend(rows, cols, 0.5 - d / self.pixel, color, alpha)

    def _window(self, bounds: tuple[float, float, float, float]) -> tuple[slice, slice] | None:
        left, top, pixel = float(self.xs[0]), float(self.ys[0]), self.pixel
        c0 = max(0, int((bounds[0] - left) / pixel) - 1)
        c1 = min(len(self.xs), int((bounds[2] - left) / pixel + 3))
        r0 = max(0, int((top - bounds[3]) / pixel) - 1)
        r1 = min(len(self.ys), int((top - bounds[1]) / pixel + 3))
        return (slice(r0, r1), slice(c0, c1)) if r0 < r1 and c0 < c1 else None

    def _blend(
        self, rows: slice, cols: slice, inside: np.ndarray, color: Color, alpha: float = 1.0
    ) -> None:
        """Paint by how far inside a pixel lies, in pixels: 0.5 is its edge's middle."""
        if self.haze is not None:
            color = mix(color, *self.haze)
        coverage = np.minimum(np.maximum(inside, 0.0), 1.0)
        if alpha != 1.0:
            coverage *= alpha
        patch = self.image[:, rows, cols]
        change = np.array(color, np.float32)[:, None, None] - patch
        change *= coverage
        patch += change

    def circle(self, center: Point, radius: float, color: Color, alpha: float = 1.0) -> None:
        self.ellipse(center, (radius, radius), color, alpha)

    def ellipse(self, center: Point, radii: Point, color: Color, alpha: float = 1.0) -> None:
        cx, cy, rx, ry = map(float, (*center, *radii))
        window = self._window((cx - rx, cy - ry, cx + rx, cy + ry))
        if window is None:
            return
        rows, cols = window
        x, y = (self.xs[cols] - cx) / rx, (self.ys[rows] - cy) / ry
        out = np.sqrt((x * x)[None, :] + (y * y)[:, None])
        out *= -min(rx, ry) / self.pixel
        out += 0.5 + min(rx, ry) / self.pixel
        self._blend(rows, cols, out, color, alpha)

    def ring(
        self, center: Point, radius: float, width: float, color: Color, alpha: float = 1.0
    ) -> None:
        (cx, cy), outer = center, radius + width / 2

        def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.abs(np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius) - width / 2

        self.fill((cx - outer, cy - outer, cx + outer, cy + outer), distance, color, alpha)

    def line(self, a: Point, b: Point, width: float, color: Color, alpha: float = 1.0) -> None:
        """A segment with round ends."""
        ax, ay, bx, by, half = map(float, (*a, *b, width / 2))
        bounds = (min(ax, bx) - half, min(ay, by) - half, max(ax, bx) + half, max(ay, by) + half)
        window = self._window(bounds)
        if window is None:
            return
        rows, cols = window
        dx, dy = bx - ax, by - ay
        length2 = dx * dx + dy * dy + 1e-9
        x, y = self.xs[None, cols] - ax, self.ys[rows, None] - ay
        along = np.minimum(np.maximum(x * (dx / length2) + y * (dy / length2), 0.0), 1.0)
        across_x, across_y = x - along * dx, y - along * dy
        across_x *= across_x
        across_y *= across_y
        across_x += across_y
        out = np.sqrt(across_x, out=across_x)
        out *= -1.0 / self.pixel
        out += 0.5 + half / self.pixel
        self._blend(rows, cols, out, color, alpha)

    def box(self, low: Point, high: Point, color: Color, alpha: float = 1.0) -> None:
        x0, y0, x1, y1 = map(float, (*low, *high))
        window = self._window((x0, y0, x1, y1))
        if window is None:
            return
        rows, cols = window
        hx, hy = 0.5 * (x1 - x0), 0.5 * (y1 - y0)
        x = hx - np.abs(self.xs[None, cols] - (x0 + hx))
        y = hy - np.abs(self.ys[rows, None] - (y0 + hy))
        self._blend(rows, cols, 0.5 + np.minimum(x, y) / self.pixel, color, alpha)

    def polygon(self, points: Sequence[Point], color: Color, alpha: float = 1.0) -> None:
        """A convex polygon, corners in either direction of turn."""
        corners = [(float(x), float(y)) for x, y in points]
        px, py = zip(*corners, strict=True)
        window = self._window((min(px), min(py), max(px), max(py)))
        if window is None:
            return
        rows, cols = window
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in _edges(corners))
        xs, ys = self.xs[None, cols], self.ys[rows, None]
        out: np.ndarray | None = None
        for (ax, ay), (bx, by) in _edges(corners):
            dx, dy = bx - ax, by - ay
            norm = math.copysign(1.0 / (math.hypot(dx, dy) + 1e-9), area) / self.pixel
            side = ys * (dx * norm) + (xs * (-dy * norm) + (ax * dy - ay * dx) * norm)
            out = side if out is None else np.minimum(out, side, out=out)
        assert out is not None
        self._blend(rows, cols, out + 0.5, color, alpha)

    def glow(self, center: Point, radius: float, color: Color, alpha: float) -> None:
        """A soft light: alpha at the centre, 2 % of it at `radius`."""
        (cx, cy) = center
        window = self._window((cx - radius, cy - radius, cx + radius, cy + radius))
        if window is None or alpha <= 0.004:
            return
        rows, cols = window
        r2 = (self.xs[None, cols] - cx) ** 2 + (self.ys[rows, None] - cy) ** 2
        coverage = np.float32(alpha) * np.exp(-4.0 * r2 / radius**2)
        self._blend(rows, cols, coverage.astype(np.float32), color)

    def below(self, heights: np.ndarray, color: Color, alpha: float = 1.0) -> None:
        """Everything below a curve: heights [W] over `xs`."""
        inside = 0.5 - (self.ys[:, None] - heights[None, :]) / self.pixel
        self._blend(slice(None), slice(None), inside, color, alpha)

    def cover(self, coverage: np.ndarray, color: Color) -> None:
        """Paint the whole picture by a coverage [H, W] in 0..1."""
        self._blend(slice(None), slice(None), coverage, color)


def _edges(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    return list(zip(points, [*points[1:], points[0]], strict=True))
