"""Still pictures that move: films of them by affine maps, at any size.

A film is a few shots; a shot is a few layers, from back to front, and the light on them. Positions
are as FoleyWorld's: the frame spans [-1, 1]^2, y up.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import av
import av.error
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.foleyworld.stage import Curve
from vab_rt.errors import MediaError

SIDE = 256
"""Pixels of a picture's shorter side as it is kept."""
LONGEST = 2.0
"""The largest ratio of the longer side to the shorter; what is longer is cut at both ends."""

Times = NDArray[np.float64]


class Pose(NamedTuple):
    """The pose of a layer at some times, [F] each or one number: its centre, half its width and
    height, and how far it is turned, in radians."""

    x: Times | float
    y: Times | float
    width: Times | float
    height: Times | float
    angle: Times | float = 0.0


class Layer(NamedTuple):
    """levels: a picture, and halves of it; see `read_picture`. whole: it fills the frame."""

    levels: tuple[Tensor, ...]
    pose: Callable[[Times], Pose]
    shape: Literal["whole", "disc", "box"] = "whole"


class Shot(NamedTuple):
    """Layers as they are seen from start_s until the next shot; light: factors [F] of times [F]."""

    start_s: float
    layers: tuple[Layer, ...]
    light: Callable[[Times], Times]


