"""What stands behind and beside the action: backgrounds and still, silent shapes."""

from dataclasses import dataclass

import numpy as np

from training.foleyworld.pictures import Canvas, Color, View, mix

KINDS = ("plain", "outdoors", "hills", "bricks", "stripes")


@dataclass(frozen=True)
class Shape:
    """A silent distractor."""

    form: str
    x: float
    y: float
    size: float
    color: Color


@dataclass(frozen=True)
class Still:
    """A painted backdrop as seen from a resting camera, larger than the picture."""

    canvas: Canvas
    rest: View

    def look(self, target: Canvas, view: View) -> None:
        """Fill the target's image with what another view shows of it, by bilinear sampling."""
        if view == self.rest:
            edge = (len(self.canvas.ys) - len(target.ys)) // 2
            target.image[:] = self.canvas.image[:, edge:-edge, edge:-edge]
            return
        ratio = self.rest.zoom / view.zoom
        shift = ((view.x - self.rest.x) * self.rest.zoom, (view.y - self.rest.y) * self.rest.zoom)
        rows = (self.canvas.ys[0] - (target.ys * ratio + shift[1])) / target.pixel
        cols = (target.xs * ratio + shift[0] - self.canvas.xs[0]) / target.pixel
        r, c = rows.astype(np.int64), cols.astype(np.int64)
        down, right = (rows - r)[:, None], cols - c
        image = self.canvas.image
        upper, lower = image[:, r], image[:, r + 1]
        strip = upper + (lower - upper) * down
        start, end = strip[:, :, c], strip[:, :, c + 1]
        target.image[:] = start + (end - start) * right


@dataclass(frozen=True)
class Backdrop:
    kind: str
    top: Color
    bottom: Color
    floor: Color
    horizon: float
    shapes: tuple[Shape, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Backdrop":
        top, bottom, floor = _muted(rng), _muted(rng), _muted(rng)
        horizon = float(rng.uniform(-0.35, 0.15))
        shapes = tuple(_draw_shape(rng, horizon) for _ in range(int(rng.integers(0, 7))))
        return cls(str(rng.choice(KINDS)), top, bottom, floor, horizon, shapes)

    @property
    def haze(self) -> Color:
        return mix(self.bottom, self.floor, 0.3)

    def paint(self, canvas: Canvas) -> None:
        xs, ys = canvas.xs, canvas.ys
        rise = np.clip((ys - self.horizon) / (1.2 - self.horizon), 0, 1)[:, None]
        low, high = (
            np.asarray(color, np.float32)[:, None, None] for color in (self.bottom, self.top)
        )
        canvas.image[:] = low + (high - low) * rise
        if self.kind == "hills":
            hills = self.horizon + 0.22 + 0.12 * np.sin(2.3 * xs + 40 * self.horizon)
            canvas.below(hills.astype(np.float32), mix(self.floor, self.bottom, 0.45))
        elif self.kind == "bricks":
            self._paint_bricks(canvas)
        elif self.kind == "stripes":
            wave = (xs[None, :] / 0.3) % 1.0 < 0.5
            stripes = np.broadcast_to(wave * np.float32(0.18), (len(ys), len(xs)))
            canvas.cover(stripes.astype(np.float32), (255, 255, 255))
        elif self.kind == "outdoors":
            canvas.circle((0.75 + self.horizon, 0.72), 0.14, (250, 240, 190), 0.9)
        floor = np.full(len(xs), self.horizon, np.float32)
        canvas.below(floor, self.floor)
        shade = np.clip((self.horizon - ys) / 1.2, 0, 1)[:, None] * np.ones(len(xs))
        canvas.cover((0.22 * shade).astype(np.float32), (20, 20, 24))
        for shape in self.shapes:
            _paint_shape(canvas, shape)

    def still(self, rest: View, width: int, height: int) -> "Still":
        """Painted once, with a margin for what the camera's drift will show."""
        edge = 2 + max(width, height) // 16
        canvas = Canvas.blank(width + 2 * edge, height + 2 * edge, 2.0 / height)
        self.paint(canvas.through(rest))
        return Still(canvas, rest)

    def _paint_bricks(self, canvas: Canvas) -> None:
        row = np.floor(canvas.ys / 0.16)
        in_row = (canvas.ys / 0.16 - row) < 0.14
        shift = (row % 2) * 0.5
        in_column = ((canvas.xs[None, :] / 0.36 + shift[:, None]) % 1.0) < 0.07
        mortar = (in_row[:, None] | in_column).astype(np.float32) * np.float32(0.3)
        canvas.cover(mortar, (60, 56, 54))


def _muted(rng: np.random.Generator) -> Color:
    grey = rng.uniform(55, 205)
    r, g, b = np.clip(grey + rng.uniform(-28, 28, 3), 0, 255).tolist()
    return r, g, b


def _draw_shape(rng: np.random.Generator, horizon: float) -> Shape:
    size = float(rng.uniform(0.08, 0.26))
    side = float(rng.choice([-1.0, 1.0]))
    x = side * float(rng.uniform(0.45, 1.8))
    y = horizon + float(rng.uniform(-0.25, 0.9))
    form = str(rng.choice(["circle", "box", "triangle", "post"]))
    r, g, b = rng.uniform(40, 220, 3).tolist()
    return Shape(form, x, y, size, mix((r, g, b), (128, 128, 128), 0.35))


def _paint_shape(canvas: Canvas, shape: Shape) -> None:
    x, y, size = shape.x, shape.y, shape.size
    if shape.form == "circle":
        canvas.circle((x, y), size, shape.color)
    elif shape.form == "box":
        canvas.box((x - size, y - 0.7 * size), (x + size, y + 0.7 * size), shape.color)
    elif shape.form == "triangle":
        corners = [(x - size, y - 0.8 * size), (x + size, y - 0.8 * size), (x, y + size)]
        canvas.polygon(corners, shape.color)
    else:
        canvas.box((x - 0.2 * size, y - 2 * size), (x + 0.2 * size, y + 2 * size), shape.color)
