"""A video's own sound beside ours, by FFmpeg's filters: amix, and sidechaincompress for ducking."""

import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from fractions import Fraction
from itertools import chain

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.filter.graph import Graph
from numpy.typing import NDArray

from vab_rt.errors import MediaError, MediaWarning, OptionError
from vab_rt.packets import may_jump
from vab_rt.resampling import LAYOUTS, Resampling, frame_of, ready_frames, source_of
from vab_rt.source import open_container
from vab_rt.video import Video

Samples = NDArray[np.float32]
_BEFORE_S = 1  # what is decoded before the selection: the first frames after a jump are wrong
_GAP_S = Fraction(1, 20)  # times that differ by less are rounded ones
_OTHER_CLOCK_S = 10  # by more: another clock, as are all that go back
_MOST_DAMAGED = 1000  # packets, before the rest is given up
# Ours above -30 dBFS turns the old sound down, by 3/4 of the decibels that it is above.
_DUCKING = "threshold=0.03:ratio=4:attack=20:release=400"


def require_sound(video: Video) -> int:
    """How many channels the video's own sound has, at most 2. Raises OptionError where there is
    none, MediaError where it cannot be read."""
    with closing(_open(video)) as container:
        stream = _stream(container, video)
        first = next(_decoded(container, stream, video, warn=False), None)
        if first is None:
            codec = getattr(stream.codec_context, "name", "an unknown codec")
            raise MediaError(
                f"the sound of {video.path} cannot be read ({codec}), expected some to mix with; "
                "leave --mix out, or convert the video"
            )
        return min(2, len(first.layout.channels))


class Mixture:
    """Our sound [1, S] in, both sounds [C, S] out, to the sample; as long as ours is.

    The video's selection begins with our first sample; where its sound has ended, or has not begun,
    it is silent.
    """

    def __init__(self, video: Video, kind: str, rate_hz: int, num_channels: int) -> None:
        self._rate_hz, self._num_channels = rate_hz, num_channels
        self._theirs = _own_sound(video, rate_hz, num_channels)
        self._kept: Samples = np.zeros((num_channels, 0), np.float32)
        self._num_in = 0
        self._graph = Graph()
        self._into = [source_of(self._graph, rate_hz, num_channels) for _ in range(2)]
        self._out = self._graph.add("abuffersink")
        self._link(kind)

    def close(self) -> None:
        self._theirs.close()

    def _link(self, kind: str) -> None:
        ours, theirs = self._into
        mix = self._graph.add("amix", "inputs=2:normalize=0:duration=first")
        form = f"sample_fmts=fltp:channel_layouts={LAYOUTS[self._num_channels]}"
        if kind == "duck":
            twice = self._graph.add("asplit")
            duck = self._graph.add("sidechaincompress", _DUCKING)
            lowered = self._graph.add("aformat", form)
            ours.link_to(twice)
            twice.link_to(mix, 0, 0)
            theirs.link_to(duck, 0, 0)
            twice.link_to(duck, 1, 1)
            duck.link_to(lowered)
            lowered.link_to(mix, 0, 1)
        else:
            ours.link_to(mix, 0, 0)
            theirs.link_to(mix, 0, 1)
        mixed = self._graph.add("aformat", form)
        mix.link_to(mixed)
        mixed.link_to(self._out)
        self._graph.configure()

    def add(self, samples: Samples, *, is_last: bool) -> Samples:
        """What is ready of the mixture."""
        num = samples.shape[-1]
        if num:
            ours = np.repeat(samples, self._num_channels, 0)
            for into, sound in zip(self._into, (ours, self._take(num)), strict=True):
                into.push(frame_of(sound, self._rate_hz, self._num_in))
            self._num_in += num
        if is_last:
            for into in self._into:
                into.push(None)
        none = np.zeros((self._num_channels, 0), np.float32)
        ready = [frame.to_ndarray() for frame in ready_frames(self._out)]
        return np.concatenate([none, *ready], -1, dtype=np.float32)

    def _take(self, num: int) -> Samples:
        """The video's next samples [C, num]; silence after its end."""
        while self._kept.shape[-1] < num:
            more = next(self._theirs, None)
            if more is None:
                more = np.zeros((self._num_channels, num), np.float32)
            self._kept = np.concatenate([self._kept, more], -1)
        taken, self._kept = self._kept[:, :num], self._kept[:, num:]
        return taken


