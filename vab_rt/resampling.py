"""Sound at another rate, by FFmpeg's resampler, in pieces; and as FFmpeg's frames and filters have
it."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import cast

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.filter.context import FilterContext
from av.filter.graph import Graph
from numpy.typing import NDArray

Samples = NDArray[np.float32]
LAYOUTS = {1: "mono", 2: "stereo"}


def frame_of(samples: Samples, rate_hz: int, first: int) -> AudioFrame:
    """A frame of samples [C, S], the first of which is number `first`."""
    layout = LAYOUTS[len(samples)]
    planes = np.ascontiguousarray(samples, np.float32)
    frame = AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
    frame.sample_rate, frame.time_base, frame.pts = rate_hz, Fraction(1, rate_hz), first
    return frame


def source_of(graph: Graph, rate_hz: int, num_channels: int) -> FilterContext:
    """Where such frames go into a graph of filters."""
    return graph.add_abuffer(
        sample_rate=rate_hz,
        format="fltp",
        layout=LAYOUTS[num_channels],
        time_base=Fraction(1, rate_hz),
    )


def ready_frames(sink: FilterContext) -> Iterator[AudioFrame]:
    """What a graph of filters has ready."""
    try:
        while True:
            yield cast(AudioFrame, sink.pull())
    except (BlockingIOError, EOFError):
        return


class Resampling:
    """Sound [C, S] at one rate in, at another out: as long to the sample, and in time with it."""

    def __init__(self, from_hz: int, to_hz: int, num_channels: int) -> None:
        self._from_hz, self._to_hz = from_hz, to_hz
        self._resampler = AudioResampler("fltp", LAYOUTS[num_channels], to_hz)
        self._none: Samples = np.zeros((num_channels, 0), np.float32)
        self._num_in = self._num_out = 0

    def add(self, samples: Samples, *, is_last: bool) -> Samples:
        """What is ready of the sound so far; everything that is left where this is the last."""
        num = samples.shape[-1]
        frames = [frame_of(samples, self._from_hz, self._num_in)] if num else []
        self._num_in += num
        parts = [self._resampler.resample(each) for each in (*frames, *([None] if is_last else []))]
        ready = np.concatenate([self._none, *(part.to_ndarray() for part in chain(*parts))], -1)
        if is_last:  # its last samples are of time after the sound, or one is missing
            left = round(Fraction(self._num_in * self._to_hz, self._from_hz)) - self._num_out
            missing = max(0, left - ready.shape[-1])
            ready = np.pad(ready, ((0, 0), (0, missing)))[:, :left]
        self._num_out += ready.shape[-1]
        return ready


def resample(samples: Samples, from_hz: int, to_hz: int) -> Samples:
    """The same of a whole sound [S]."""
    if from_hz == to_hz or not len(samples):
        return samples
    heard: Samples = Resampling(from_hz, to_hz, 1).add(samples[None], is_last=True)[0]
    return heard
