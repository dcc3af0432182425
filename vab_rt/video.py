"""Reads a video file: one pass, one frame per visual tick, and the exact length at its end.

Time 0 is the timestamp of the first displayed frame, whatever the container counts from. A frame is
on display from its timestamp to the next frame's, so variable frame rates need no special case.
Interlaced frames are shown as they are stored, both fields at once.
"""

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from vab_rt.config import ClipConfig
from vab_rt.errors import MediaError, MediaWarning, OptionError
from vab_rt.file_object import VideoFile, video_file
from vab_rt.media import VideoInfo, examine, square_pixels
from vab_rt.seconds import check_part, exact_seconds, told_s
from vab_rt.source import Source, decode

Image: TypeAlias = NDArray[np.uint8]

# Every flag that makes swscale give the same bytes on every CPU.
SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
_NEAR_S = 5  # frames so far apart or more are each sought, not read up to
_CUT_SHORT = Fraction(1, 2)  # seconds missing before a file counts as cut short
_LONGEST_S = 1800  # that a frame is shown without anybody having said how long the sound is to be


def start_beyond_end(start: Fraction, end: Fraction) -> OptionError:
    return OptionError(
        f"start is {told_s(start)} s, expected less than the video's {told_s(end)} s; "
        "choose an earlier start"
    )


class Frame(NamedTuple):
    """What is on display at one visual tick."""

    image: Image
    """[frame_size, frame_size, 3], RGB"""
    large: Image | None = None
    """[image_size, image_size, 3] of one frame in `large_stride`, where the model has two sizes"""
    end_s: float | None = None
    """with the last frame alone: the exact length of the selection"""


