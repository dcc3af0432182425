"""Copies a video stream, packet by packet, beside new sound."""

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av.error
from av.container import OutputContainer
from av.video.stream import VideoStream

from vab_rt.containers import (
    BOXED,
    Copied,
    Form,
    add_stream,
    form_for,
    tell_dropped,
)
from vab_rt.delivery import VIDEO_MUXERS
from vab_rt.errors import OutputError
from vab_rt.file_object import VideoFile
from vab_rt.media import VideoInfo
from vab_rt.packets import DisplayTimes, VideoPacket, display_times, readable_packets
from vab_rt.seconds import told_s
from vab_rt.source import Source
from vab_rt.video import Video, start_beyond_end

_SAME_TIME = Fraction(1, 1000)  # matroska counts milliseconds
_PACKED = re.compile(rb"DivX\d+(b|Build)\d+p")
_WITHOUT_VIDEO = ".wav, .flac, .mp3, .m4a or .ogg"


@dataclass(frozen=True, kw_only=True)
class CopyPlan:
    """How a video is copied into a container, once nothing speaks against it.

    source: the open input. begin, end: of what is displayed, in the input's seconds; end None is
    the last packet's. times: where the input does not tell in which order frames are displayed.
    keeps_sound: its own is part of the new one.
    """

    source: Source
    video: Video
    suffix: str
    form: Form
    begin: Fraction
    end: Fraction | None
    times: DisplayTimes | None
    keeps_sound: bool

    def copied(self) -> Copied:
        length = None if self.end is None else self.end - self.begin
        source, zero = self.source, self.video.info.first_s
        return Copied(source.container, source.stream, zero, self.video.start, length)

    def from_key_frame(self) -> Iterator[VideoPacket]:
        """Packets in stored order from a key frame at or before `begin`, as
        precisely as the container counts."""
        source = self.source
        # A start is rounded, and may be a little before the key frame that has to be first.
        near = 0 if self.suffix in BOXED else _SAME_TIME
        packets = source.packets_from(self.begin + near) if self.video.start else source.packets()
        started = False
        try:
            for packet in packets:
                started = started or packet.is_keyframe
                if started and packet.size:
                    if self.times is not None:
                        _display_at(packet, self.times)
                    yield packet
        except av.error.FFmpegError:
            return  # the rest cannot be read: the reader of the frames has warned


class VideoCopy:
    """Packets of the source on their way into `container`, in step with the sound.

    end_s: where the display of the copy is to end, if before its last packet; for `hide_after`.
    """

    def __init__(
        self,
        packets: Iterator[VideoPacket],
        container: OutputContainer,
        end_s: Fraction | None,
    ) -> None:
        self.end_s = end_s
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


def plan_copy(video: Video, suffix: str, *, keeps_sound: bool) -> CopyPlan:
    """How to copy this selection into such a container, unchanged. keeps_sound: the sound that goes
    beside it has the video's own in it.

    Raises OutputError where that cannot be, and OptionError where the copy would have to begin
    beyond the video's end.
    """
    info = video.info
    if info.is_still:
        raise OutputError(
            f"{video.path} is a still, which {suffix} would show for a moment, expected a "
            f"video; write {_WITHOUT_VIDEO}, or make a video of it first"
        )
    source = Source(video.path)
    form = _form(source, info, suffix)
    times = None if info.tells_order else display_times(source.packets(), source.stream)
    begin = info.first_s + video.start
    end = _end(video, begin, _cut(source, suffix))
    plan = CopyPlan(
        source=source,
        video=video,
        suffix=suffix,
        form=form,
        begin=begin,
        end=end,
        times=times,
        keeps_sound=keeps_sound,
    )
    if suffix not in BOXED:
        _check_key_frame(plan)
    return plan


def _form(source: Source, info: VideoInfo, suffix: str) -> Form:
    """How the stream fits the container, by the first packet that can be decoded alone."""
    packets = readable_packets(source.packets())
    first = next((packet for packet in packets if packet.is_keyframe), None)
    forms: dict[str, Form] = {}
    for each in (suffix, *(other for other in VIDEO_MUXERS if other != suffix)):
        if first is None:
            break
        copied = Copied(source.container, source.stream, info.first_s, Fraction(0), None)
        form = form_for(copied, first, each, source.path)
        if form is not None and each == suffix:
            _check_packet(first, info, source.path)
            return form
        if form is not None:
            forms[each] = form
    choices = ("one of " if len(forms) > 1 else "") + (", ".join(forms) or ".wav")
    other = "upright mpeg4 without B-frames" if suffix == ".avi" else "h264"
    raise OutputError(
        f"the video is {info.codec}, which {suffix} cannot hold unchanged; "
        f"expected {choices} as the output, or a video of {other} as the input"
    )


