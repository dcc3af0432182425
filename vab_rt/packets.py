"""Packets of a video stream, in stored order, with times that hold.

A clock that starts again (recordings that were put one behind the other) goes on. A container that
has no times of display (avi, for one) gets them from the order in which a decoder shows its frames.
"""

from collections.abc import Iterator
from fractions import Fraction
from heapq import heappop, heappush
from itertools import chain, islice, pairwise
from typing import TypeAlias, cast

import av.error
import msgspec
from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.video.stream import VideoStream

VideoPacket: TypeAlias = "Packet[VideoStream]"  # generic in PyAV's stubs alone
_ENOUGH = 64  # packets, to tell whether times of display are there
_GAP_S = 10  # a jump ahead by more is another clock, as FFmpeg's dts_delta_threshold has it
_BACK_S = 1  # so is one back by more; or by less, to a key frame


def timed_packets(container: InputContainer, stream: VideoStream) -> Iterator[VideoPacket]:
    """What `demux` gives, times rising though the clock starts again. Raises FFmpegError."""
    clock = _Clock(container, stream)
    for packet in container.demux(stream):
        clock.set(packet)
        yield packet


def may_jump(container: InputContainer) -> bool:
    """Whether its clock is that of a broadcast (mpeg transport and program streams)."""
    return bool(container.format.flags & cast(int, Flags.ts_discont.value))


def starts_again(container: InputContainer, stream: VideoStream) -> bool:
    """Whether the clock does somewhere; only containers made for broadcast are read for it."""
    if not may_jump(container):
        return False
    clock = _Clock(container, stream)
    try:
        for packet in container.demux(stream):
            clock.set(packet)
            if clock.offset:
                return True
    except av.error.FFmpegError:
        pass
    return False


class _Clock:
    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self.offset = 0
        base = stream.time_base or Fraction(1)
        self._gap = round(_GAP_S / base) if may_jump(container) else None
        self._back, self._frame = round(_BACK_S / base), round(frame_s(stream) / base)
        self._last: int | None = None
        self._end = 0  # of what is displayed, by the clock that goes on

    def set(self, packet: VideoPacket) -> None:
        """Moves the times of the packet, from its own clock to the one that goes on."""
        if packet.dts is None:
            return
        own, pts = packet.dts, packet.dts if packet.pts is None else packet.pts
        if self._last is not None and self._is_another(packet, own - self._last):
            self.offset = self._end - pts
        self._last = own
        self._end = max(self._end, pts + self.offset + (packet.duration or self._frame))
        packet.dts = own + self.offset
        if packet.pts is not None:
            packet.pts += self.offset

    def _is_another(self, packet: VideoPacket, step: int) -> bool:
        if step < 0:
            return packet.is_keyframe or -step > self._back
        return self._gap is not None and step > self._gap


def frame_s(stream: VideoStream) -> Fraction:
    """How long a frame is displayed, by the rate that the container tells."""
    return 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))


def tells_order(packets: Iterator[VideoPacket], stream: VideoStream) -> bool:
    """Whether the times of display are there, by the first packets. Uses up the decoder."""
    if not stream.codec_context.has_b_frames:
        return True
    first = list(islice(readable_packets(packets), _ENOUGH))
    if any((a.pts or 0) > (b.pts or 0) for a, b in pairwise(first)):
        return True
    return all(a < b for a, b in pairwise(_shown(iter(first), stream)))


class DisplayTimes(msgspec.Struct, frozen=True):
    """When each packet's frame is displayed, by the packet's place in the file; and the most that
    this is before its time of decoding. All in the stream's time base."""

    pts: dict[int, int]
    delay: int
    step: int


def display_times(packets: Iterator[VideoPacket], stream: VideoStream) -> DisplayTimes:
    """The times of a stream that does not tell them: decodes all of it. The n-th frame that is
    shown is shown at the time of the n-th packet."""
    places: list[tuple[int, int]] = []

    def noted() -> Iterator[VideoPacket]:
        for packet in readable_packets(packets):
            places.append((packet.pos or 0, packet.dts or 0))
            yield packet

    slots: list[int] = []
    pts: dict[int, int] = {}
    delay, seen = 0, 0
    for number in _shown(noted(), stream):
        for _, dts in places[seen:]:
            heappush(slots, dts)
        seen = len(places)
        if slots:
            place, dts = places[number]
            pts[place] = heappop(slots)
            delay = max(delay, dts - pts[place])
    times = sorted(pts.values())
    step = times[-1] - times[-2] if len(times) > 1 else 1
    return DisplayTimes(pts, delay, step)


def readable_packets(packets: Iterator[VideoPacket]) -> Iterator[VideoPacket]:
    """Those that have something in them, up to where the file is damaged."""
    try:
        yield from (packet for packet in packets if packet.size)
    except av.error.FFmpegError:
        return


def _shown(packets: Iterator[VideoPacket], stream: VideoStream) -> Iterator[int]:
    """Numbers of the packets, in the order in which their frames are displayed."""
    stream.codec_context.copy_opaque = True
    for number, packet in enumerate(chain(packets, [None])):  # None: what the decoder still holds
        if packet is not None:
            packet.opaque = number
        try:
            for frame in stream.decode(packet):
                if isinstance(frame.opaque, int):
                    yield frame.opaque
        except av.error.FFmpegError:
            continue