@dataclass(frozen=True, init=False)
class Video:
    """A video file, or a part of it. Opened when it is first needed, and probed once.

    Raises OptionError for a start or a duration out of its range, and MediaError for a file object
    that is closed, cannot seek or is open as text; MediaError, and OptionError for a still without
    a duration or with a start, when it is opened.
    """

    path: VideoFile
    """the file: a path, its content as bytes, or a binary file object, which is read from its
    beginning, stays open, and is for one thread at a time"""
    start_s: float
    """where the part begins, counted from the first displayed frame"""
    duration_s: float | None
    """how long it is; None goes to the end. A still takes as long as this says"""

    def __init__(
        self,
        path: VideoFile | str | os.PathLike[str] | bytes | BinaryIO,
        start_s: float = 0.0,
        duration_s: float | None = None,
    ) -> None:
        start_s, duration_s = check_part(start_s, duration_s)
        self.__dict__.update(path=video_file(path), start_s=start_s, duration_s=duration_s)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, also those for other processes, open the file themselves."""
        return type(self), (self.path, self.start_s, self.duration_s)

    @cached_property
    def info(self) -> VideoInfo:
        """Facts of the whole file."""
        source = Source(self.path)
        info = examine(source)
        self.__dict__["_opened"] = source  # for the first that reads its frames
        return info

    @property
    def start(self) -> Fraction:
        return exact_seconds(self.start_s)

    @property
    def length(self) -> Fraction | None:
        return None if self.duration_s is None else exact_seconds(self.duration_s)

    @property
    def expected_s(self) -> float | None:
        """Length of the selection if the container tells the truth; None when it tells nothing."""
        length = None if self.length is None else float(self.length)
        if self.info.is_still or self.info.duration_s is None:
            return length
        left = max(0.0, self.info.duration_s - float(self.start))
        return left if length is None else min(length, left)

    def lead_s(self, seen_s: float) -> float:
        """Seconds before the start that `frames` begins with."""
        return float(self._around(exact_seconds(seen_s))[0])

    def frames(self, config: ClipConfig, seen_s: float = 0.0) -> Iterator[Frame]:
        """Number i is on display at (i + 0.5) / rate.

        The same image again while it stays on display. At least one, however short the selection.
        Nothing past the selection's end and what is seen of the time after it is decoded. seen_s:
        where the selection is shorter and the video has more around it, frames are of this many
        seconds with the selection in their middle. Raises MediaError, OptionError for a start
        beyond the end and a selection of less than a sample; warns MediaWarning. Without a duration
        a frame that stays for half an hour is a MediaError.
        """
        lead, trail = self._around(exact_seconds(seen_s))
        to_image = _image_maker(config.frame_size, self.info.pixel_aspect)
        to_large = _image_maker(config.image_size, self.info.pixel_aspect)
        rate, stride = Fraction(config.visual_rate_hz), config.large_stride
        num_ticks, until = 0, Fraction(0)
        held: Frame | None = None
        for shown, until in self._displayed(lead, trail):
            image = None
            while Fraction(2 * num_ticks + 1, 2) / rate < until:
                if held is not None:
                    yield held
                image = to_image(shown) if image is None else image
                is_large = stride and num_ticks % stride == 0
                held = Frame(image, to_large(shown) if is_large else None)
                num_ticks += 1
        if held is None:
            held = Frame(to_image(shown), to_large(shown) if stride else None)
        read = until - lead if self.length is None else min(until - lead, self.length)
        yield held._replace(end_s=_at_least_a_sample(read, config))

    def frames_at(self, times_s: Sequence[float]) -> Iterator[VideoFrame]:
        """What is on display at these seconds of the selection, which rise; the last frame also
        after it. Raises as `frames` does, but for a still; warns of nothing."""
        times = [self.start + exact_seconds(at) for at in times_s]
        if not times:
            return
        if self.info.is_still:
            times = [Fraction(0)] * len(times)
        is_near = all(later - at < _NEAR_S for at, later in pairwise(times))
        for group in [times] if is_near else [[at] for at in times]:
            yield from self._shown_at(group)

    def displayed(self) -> Iterator[tuple[VideoFrame, float, float]]:
        """Each frame of the selection as it is stored, and the seconds of the selection at which it
        comes and goes. Raises MediaError; warns of nothing."""
        stop = None if self.length is None else self.start + self.length
        for frame, begin, end in self._timed_frames(self.start, warn=False):
            if stop is not None and begin >= stop:
                return
            if end > self.start:
                yield frame, float(max(begin, self.start) - self.start), float(end - self.start)

    def _shown_at(self, times: list[Fraction]) -> Iterator[VideoFrame]:
        """The frames of these seconds of the video, in one pass."""
        waiting = list(reversed(times))
        shown, end = None, Fraction(0)
        with closing(self._timed_frames(times[0], warn=False)) as frames:
            for frame, begin, end in frames:
                while shown is not None and waiting and waiting[-1] < begin:
                    waiting.pop()
                    yield shown
                if not waiting:
                    return
                shown = frame
        assert shown is not None, "a frame of this file has been decoded before"
        if end <= self.start:
            raise start_beyond_end(self.start, end)
        yield from (shown for _ in waiting)

    def _check_still(self) -> None:
        if self.start:
            raise OptionError(
                f"start is {told_s(self.start)} s in {self.path}, a still, expected 0 as it has "
                "no time; leave the start out"
            )
        if self.length is None:
            raise OptionError(
                f"{self.path} is a still, which has no length, expected one for its sound; "
                "say how many seconds with --duration, or in Python duration_s"
            )

    def _around(self, seen: Fraction) -> tuple[Fraction, Fraction]:
        """Seconds to be seen before and after the selection, as far as the video has them."""
        if self.info.is_still:
            self._check_still()
        declared = self.info.duration_s
        if self.expected_s is None or self.info.is_still:
            return Fraction(0), Fraction(0)
        length = exact_seconds(self.expected_s)
        missing = max(Fraction(0), seen - length)
        after = Fraction(0)
        if self.length is not None and declared is not None:
            after = max(Fraction(0), exact_seconds(declared) - self.start - length)
        lead = min(self.start, max(missing / 2, missing - after))
        return lead, missing - lead if self.length is not None else Fraction(0)

    def _displayed(self, lead: Fraction, trail: Fraction) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Each frame that is seen, and when it leaves the display counted from the first."""
        start = self.start - lead
        stop = None if self.length is None else self.start + self.length + trail
        shown: VideoFrame | None = None
        since, end = start, Fraction(0)
        for frame, begin, end in self._timed_frames(start):
            if shown is not None and begin > start:
                self._check_hold(since, begin)
                yield shown, (begin if stop is None else min(begin, stop)) - start
                since = begin
            if stop is not None and begin >= stop and shown is not None:
                return
            shown = frame
        assert shown is not None, "a frame of this file has been decoded before"
        if self.info.is_still and stop is not None:
            yield shown, stop
            return
        if end <= self.start:
            raise start_beyond_end(self.start, end)
        self._warn_if_too_short(end)
        self._check_hold(since, end)
        yield shown, (end if stop is None else min(end, stop)) - start

    def _check_hold(self, begin: Fraction, end: Fraction) -> None:
        if self.length is None and end - begin > _LONGEST_S:
            raise MediaError(
                f"{self.path} shows one frame from {float(begin):.2f} to {float(end):.2f} s, "
                f"expected the next within {_LONGEST_S} s, as such times are mostly damage; say "
                "how many seconds of sound with --duration, or in Python duration_s"
            )

    def _timed_frames(
        self, start: Fraction, *, warn: bool = True
    ) -> Generator[tuple[VideoFrame, Fraction, Fraction], None, None]:
        """Decoded frames with begin and end in seconds of the video, from a key frame before."""
        zero, is_ordered = self.info.first_s, self.info.tells_order
        with closing(self.__dict__.pop("_opened", None) or Source(self.path)) as source:
            packets = source.packets_from(zero + start) if start > 0 else source.packets()
            found = decode(packets, source.stream, self.path, warn, is_ordered)
            for frame, begin, end in found:
                yield frame, begin - zero, end - zero

    def _warn_if_too_short(self, end: Fraction) -> None:
        declared = self.info.own_duration_s
        if declared is not None and end + _CUT_SHORT < exact_seconds(declared):
            message = f"{self.path} is cut short: {float(end):.2f} s of its {declared:.2f} s"
            warnings.warn(f"{message} could be read", MediaWarning, stacklevel=2)
        elif self.length is not None and end + _CUT_SHORT < self.start + self.length:
            asked_s = float(self.start + self.length)
            message = f"{self.path} ends at {float(end):.2f} s, and so does the sound"
            warnings.warn(f"{message}: asked for up to {asked_s:.2f} s", MediaWarning, stacklevel=2)