def _check_packet(first: VideoPacket, info: VideoInfo, path: VideoFile) -> None:
    if first.dts is None and first.pts is None:
        raise OutputError(
            f"{path} has no timestamps that a copy could keep, expected a container "
            "such as mp4 around its video; convert it first, or write .wav"
        )
    if info.codec == "mpeg4" and _PACKED.search(bytes(first)):
        raise OutputError(
            f"{path} has two frames in one packet (DivX), expected one in each; "
            "convert it first, or write .wav"
        )


def _cut(source: Source, suffix: str) -> Fraction | None:
    """Where an edit list ends the display before the packets do, in the input's seconds.

    Raises OutputError for one that the copy cannot have: frames that are stored between those that
    are shown, but are not shown.
    """
    if not any(entry.is_discard for entry in source.stream.index_entries):
        return None
    spans = [
        (packet.is_discard, _display_s(packet), (packet.duration or 0) * packet.time_base)
        for packet in readable_packets(source.packets())
    ]
    shown = [number for number, (is_hidden, *_) in enumerate(spans) if not is_hidden]
    if not shown:
        return None
    first = min(spans[number][1] for number in shown)
    last, length = max((at, length) for is_hidden, at, length in spans if not is_hidden)
    within = [at for is_hidden, at, _ in spans[: shown[-1]] if is_hidden and at >= first]
    needed_later = any(at > last for at in within) and suffix not in BOXED
    if needed_later or any(at <= last for at in within):
        raise OutputError(
            f"the edit list of {source.path} hides frames that others need, which {suffix} cannot; "
            f"expected {'an uncut video' if not needed_later else '.mp4 or .mov'} "
            f"for a copy; write {_WITHOUT_VIDEO}, or convert the video first"
        )
    return last + length


def _end(video: Video, begin: Fraction, cut: Fraction | None) -> Fraction | None:
    if video.length is None:
        return cut
    end = begin + video.length
    return end if cut is None else min(end, cut)


def _check_key_frame(plan: CopyPlan) -> None:
    """Raises OutputError, or OptionError beyond the end, unless the copy begins at a key frame."""
    begin, zero = plan.begin, plan.video.info.first_s
    packets = plan.from_key_frame()
    first = next(packets, None)
    if first is not None and abs(_display_s(first) - begin) <= _SAME_TIME:
        return
    end = zero if first is None else _end_s(chain([first], packets), begin)
    if first is None or end <= begin:
        raise start_beyond_end(begin - zero, end - zero)
    key = float(_display_s(first) - zero)
    advice = f"use --start {told_s(key)}, or write" if key >= 0 else "write"
    raise OutputError(
        f"start {told_s(plan.video.start)} s is between key frames, expected a key frame because "
        f"{plan.suffix} cannot begin elsewhere; {advice} .mp4 or .mov"
    )


@contextmanager
def copied_video(container: OutputContainer, plan: CopyPlan, out: Path) -> Iterator[VideoCopy]:
    """Adds the video stream that `plan` is about to `container`; time 0 is the selection's start.

    Payloads are those of the source. A selection that ends where frames are stored out of order
    (B-frames) keeps the one or two later frames that earlier ones need, in mp4 and mov unseen; one
    that begins within a frame begins with the rest of it, or in players that cannot with the next
    frame. Warns of what the input has beside the video.
    """
    with closing(plan.source):
        copied = plan.copied()
        tell_dropped(copied, plan.form, plan.video.path, out, keeps_sound=plan.keeps_sound)
        target = add_stream(copied, container, plan.form)
        if plan.times is not None:
            base = copied.stream.time_base or Fraction(1)
            target.codec_context.framerate = 1 / (plan.times.step * base)
        packets, end_s = _up_to_end(plan.from_key_frame(), plan.end), None
        if plan.suffix not in BOXED:
            packets = (p for p in packets if _display_s(p) >= plan.begin - _SAME_TIME)
        elif plan.end is not None:
            end_s = plan.end - plan.begin
        yield VideoCopy(_shifted(packets, target, plan.begin), container, end_s)


def _display_at(packet: VideoPacket, times: DisplayTimes) -> None:
    dts = packet.dts or 0
    packet.pts = times.pts.get(packet.pos or 0, dts)
    packet.dts, packet.duration = dts - times.delay, times.step


def _up_to_end(packets: Iterator[VideoPacket], end: Fraction | None) -> Iterator[VideoPacket]:
    """Drops what is displayed after the end, except what a displayed frame may still refer to."""
    if end is None:
        yield from packets
        return
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
