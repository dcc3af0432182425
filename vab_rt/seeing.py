"""Frames to visual features: one stream of images, and one of motion where the model has it."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vab_rt.config import MOTION_FRAMES, ModelConfig
from vab_rt.engines import Engine
from vab_rt.windows import Seen

if TYPE_CHECKING:  # features can do without the library that reads videos
    from vab_rt.video import Frame, Image

FRAMES_PER_BATCH = 8

Feature = npt.NDArray[np.float32]


def see_all(
    frames: "Iterator[Frame]", see: "Callable[[Iterator[Image]], Iterator[Feature]]"
) -> Iterator[Seen]:
    """Features of a video's frames, one each; the length that comes with the last stays with it."""
    ends: deque[float | None] = deque()

    def images() -> "Iterator[Image]":
        for image, end_s in frames:
            ends.append(end_s)
            yield image

    for feature in see(images()):
        yield Seen(feature, ends.popleft())


def encode_images(frames: "Iterator[Image]", visual_encoder: Engine) -> Iterator[Feature]:
    """Features [visual_dim] of frames [image_size, image_size, 3], a few at a time."""
    while batch := list(islice(frames, FRAMES_PER_BATCH)):
        yield from visual_encoder(frames=np.stack(batch))  # [N, visual_dim]


def encode_two_streams(
    frames: "Iterator[Image]", visual_encoder: Engine, motion_encoder: Engine, config: ModelConfig
) -> Iterator[Feature]:
    """The same with motion: each feature [visual_dim] is of the latest image that the image encoder
    saw, one in `image_stride`, and of the motion around its own frame."""
    c = config
    for run, count in runs(frames, c.motion_reach):
        seen = run[c.motion_reach : c.motion_reach + count : c.image_stride]
        images = np.repeat(visual_encoder(frames=seen), c.image_stride, axis=0)[:count]
        motion = motion_encoder(frames=run[None])[0, :count]
        yield from np.concatenate([images, motion], axis=1)  # [count, visual_dim]


def runs(frames: "Iterator[Image]", reach: int) -> Iterator[tuple[npt.NDArray[np.uint8], int]]:
    """MOTION_FRAMES frames and `reach` before and after them, and how many are of the video.

    Before its first frame and after its last these stand still.
    """
    length = MOTION_FRAMES + reach
    ahead = list(islice(frames, length))
    before = ahead[:1] * reach
    while ahead:
        ahead += islice(frames, length - len(ahead))
        count = min(len(ahead), MOTION_FRAMES)
        run = before + ahead
        yield np.stack(run + run[-1:] * (length + reach - len(run))), count
        before, ahead = run[count : count + reach], ahead[count:]
