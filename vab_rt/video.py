"""Reads a video file: one pass, one picture per visual tick, and the exact length at its end.

Time 0 is the timestamp of the first displayed frame, whatever the container counts from. A frame is
on display from its timestamp to the next frame's, so variable frame rates need no special case.
Interlaced frames are shown as they are stored, both fields at once.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import av.error
import msgspec
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from vab_rt.config import ModelConfig
from vab_rt.errors import MediaError, MediaWarning, OptionError

# Every flag that makes swscale give the same bytes on every processor.
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
# Above this many pixels (4096 x 2304) frames are decoded by slices: one thread per frame would
# hold as many 50 to 100 MB frames as there are cores.
_MAX_FRAME_THREADED_PIXELS = 4096 * 2304
_CUT_SHORT = Fraction(1, 2)  # seconds missing before a file counts as cut short


class VideoInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one video stream. `duration_s` is what the container declares, None if nothing.

    width, height: as displayed, after rotation. first_s: the timestamp of the first displayed
    frame, which is time 0 everywhere else. pixel_aspect: width of a stored pixel over its height.
    """

    codec: str
    width: int
    height: int
    rate_hz: float | None
    duration_s: float | None
    first_s: Fraction
    pixel_aspect: Fraction


class VideoReader:
    """The pictures of one selection of a video, and its length once they have been read."""

    def __init__(
        self,
        path: str | Path,
        config: ModelConfig,
        start_s: float = 0.0,
        duration_s: float | None = None,
    ) -> None:
        self.path = Path(path)
        self.info = probe(self.path)
        self._size = config.image_size
        self._rate = Fraction(config.visual_rate_hz)
        self._start = exact_seconds(start_s)
        self._length = None if duration_s is None else exact_seconds(duration_s)
        self._read: Fraction | None = None

    @property
    def expected_s(self) -> float | None:
        """Length of the selection if the container tells the truth; None when it tells nothing."""
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

        At least one picture, however short the selection. Nothing past the selection's end is
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
        self._read = until

    def _displayed(self) -> Iterator[tuple[VideoFrame, Fraction]]:
        """Each frame of the selection and when it leaves the display, from the selection's start."""
        stop = None if self._length is None else self._start + self._length
        shown: VideoFrame | None = None
        end = Fraction(0)
        for frame, begin, end in self._timed_frames():
            if shown is not None and begin > self._start:
                yield shown, (begin if stop is None else min(begin, stop)) - self._start
            if stop is not None and begin >= stop and shown is not None:
                return
            shown = frame
        if shown is None:
            raise MediaError(
                f"no frame of {self.path} could be decoded ({self.info.codec}); "
                "expected a playable video, check the file in a player"
            )
        if end <= self._start:
            raise OptionError(
                f"start is {float(self._start):g} s, expected less than the video's "
                f"{float(end):g} s; choose an earlier start"
            )
        self._warn_if_cut_short(end)
        yield shown, (end if stop is None else min(end, stop)) - self._start

    def _timed_frames(self) -> Iterator[tuple[VideoFrame, Fraction, Fraction]]:
        """Decoded frames with begin and end in seconds of the video, from the start's key frame."""
        seek = self._start > 0 and _seek_lands_before(self.path, self.info.first_s + self._start)
        with open_video(self.path) as (container, stream):
            if seek:
                _seek(container, stream, self.info.first_s + self._start)
            for frame, begin, end in _decode(container, stream, self.path):
                yield frame, begin - self.info.first_s, end - self.info.first_s

    def _warn_if_cut_short(self, end: Fraction) -> None:
        declared = self.info.duration_s
        if declared is not None and end + _CUT_SHORT < exact_seconds(declared):
            message = f"{self.path} is cut short: {float(end):.2f} s of its {declared:.2f} s"
            warnings.warn(f"{message} could be read", MediaWarning, stacklevel=2)


