"""Facts of a video file, from its header and its first frames."""

from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import av.error
import msgspec
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vab_rt.errors import MediaError
from vab_rt.file_object import size_bytes
from vab_rt.packets import may_jump, tells_order
from vab_rt.source import Source, decode

_NO_STILL_S = 1  # a lone frame that is shown for so long has a length of its own


class VideoInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one video stream."""

    codec: str
    width: int
    """as displayed, after rotation"""
    height: int
    rate_hz: float | None
    size_bytes: int
    """of the file, when it was opened"""
    duration_s: float | None
    """as the container declares it, None if it does not"""
    own_duration_s: float | None
    """the same of the video stream alone; None where only that of the whole is known"""
    first_s: Fraction
    """the timestamp of the first displayed frame, which is time 0 everywhere else"""
    pixel_aspect: Fraction
    """width of a stored pixel over its height"""
    is_still: bool
    """a picture, or a video of one frame that is shown for a moment: it has no time"""
    tells_order: bool
    """whether the container has times of display"""


def probe(path: str | Path) -> VideoInfo:
    """Facts of a video file, from its header and its first decodable frame. Raises MediaError."""
    with closing(Source(Path(path))) as source:
        return examine(source)


def examine(source: Source) -> VideoInfo:
    """The same of a file that is open already."""
    container, stream, path = source.container, source.stream, source.path
    is_ordered = tells_order(source.packets(), stream)
    frames = decode(source.packets(), stream, path, warn=False, tells_order=is_ordered)
    first, second = next(frames, None), next(frames, None)
    if first is None:
        raise MediaError(
            f"no frame of {path} could be decoded ({stream.codec_context.name}); "
            "expected a playable video, check the file in a player"
        )
    frame, begin, end = first
    aspect = stream.sample_aspect_ratio or Fraction(1)
    width, height = square_pixels(frame, aspect)
    turned = frame.rotation % 180 != 0
    rate = stream.average_rate or stream.guessed_rate
    own = _own_duration(container, stream)
    return VideoInfo(
        codec=stream.codec_context.codec.canonical_name,
        width=height if turned else width,
        height=width if turned else height,
        rate_hz=float(rate) if rate else None,
        size_bytes=size_bytes(path),
        duration_s=own if own is not None else _whole_duration(container),
        own_duration_s=own,
        first_s=begin,
        pixel_aspect=aspect,
        is_still=second is None and end - begin < _NO_STILL_S and _has_one_packet(source),
        tells_order=is_ordered,
    )


def _has_one_packet(source: Source) -> bool:
    try:
        return sum(packet.size > 0 for packet in source.packets()) == 1
    except MemoryError:  # FFmpeg's is both
        raise
    except av.error.FFmpegError:
        return False  # there is more, if damaged


def _own_duration(container: InputContainer, stream: VideoStream) -> float | None:
    """The length of the video stream alone, None where the container tells that of the whole only,
    or knows it from clocks that may start again."""
    if may_jump(container):
        return None
    whole = _whole_duration(container)
    if stream.duration and stream.time_base:
        own = float(stream.duration * stream.time_base)
        return own if whole is None else min(own, whole)  # an edit list shortens the whole
    return whole if len(container.streams) == 1 else None


def _whole_duration(container: InputContainer) -> float | None:
    if not container.duration:
        return None
    start = max(0, container.start_time or 0) if "matroska" in container.format.name else 0
    return (container.duration - start) / av.time_base  # matroska's length counts from time 0


def square_pixels(frame: VideoFrame, aspect: Fraction) -> tuple[int, int]:
    """Width and height as displayed, before rotation."""
    return max(1, round(frame.width * aspect)), frame.height
