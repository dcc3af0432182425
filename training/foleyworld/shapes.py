"""The shapes that a film paints: the box around each, and how far inside it a pixel lies."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """Values [N, n] to the box around all N, and to how far inside pixels lie, in pixels.

    0.5 inside is the middle of the edge; the result is a fresh float32 [N, h, w].
    """

    bounds: Callable[[np.ndarray], tuple[float, float, float, float]]
    inside: Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]


def _around(values: np.ndarray, rx: np.ndarray, ry: np.ndarray) -> tuple[float, ...]:
    x, y = values[:, 0], values[:, 1]
    return (
        float((x - rx).min()),
        float((y - ry).min()),
        float((x + rx).max()),
        float((y + ry).max()),
    )


def _ellipse(values: np.ndarray, xs: np.ndarray, ys: np.ndarray, pixel: float) -> np.ndarray:
    cx, cy, rx, ry = values.T[:, :, None]  # [N, 1]
    x, y = (xs - cx) / rx, (ys - cy) / ry
    out = np.sqrt((x * x)[:, None, :] + (y * y)[:, :, None])
    unit = np.minimum(rx, ry)[..., None] / np.float32(pixel)
    out *= -unit
    out += unit + np.float32(0.5)
    return out


def _ring(values: np.ndarray, xs: np.ndarray, ys: np.ndarray, pixel: float) -> np.ndarray:
    cx, cy, radius, half = values.T[:, :, None, None]
    out = np.sqrt((xs - cx) ** 2 + (ys[:, None] - cy) ** 2)
    return (half - np.abs(out - radius)) / np.float32(pixel) + np.float32(0.5)


def _line(values: np.ndarray, xs: np.ndarray, ys: np.ndarray, pixel: float) -> np.ndarray:
    """By coordinates along and across the segment, from its middle."""
    ax, ay, bx, by, half = values.T[:, :, None, None]
    x, y = xs - 0.5 * (ax + bx), ys[:, None] - 0.5 * (ay + by)
    dx, dy = bx - ax, by - ay
    length = np.sqrt(dx * dx + dy * dy) + np.float32(1e-6)
    dx, dy = dx / length, dy / length
    along, across = x * dx + y * dy, x * dy - y * dx
    np.abs(along, out=along)
    along -= 0.5 * length
    np.maximum(along, 0.0, out=along)
    along *= along
    across *= across
    along += across
    out = np.sqrt(along, out=along)
    out *= np.float32(-1.0 / pixel)
    out += half / np.float32(pixel) + np.float32(0.5)
    return out


def _line_bounds(values: np.ndarray) -> tuple[float, float, float, float]:
    half, ends = values[:, 4:], values[:, :4].reshape(-1, 2, 2)
    low, high = (ends.min(axis=1) - half).min(axis=0), (ends.max(axis=1) + half).max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _box(values: np.ndarray, xs: np.ndarray, ys: np.ndarray, pixel: float) -> np.ndarray:
    x0, y0, x1, y1 = values.T[:, :, None]
    x = 0.5 * (x1 - x0) - np.abs(xs - 0.5 * (x0 + x1))
    y = 0.5 * (y1 - y0) - np.abs(ys - 0.5 * (y0 + y1))
    out = np.minimum(x[:, None, :], y[:, :, None])
    out *= np.float32(1.0 / pixel)
    out += np.float32(0.5)
    return out


def _polygon(values: np.ndarray, xs: np.ndarray, ys: np.ndarray, pixel: float) -> np.ndarray:
    """The least of the distances from the edges."""
    corners = values.reshape(len(values), -1, 2)
    after = np.roll(corners, -1, axis=1)
    turn = (corners[..., 0] * after[..., 1] - after[..., 0] * corners[..., 1]).sum(axis=1)
    dx, dy = (after - corners).transpose(2, 1, 0)  # [edges, N]
    norm = np.where(turn < 0, -1.0, 1.0) / ((np.hypot(dx, dy) + 1e-9) * pixel)
    px, py = (norm * dy).astype(np.float32), (norm * dx).astype(np.float32)
    offset = px * corners[..., 0].T - py * corners[..., 1].T + np.float32(0.5)
    out: np.ndarray | None = None
    for a, b, c in zip(px, py, offset, strict=True):
        x, y = c[:, None] - a[:, None] * xs, b[:, None] * ys
        side = x[:, None, :] + y[:, :, None]
        out = side if out is None else np.minimum(out, side, out=out)
    assert out is not None
    return out


def _polygon_bounds(values: np.ndarray) -> tuple[float, float, float, float]:
    x, y = values[:, 0::2], values[:, 1::2]
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def _glow(values: np.ndarray, xs: np.ndarray, ys: np.ndarray, pixel: float) -> np.ndarray:
    cx, cy, radius = values.T[:, :, None, None]
    r2 = (xs - cx) ** 2 + (ys[:, None] - cy) ** 2
    return np.exp(-4.0 * r2 / radius**2)


SHAPES: dict[str, Shape] = {
    "ellipse": Shape(lambda v: _around(v, v[:, 2], v[:, 3]), _ellipse),
    "ring": Shape(lambda v: _around(v, v[:, 2] + v[:, 3], v[:, 2] + v[:, 3]), _ring),
    "line": Shape(_line_bounds, _line),
    "box": Shape(_polygon_bounds, _box),
    "polygon": Shape(_polygon_bounds, _polygon),
    "glow": Shape(lambda v: _around(v, v[:, 2], v[:, 2]), _glow),
}
