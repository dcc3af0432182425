"""Reads a video file: one pass, one picture per visual tick, and the exact length at its end.

Time 0 is the timestamp of the first displayed frame, whatever the container counts from. A frame is
on display from its timestamp to the next frame's, so variable frame rates need no special case.
Interlaced frames are shown as they are stored, both fields at once.
"""

import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from vab_rt.config import ClipConfig
from vab_rt.errors import MediaWarning, OptionError
from vab_rt.media import decode, open_video, probe, seek, seek_lands_before, square_pixels

# Every flag that makes swscale give the same bytes on every processor.
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
_CUT_SHORT = Fraction(1, 2)  # seconds missing before a file counts as cut short


def exact_seconds(seconds: float) -> Fraction:
    """Seconds as typed, to the microsecond: 3.2 is 16/5, as a frame's timestamp would be."""
    return Fraction(round(seconds * 1_000_000), 1_000_000)


def start_beyond_end(start: Fraction, end: Fraction) -> OptionError:
    return OptionError(
        f"start is {float(start):g} s, expected less than the video's {float(end):g} s; "
        "choose an earlier start"
    )


class VideoReader:
    """The pictures of one selection of a video, and its length once they have been read.

    seen_s: where the selection is shorter and the video has more around it, pictures are of this
    many seconds with the selection in their middle. A still takes as long as duration_s says.
    Raises MediaError, and OptionError for a still without duration_s or with a start.
    """

    def __init__(
        self,
        path: str | Path,
        config: ClipConfig,
        start_s: float = 0.0,
        duration_s: float | None = None,
        seen_s: float = 0.0,
    ) -> None:
        self.path = Path(path)
        self.info = probe(self.path)
        self._size = config.image_size
        self._rate = Fraction(config.visual_rate_hz)
        self._start = exact_seconds(start_s)
        self._length = None if duration_s is None else exact_seconds(duration_s)
        self._read: Fraction | None = None
        if self.info.is_still:
            self._check_still()
        self._lead, self._trail = self._around(exact_seconds(seen_s))

    @property
    def lead_s(self) -> float:
        """Seconds before the start that the pictures begin with."""
        return float(self._lead)

    @property
    def expected_s(self) -> float | None:
        """Length of the selection if the container tells the truth; None when it tells nothing."""
        if self.info.is_still:
            return float(self._length or 0)
        declared = self.info.duration_s
        left = None if declared is None else max(0.0, declared - float(self._start))
        if self._length is None:
            return left
        return float(self._length) if left is None else min(float(self._length), left)

    @property
    def duration_s(self) -> float:
        """Exact length of the selection, from `start_s` to the end of its last frame."""
        assert self._read is not None, "read every frame before asking for the exact duration"
        return float(self._read)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Pictures [image_size, image_size, 3], RGB: number i is on display at (i + 0.5) / rate.

        The same object again while a frame stays on display. At least one picture, however short
        the selection. Nothing past the selection's end and what is seen of the time after it is
        decoded. Raises MediaError, OptionError for a start beyond the end; warns MediaWarning.
        """
        to_picture = _picture_maker(self._size, self.info.pixel_aspect)
        num_ticks, until = 0, Fraction(0)
        picture: NDArray[np.uint8] | None = None
        for frame, until in self._displayed():
            picture = None
            while Fraction(2 * num_ticks + 1, 2) / self._rate < until:
                picture = to_picture(frame) if picture is None else picture
                yield picture
                num_ticks += 1
        if num_ticks == 0:
            yield to_picture(frame)
        self._read = until - self._lead
        if self._length is not None:
            self._read = min(self._read, self._length)

    def _check_still(self) -> None:
        if self._start:
            raise OptionError(
                f"start is {float(self._start):g} s in {self.path}, a still, expected 0 as it has "
                "no time; leave the start out"
            )
        if self._length is None:
            raise OptionError(
                f"{self.path} is a still, which has no length, expected one for its sound; "
                "say how many seconds with --duration (duration_s)"
            )

    def _around(self, seen: Fraction) -> tuple[Fraction, Fraction]:
        """Seconds to be seen before and after the selection, as far as the video has them."""
        if self.expected_s is None or self.info.is_still:
            return Fraction(0), Fraction(0)
        length, declared = exact_seconds(self.expected_s), self.info.duration_s
        missing = max(Fraction(0), seen - length)
        after = Fraction(0)
        if self._length is not None and declared is not None:
            after = max(Fraction(0), exact_seconds(declared) - self._start - length)
        lead = min(self._start, max(missing / 2, missing - after))
        return lead, missing - lead if self._length is not None else Fraction(0)

    def _displayed(self) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Each frame that is seen, and when it leaves the display counted from the first."""
        start = self._start - self._lead
        stop = None if self._length is None else self._start + self._length + self._trail
        shown: VideoFrame | None = None
        end = Fraction(0)
        for frame, begin, end in self._timed_frames():
            if shown is not None and begin > start:
                yield shown, (begin if stop is None else min(begin, stop)) - start
            if stop is not None and begin >= stop and shown is not None:
                return
            shown = frame
        assert shown is not None, "probe has decoded a frame of this file"
        if self.info.is_still and stop is not None:
            yield shown, stop
            return
        if end <= self._start:
            raise start_beyond_end(self._start, end)
        self._warn_if_cut_short(end)
        yield shown, (end if stop is None else min(end, stop)) - start

    def _timed_frames(self) -> Iterator[tuple[VideoFrame, Fraction, Fraction]]:
        """Decoded frames with begin and end in seconds of the video, from the start's key frame."""
        start = self._start - self._lead
        begin_s = self.info.first_s + start
        can_seek = start > 0 and seek_lands_before(self.path, begin_s)
        with open_video(self.path) as (container, stream):
            if can_seek:
                seek(container, stream, begin_s)
            found = decode(container, stream, self.path, tells_order=self.info.tells_order)
            for frame, begin, end in found:
                yield frame, begin - self.info.first_s, end - self.info.first_s

    def _warn_if_cut_short(self, end: Fraction) -> None:
        declared = self.info.own_duration_s
        if declared is not None and end + _CUT_SHORT < exact_seconds(declared):
            message = f"{self.path} is cut short: {float(end):.2f} s of its {declared:.2f} s"
            warnings.warn(f"{message} could be read", MediaWarning, stacklevel=2)


def _picture_maker(size: int, aspect: Fraction) -> Callable[[VideoFrame], NDArray[np.uint8]]:
    """Shortest side to `size` (bicubic), centre crop: the transform CLIP was trained with."""
    reformatter = VideoReformatter()  # one for all frames: each holds megabytes

    def to_picture(frame: VideoFrame) -> NDArray[np.uint8]:
        width, height = square_pixels(frame, aspect)
        short = min(width, height)
        scaled = reformatter.reformat(
            frame,
            width=size * width // short,
            height=size * height // short,
            format="rgb24",
            interpolation=_SCALING,
            threads=1,
        )
        image = scaled.to_ndarray()  # [h, w, 3]
        top, left = (round((side - size) / 2) for side in image.shape[:2])
        image = image[top : top + size, left : left + size]
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(image, turns), dtype=np.uint8)

    return to_picture
