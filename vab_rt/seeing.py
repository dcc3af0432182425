"""Frames to visual features: one stream of images, and one of motion where the model has it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from vab_rt.config import MOTION_FRAMES, ClipConfig, ModelConfig
from vab_rt.engines import Engine
from vab_rt.threads import Helpers
from vab_rt.windows import Seen

if TYPE_CHECKING:  # features can do without the library that reads videos
    from vab_rt.video import Frame, Image

FRAMES_PER_BATCH = 8
FRAMES_AHEAD = 50

T = TypeVar("T")

Feature = npt.NDArray[np.float32]


def ahead(items: Iterator[T], threads: Helpers | None, count: int) -> Iterator[T]:
    """The same items; while some are used a thread makes the next, at most `count`."""
    if threads is None:
        yield from items
        return
    made: deque[T] = deque()
    most = count

    def make() -> bool:
        """Whether there may be more."""
        for item in items:
            made.append(item)
            if len(made) >= most:
                return True
        return False

    making = threads.begin(make)
    try:
        while True:
            if not made:
                most = count // 4  # that is worth the change of threads
                if not making.result() and not made:
                    return
                most = count
            if making.is_done and making.result() and 2 * len(made) < count:
                making = threads.begin(make)
            if made:
                yield made.popleft()
    finally:
        most = 0
        making.wait()


def see_all(
    frames: "Iterator[Frame]", see: "Callable[[Iterator[Frame]], Iterator[Feature]]"
) -> Iterator[Seen]:
    """Features of a video's frames, one each; the length that comes with the last stays with it."""
    ends: deque[float | None] = deque()

    def noted() -> "Iterator[Frame]":
        for frame in frames:
            ends.append(frame.end_s)
            yield frame

    for feature in see(noted()):
        yield Seen(feature, ends.popleft())


def as_frames(
    images: "Iterable[Image]", large: "Iterable[Image]" = (), stride: int = 1
) -> "Iterator[Frame]":
    """Images [frame_size, frame_size, 3], and [image_size, image_size, 3] of one in `stride` where
    the model has two sizes, as a video gives them."""
    from vab_rt.video import Frame

    rest = iter(large)
    for i, image in enumerate(images):
        yield Frame(image, next(rest, None) if i % stride == 0 else None)


def encode_images(frames: "Iterator[Frame]", visual_encoder: Engine) -> Iterator[Feature]:
    """Features [visual_dim] of frames, a few at a time."""
    while batch := [frame.image for frame in islice(frames, FRAMES_PER_BATCH)]:
        yield from visual_encoder(frames=np.stack(batch))  # [N, visual_dim]


def encode_two_streams(
    frames: "Iterator[Frame]", visual_encoder: Engine, motion_encoder: Engine, config: ModelConfig
) -> Iterator[Feature]:
    """The same with motion: each feature [visual_dim] is of the latest image that the image encoder
    saw, one in `image_stride`, and of the motion around its own frame."""
    c = config
    large: deque[Image] = deque()

    def small() -> "Iterator[Image]":
        for frame in frames:
            if frame.large is not None:
                large.append(frame.large)
            yield frame.image

    for run, count in runs(small(), c.motion_reach):
        seen = run[c.motion_reach : c.motion_reach + count : c.image_stride]
        if c.large_stride:
            seen = np.stack([large.popleft() for _ in seen])
        images = np.repeat(visual_encoder(frames=seen), c.image_stride, axis=0)[:count]
        motion = motion_encoder(frames=run[None])[0, :count]
        yield from np.concatenate([images, motion], axis=1)  # [count, visual_dim]


def kinds_seen(features: npt.NDArray[np.float32], config: ClipConfig) -> dict[str, float]:
    """The probability of each kind on average over features [F, visual_dim], the likeliest first;
    empty of a model without kinds."""
    names = config.kind_names
    mean = features[:, : len(names)].mean(0, dtype=np.float64)
    return {names[i]: float(mean[i]) for i in np.argsort(-mean, kind="stable")}


def given_kinds(
    features: npt.NDArray[np.float32], kinds: tuple[str, ...], config: ModelConfig
) -> npt.NDArray[np.float32]:
    """Features [F, visual_dim] as of images of these kinds, equally likely; motion stays."""
    if not kinds:
        return features
    given = features.copy()
    given[:, : config.image_dim] = 0
    for kind in kinds:
        given[:, config.kinds.index(kind)] += np.float32(1 / len(kinds))
    return given


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
