"""Copies a video stream, packet by packet, beside new sound."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import av
import av.error
import msgspec
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vab_rt.errors import OutputError
from vab_rt.media import open_video, probe, seek, seek_lands_before
from vab_rt.video import exact_seconds, start_beyond_end

VideoPacket: TypeAlias = "Packet[VideoStream]"  # generic in PyAV's stubs alone
VIDEO_MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# These start playing at time 0 whatever comes before it (an edit list), so a copy can begin
# between two key frames: the frames from the key frame on are there, but not shown.
_HIDES_FRAMES_BEFORE_START = {".mp4", ".mov"}
_SAME_TIME = Fraction(1, 1000)  # matroska counts milliseconds


class VideoSelection(msgspec.Struct, frozen=True):
    """Which part of which video to copy. duration_s None goes to the end."""

    path: Path
    start_s: float = 0.0
    duration_s: float | None = None


class VideoCopy:
    """Packets of the source on their way into `container`, in step with the sound."""

    def __init__(self, packets: Iterator[VideoPacket], container: OutputContainer) -> None:
        self._packets = packets
        self._container = container
        self._next = next(packets, None)

    def advance(self, until_s: Fraction | None) -> None:
        """Muxes what is due before `until_s` of the output; everything when it is None."""
        while self._next is not None:
            if until_s is not None and _seconds(self._next) > until_s:
                return
            self._container.mux_one(self._next)
            self._next = next(self._packets, None)


def check_copy(selection: VideoSelection, suffix: str) -> None:
    """Raises OutputError unless this selection can be copied into such a container, unchanged.

    Raises OptionError where that container would have to begin beyond the video's end.
    """
    with open_video(selection.path) as (_, stream):
        codec = stream.codec_context.name
    if codec not in _codecs_of(suffix):
        fitting = [other for other in VIDEO_MUXERS if codec in _codecs_of(other)]
        raise OutputError(
            f"the video is {codec}, which {suffix} cannot hold unchanged; "
            f"expected one of {', '.join(fitting) or '.wav'} as the output"
        )
    zero = probe(selection.path).first_s
    begin = zero + exact_seconds(selection.start_s)
    with open_video(selection.path) as (container, stream):
        packets = _from_key_frame(selection, container, stream, begin)
        first = next(packets, None)
        end = Fraction(0) if first is None else _end_s(chain([first], packets), begin)
    if first is None or (first.dts is None and first.pts is None):
        raise OutputError(
            f"{selection.path} has no timestamps that a copy could keep, expected a container "
            "such as mp4 around its video; convert it first, or write .wav"
        )
    key = _display_s(first)
    if suffix in _HIDES_FRAMES_BEFORE_START:
        return
    if abs(key - begin) > _SAME_TIME:
        if end <= begin:
            raise start_beyond_end(begin - zero, end - zero)
        raise OutputError(
            f"start {selection.start_s:g} s is between key frames, expected a key frame because "
            f"{suffix} cannot begin elsewhere; use --start {float(key - zero):g}, "
            "or write .mp4 or .mov"
        )


@contextmanager
def copied_video(
    selection: VideoSelection, container: OutputContainer, suffix: str
) -> Iterator[VideoCopy]:
    """Adds the source's video stream to `container`; time 0 is the start of the selection.

    Payloads are those of the source. A selection that ends where frames are stored out of order
    (B-frames) keeps the one or two later frames that earlier ones need; one that begins within a
    frame begins with the rest of it, or in players that cannot with the next frame.
    """
    begin = probe(selection.path).first_s + exact_seconds(selection.start_s)
    with open_video(selection.path) as (source, stream):
        target = _add_same_stream(stream, container, suffix)
        packets = _up_to_end(selection, _from_key_frame(selection, source, stream, begin), begin)
        if suffix not in _HIDES_FRAMES_BEFORE_START:
            packets = (p for p in packets if _display_s(p) >= begin - _SAME_TIME)
        yield VideoCopy(_shifted(packets, target, begin), container)


def _add_same_stream(stream: VideoStream, container: OutputContainer, suffix: str) -> VideoStream:
    target = container.add_stream_from_template(stream, opaque=True)
    if stream.average_rate:
        target.codec_context.framerate = stream.average_rate
    if suffix in _HIDES_FRAMES_BEFORE_START and stream.codec_context.name == "hevc":
        target.codec_context.codec_tag = "hvc1"  # QuickTime does not open the default, hev1
    return target


def _from_key_frame(
    selection: VideoSelection, source: InputContainer, stream: VideoStream, begin: Fraction
) -> Iterator[VideoPacket]:
    """Packets in stored order from a key frame at or before `begin`."""
    if selection.start_s > 0 and seek_lands_before(selection.path, begin):
        seek(source, stream, begin)
    started = False
    try:
        for packet in source.demux(stream):
            started = started or packet.is_keyframe
            if started and packet.size:
                yield packet
    except av.error.FFmpegError:
        return  # the rest cannot be read: the reader of the pictures has warned


def _up_to_end(
    selection: VideoSelection, packets: Iterator[VideoPacket], begin: Fraction
) -> Iterator[VideoPacket]:
    """Drops what is displayed after the end, except what a displayed frame may still refer to."""
    if selection.duration_s is None:
        yield from packets
        return
    end = begin + exact_seconds(selection.duration_s)
    late: list[VideoPacket] = []
    for packet in packets:
        if packet.dts is not None and packet.dts * packet.time_base >= end:
            return
        if _display_s(packet) >= end:
            late.append(packet)
            continue
        yield from late
        late.clear()
        yield packet


def _shifted(
    packets: Iterator[VideoPacket], target: VideoStream, begin: Fraction
) -> Iterator[VideoPacket]:
    """The same payloads for the stream `target`, timed from `begin`, decoding times rising."""
    last: int | None = None
    for packet in packets:
        shift = round(begin / packet.time_base)
        if not packet.duration and target.codec_context.framerate:
            packet.duration = round(1 / target.codec_context.framerate / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        if packet.dts is not None:
            last = packet.dts - shift if last is None else max(packet.dts - shift, last + 1)
            packet.dts = last
            packet.pts = None if packet.pts is None else max(packet.pts, last)
        packet.stream = target
        yield packet


def _seconds(packet: VideoPacket) -> Fraction:
    """When the packet is due for decoding."""
    stamp = packet.dts if packet.dts is not None else packet.pts
    return (stamp or 0) * packet.time_base


def _end_s(packets: Iterator[VideoPacket], enough: Fraction) -> Fraction:
    """When the last of the packets leaves the display; some later than `enough` ends the search."""
    end = Fraction(0)
    for packet in packets:
        end = max(end, _display_s(packet) + (packet.duration or 0) * packet.time_base)
        if end > enough:
            break
    return end


def _display_s(packet: VideoPacket) -> Fraction:
    """When the packet's frame is displayed."""
    stamp = packet.pts if packet.pts is not None else packet.dts
    return (stamp or 0) * packet.time_base


def _codecs_of(suffix: str) -> set[str]:
    with av.open(io.BytesIO(), "w", format=VIDEO_MUXERS[suffix]) as container:
        return container.supported_codecs