def read_picture(path: Path) -> tuple[Tensor, ...]:
    """RGB uint8 [3, H, W] with a shorter side of SIDE, then halved until it is small. Raises
    MediaError."""
    image = _decoded(path)
    longest = round(LONGEST * SIDE)
    top, left = (max(0, (side - longest) // 2) for side in image.shape[:2])
    cut = image[top : top + longest, left : left + longest]
    levels = [torch.from_numpy(np.ascontiguousarray(cut.transpose(2, 0, 1)))]
    while min(levels[-1].shape[1:]) > 32:
        halved = F.avg_pool2d(levels[-1].float(), 2)
        levels.append(halved.round().to(torch.uint8))
    return tuple(levels)


def _decoded(path: Path) -> NDArray[np.uint8]:
    """[H, W, 3] as displayed, the shorter of both SIDE."""
    try:
        with av.open(path) as container:
            frame = next(container.decode(video=0))
            ratio = SIDE / min(frame.width, frame.height)
            width, height = (max(SIDE, round(ratio * x)) for x in (frame.width, frame.height))
            scaled = frame.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
            return np.rot90(scaled, round(frame.rotation / 90) % 4)  # as cameras were held
    except (av.error.FFmpegError, StopIteration, IndexError, ValueError) as error:
        raise MediaError(
            f"{path} cannot be read ({error}), expected a picture; copy it again, or leave it out"
        ) from error


def aspect(levels: tuple[Tensor, ...]) -> float:
    return levels[0].shape[2] / levels[0].shape[1]


def film(shots: Sequence[Shot], times_s: Times, size: int) -> NDArray[np.uint8]:
    """Frames [F, size, size, 3] at the given times."""
    frames = np.empty((len(times_s), size, size, 3), np.uint8)
    ends = [shot.start_s for shot in shots[1:]] + [np.inf]
    for shot, end_s in zip(shots, ends, strict=True):
        during = (times_s >= shot.start_s) & (times_s < end_s)
        if during.any():
            frames[during] = _shot(shot, times_s[during], size)
    return frames


def _shot(shot: Shot, times_s: Times, size: int) -> NDArray[np.uint8]:
    images = torch.zeros(len(times_s), 3, size, size)
    for layer in shot.layers:
        _paint(images, layer, times_s)
    light = torch.from_numpy(shot.light(times_s).astype(np.float32))
    lit = images.mul_(light[:, None, None, None]).add_(0.5).clamp_(0, 255).to(torch.uint8)
    return lit.permute(0, 2, 3, 1).numpy()


def _paint(images: Tensor, layer: Layer, times_s: Times) -> None:
    """Over images [F, 3, size, size], which change."""
    count, size = len(images), images.shape[2]
    pose = Pose(*(np.broadcast_to(np.asarray(x, float), count) for x in layer.pose(times_s)))
    shown = pose.height.max() * size  # pixels
    small = next((x for x in layer.levels[::-1] if x.shape[1] >= shown), layer.levels[0])
    inner = _inner(pose, size)  # [F, 2, size, size]: where in the layer a pixel lies
    picture = small.float()[None].expand(count, -1, -1, -1)
    seen = F.grid_sample(
        picture, inner.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )
    if layer.shape == "whole":
        images.copy_(seen)
        return
    away = inner.square().sum(1).sqrt() if layer.shape == "disc" else inner.abs().amax(1)
    half = torch.from_numpy(np.minimum(pose.width, pose.height).astype(np.float32) * size / 2)
    coverage = ((1 - away) * half[:, None, None] + 0.5).clamp(0, 1)[:, None]
    images.lerp_(seen, coverage)


def _inner(pose: Pose, size: int) -> Tensor:
    """Coordinates of the pixels within the layer, -1 to 1 across it, y down [F, 2, size, size]."""
    axis = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    columns = np.stack([cos / pose.width, sin / pose.height], 1)
    rows = np.stack([-sin / pose.width, cos / pose.height], 1)  # y is down here
    offset = columns * -pose.x[:, None] + rows * pose.y[:, None]
    by_column, by_row, at = (
        torch.from_numpy(x.astype(np.float32)) for x in (columns, rows, offset)
    )
    across, down = torch.from_numpy(axis), torch.from_numpy(axis)
    inner = by_column[:, :, None, None] * across + by_row[:, :, None, None] * down[:, None]
    return inner.add_(at[:, :, None, None])


def wandering_view(
    levels: tuple[Tensor, ...], random: np.random.Generator, reach: float = 0.3, shake: float = 0.0
) -> Callable[[Times], Pose]:
    """A picture that fills the frame while a camera pans and zooms over it, and shakes a little."""
    ratio = aspect(levels)
    least = 1 / min(1.0, ratio)  # half the height at which it just fills the frame
    middle = 1 + reach * random.uniform(0.2, 1.0)
    zoom = Curve.wander(random, middle - 0.4 * (middle - 1), middle, (2.5, 6.0))
    pan, tilt = (Curve.wander(random, *sorted(random.uniform(-1, 1, 2)), (2.5, 6.0)) for _ in "xy")
    hz, phase = random.uniform(0.5, 3.0, (2, 2)), random.uniform(0, 2 * np.pi, (2, 2))

    def pose(times_s: Times) -> Pose:
        height = least * np.asarray(zoom(times_s))
        width = height * ratio
        waves = np.sin(2 * np.pi * hz[:, :, None] * times_s + phase[:, :, None]).sum(1)  # [2, F]
        ways = np.stack([pan(times_s), tilt(times_s)]) + shake * waves
        x, y = ways.clip(-1, 1) * (np.stack([width, height]) - 1)
        return Pose(x, y, width, height)

    return pose


def striking(
    levels: tuple[Tensor, ...],
    random: np.random.Generator,
    level: Callable[[float], float],
    jolt: Callable[[float], float],
    place: tuple[float, float, float],
) -> Callable[[Times], Pose]:
    """A thing that rises with `level` (0 to 1 by time), and gives way with `jolt` when it strikes.

    place: where it rests, x and y, and half its height. It falls, swings about a far grip, or
    leans and grows, as is drawn.
    """
    ratio, (x, y, height) = min(1.5, aspect(levels)), place
    way = str(random.choice(["fall", "swing", "lean"]))
    side, soft = float(random.choice([-1, 1])), float(random.uniform(0.03, 0.3))
    reach = float(random.uniform(0.45, 0.9)) * min(1.0, 1.6 - height)
    turn = side * float(random.uniform(0.5, 1.1))
    grip = float(random.uniform(1.2, 2.0)) * height

    def pose(times_s: Times) -> Pose:
        up = np.array([level(t) for t in times_s.tolist()])
        flat = soft * np.array([jolt(t) for t in times_s.tolist()])
        tall, wide = height * (1 - flat), ratio * height * (1 + 0.7 * flat)
        if way == "fall":
            return Pose(x, y + reach * up - height * flat, wide, tall)
        if way == "swing":
            angle = turn * up
            moved_x = x + side * grip * (1 - np.cos(angle))
            return Pose(moved_x, y + grip * np.abs(np.sin(angle)), wide, tall, -angle)
        grown = 1 + 0.35 * flat / soft - 0.2 * up
        return Pose(x + side * 0.3 * up, y + 0.15 * up, wide * grown, tall * grown, 0.4 * turn * up)

    return pose


def crossing(random: np.random.Generator, height: float, ratio: float) -> Callable[[Times], Pose]:
    """Something that travels through the frame in uneven steps, and makes no sound."""
    side = float(random.choice([-1, 1]))
    knots = np.sort(random.uniform(0, 10, 4))
    ways = np.sort(random.uniform(0, 1, 4))
    ways[2] = ways[1]  # it halts
    path = Curve((0.0, *knots.tolist(), 10.0), (0.0, *ways.tolist(), 1.0))
    y, turn = float(random.uniform(-0.7, 0.8)), float(random.uniform(-2, 2))

    def pose(times_s: Times) -> Pose:
        way = np.asarray(path(times_s))
        return Pose(side * (2.6 * way - 1.3), y, height * ratio, height, turn * way)

    return pose


def wandering_light(random: np.random.Generator) -> Callable[[Times], Times]:
    """Slow changes of exposure, and flicker as FoleyWorld has it."""
    slow = Curve.wander(random, *sorted(random.uniform(0.75, 1.15, 2)), (1.5, 5.0))
    hz, phase = random.uniform(6, 12, 3), random.uniform(0, 2 * np.pi, 3)

    def light(times_s: Times) -> Times:
        waves = np.sin(2 * np.pi * times_s[:, None] * hz + phase).sum(1)
        return np.asarray(slow(times_s)) * (1 + 0.005 * waves)

    return light