def probe(path: str | Path) -> VideoInfo:
    """Facts of a video file, from its header and its first decodable frame. Raises MediaError."""
    path = Path(path)
    with open_video(path) as (container, stream):
        first = next(_decode(container, stream, path, warn=False), None)
        if first is None:
            raise MediaError(
                f"no frame of {path} could be decoded ({stream.codec_context.name}); "
                "expected a playable video, check the file in a player"
            )
        frame, begin, _ = first
        aspect = stream.sample_aspect_ratio or Fraction(1)
        width, height = _square_pixels(frame, aspect)
        turned = frame.rotation % 180 != 0
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(
            codec=stream.codec_context.name,
            width=height if turned else width,
            height=width if turned else height,
            rate_hz=float(rate) if rate else None,
            duration_s=_declared_duration(container, stream),
            first_s=begin,
            pixel_aspect=aspect,
        )


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream, ready to decode. Raises MediaError."""
    require_file(path)
    try:
        # "file:" keeps a name such as "a:b.mp4" from being read as a protocol; genpts gives
        # containers without display times (avi) some.
        container = av.open(f"file:{path}", options={"fflags": "+genpts"})
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path} cannot be read as video ({_reason(error)}); "
            "expected a complete video file such as mp4, mov, mkv or webm"
        ) from error
    with container:
        stream = _video_stream(container, path)
        large = stream.width * stream.height > _MAX_FRAME_THREADED_PIXELS
        stream.thread_type = "SLICE" if large else "AUTO"
        yield container, stream


def require_file(path: Path) -> None:
    """Raises MediaError unless the path is a regular file with something in it."""
    if not path.exists():
        raise MediaError(f"{path} does not exist, expected a video file; check the path")
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "not a regular file"
        raise MediaError(f"{path} is {kind}, expected a video file; name the file itself")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes), expected a video file; copy it again")


def exact_seconds(seconds: float) -> Fraction:
    """Seconds as typed, to the microsecond: 3.2 is 16/5, as a frame's timestamp would be."""
    return Fraction(round(seconds * 1_000_000), 1_000_000)


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    """The first stream with moving pictures; cover art does not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                break
            return stream
    found = ", ".join(s.type for s in container.streams) or "no stream at all"
    raise MediaError(
        f"{path} has no video stream that can be decoded (found: {found}); "
        "expected a file with moving pictures"
    )


def _declared_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """The stream's own length; the container's where that is shorter (edit lists) or alone."""
    lengths = []
    if stream.duration and stream.time_base:
        lengths.append(float(stream.duration * stream.time_base))
    if container.duration and (lengths or len(container.streams) == 1):
        lengths.append(container.duration / av.time_base)
    return min(lengths, default=None)


def _decode(
    container: InputContainer, stream: VideoStream, path: Path, warn: bool = True
) -> Iterator[tuple[VideoFrame, Fraction, Fraction]]:
    """Frames in display order with begin and end in container seconds; damaged ones are skipped."""
    num_damaged = 0
    previous, end = None, Fraction(0)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    for frame in _frames_or_none(container, stream):
        if frame is None:
            num_damaged += 1
            continue
        num_damaged += frame.is_corrupt
        base = frame.time_base or stream.time_base or 1 / rate
        length = frame.duration * base if frame.duration else 1 / rate
        begin = end if frame.pts is None else frame.pts * base
        if previous is not None and begin <= previous:
            num_damaged += 1  # its time is not after the frame before: never on display
            continue
        previous, end = begin, begin + length
        yield frame, begin, end
    if num_damaged and warn:
        message = f"{path} is damaged: {num_damaged} of its packets or frames"
        warnings.warn(f"{message} could not be used", MediaWarning, stacklevel=2)


def _frames_or_none(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame | None]:
    """Decoded frames; None for each packet that could not be decoded or read."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.error.EOFError:
            return
        except av.error.FFmpegError:
            yield None


def _seek(container: InputContainer, stream: VideoStream, seconds: Fraction) -> None:
    container.seek(int(seconds / (stream.time_base or Fraction(1))), stream=stream)


def _seek_lands_before(path: Path, seconds: Fraction) -> bool:
    """Whether a seek lets this moment be shown: some containers land after it, or cannot seek."""
    with open_video(path) as (container, stream):
        try:
            _seek(container, stream, seconds)
        except av.error.FFmpegError:
            return False
        first = next(_decode(container, stream, path, warn=False), None)
        return first is not None and first[1] <= seconds


def _square_pixels(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Width and height as displayed, before rotation."""
    return max(1, round(frame.width * aspect)), frame.height


def _picture_maker(size: int, aspect: Fraction) -> Callable[[VideoFrame], NDArray[np.uint8]]:
    """Shortest side to `size` (bicubic), centre crop: the transform CLIP was trained with."""
    reformatter = VideoReformatter()  # one for all frames: each holds megabytes

    def to_picture(frame: VideoFrame) -> NDArray[np.uint8]:
        width, height = _square_pixels(frame, aspect)
        short = min(width, height)
        scaled = reformatter.reformat(
            frame,
            width=size * width // short,
            height=size * height // short,
            format="rgb24",
            interpolation=_SCALING,
            threads=1,
        )
        image: NDArray[np.uint8] = scaled.to_ndarray()  # [h, w, 3]
        top, left = (round((side - size) / 2) for side in image.shape[:2])
        image = image[top : top + size, left : left + size]
        return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))

    return to_picture


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