def _own_sound(video: Video, rate_hz: int, num_channels: int) -> Generator[Samples, None, None]:
    """The sound of the selection in pieces [C, S], from its first sample on."""
    resampling: Resampling | None = None
    with closing(_open(video)) as container:
        for sound, own_rate_hz in _placed(container, video):
            resampling = resampling or Resampling(own_rate_hz, rate_hz, num_channels)
            yield resampling.add(_with_channels(sound, num_channels), is_last=False)
        if resampling is not None:
            yield resampling.add(np.zeros((num_channels, 0), np.float32), is_last=True)


def _with_channels(sound: Samples, num_channels: int) -> Samples:
    """[1 or 2, S] as [num_channels, S]: the mean of both, or the same on both sides."""
    if len(sound) == num_channels:
        return sound
    return np.repeat(sound, 2, 0) if num_channels == 2 else sound.mean(0, keepdims=True)


def _placed(container: InputContainer, video: Video) -> Iterator[tuple[Samples, int]]:
    """Sound [1 or 2, S] and its rate, without a gap; the first sample is that of the selection's
    beginning. A clock that starts again goes on."""
    stream = _stream(container, video)
    begin = video.info.first_s + video.start
    base = stream.time_base or Fraction(1)
    if video.start and not may_jump(container):
        container.seek(max(0, int((begin - _BEFORE_S) / base)), stream=stream)
    shift, end = Fraction(0), None
    for sound, rate_hz, own in _planes(_decoded(container, stream, video)):
        at = (end or begin) if own is None else own + shift
        if end is not None and not _GAP_S < at - end < _OTHER_CLOCK_S:
            shift, at = shift + end - at, end
        lead = begin if end is None else max(begin, end)
        end = at + Fraction(sound.shape[-1], rate_hz)
        if at > lead:
            yield np.zeros((len(sound), round((at - lead) * rate_hz)), np.float32), rate_hz
        if end > begin:
            yield sound[:, round(max(Fraction(0), begin - at) * rate_hz) :], rate_hz


def _planes(frames: Iterator[AudioFrame]) -> Iterator[tuple[Samples, int, Fraction | None]]:
    """Each frame as samples [1 or 2, S], their rate, and its time; more channels are mixed down to
    two. Rate and channels are those of the first frame throughout."""
    first = next(frames, None)
    if first is None:
        return
    layout, rate_hz = LAYOUTS[min(2, len(first.layout.channels))], first.sample_rate
    planar = av.AudioResampler("fltp", layout, rate_hz)
    for frame in chain([first], frames):
        at = None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base
        try:
            parts = planar.resample(frame)
        except ValueError:  # another rate or other channels from here on
            planar = av.AudioResampler("fltp", layout, rate_hz)
            parts = planar.resample(frame)
        for part in parts:
            yield part.to_ndarray().astype(np.float32, copy=False), rate_hz, at
            at = None


def _decoded(
    container: InputContainer, stream: AudioStream, video: Video, *, warn: bool = True
) -> Iterator[AudioFrame]:
    """Frames in order; damaged ones are left out, and told once."""
    num_damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                break
            yield from stream.decode(packet)
        except MemoryError:  # FFmpeg's is both
            raise
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            num_damaged += 1
            if num_damaged > _MOST_DAMAGED:
                break
    if num_damaged and warn:
        message = f"the sound of {video.path} is damaged: {num_damaged} of its packets"
        warnings.warn(f"{message} could not be used", MediaWarning, stacklevel=2)


def _open(video: Video) -> InputContainer:
    _ = video.info  # refuses what is no video
    return open_container(video.path)


def _stream(container: InputContainer, video: Video) -> AudioStream:
    stream = next(iter(container.streams.audio), None)  # FFmpeg's best is that of most bits
    if stream is None:
        raise OptionError(
            f"{video.path} has no sound, expected some to mix with; leave --mix out, or choose "
            "another video"
        )
    return stream