VideoLike: TypeAlias = Video | VideoFile | str | os.PathLike[str] | bytes | BinaryIO


def as_video(video: VideoLike) -> Video:
    """The whole of a file, or the Video that is given. Raises MediaError as Video does."""
    return video if isinstance(video, Video) else Video(video)


def read_frames(video: Video, config: ClipConfig) -> tuple[list[Image], float]:
    """All frames of a selection that fits in memory, and its exact length in seconds."""
    frames = list(video.frames(config))
    return [frame.image for frame in frames], frames[-1].end_s or 0.0


def _at_least_a_sample(length: Fraction, config: ClipConfig) -> float:
    if config.samples_in(float(length)) < 1:
        raise OptionError(
            f"the selection is {told_s(length)} s long, expected at least one sample, "
            f"1/{config.sample_rate_hz} s; choose an earlier start or a longer duration"
        )
    return float(length)


def _image_maker(size: int, aspect: Fraction) -> Callable[[VideoFrame], Image]:
    """Shortest side to `size` (bicubic), centre crop: the transform CLIP was trained with."""
    reformatter = VideoReformatter()  # one for all frames: each holds megabytes

    def to_image(frame: VideoFrame) -> Image:
        width, height = square_pixels(frame, aspect)
        short = min(width, height)
        scaled = reformatter.reformat(
            frame,
            width=size * width // short,
            height=size * height // short,
            format="rgb24",
            interpolation=SCALING,
            threads=1,
        )
        image = scaled.to_ndarray()  # [h, w, 3]
        top, left = (round((side - size) / 2) for side in image.shape[:2])
        image = image[top : top + size, left : left + size]
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns), dtype=np.uint8)

    return to_image
