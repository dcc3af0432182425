"""The sound of a media file as the codec takes it, on the clock of its frames."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from vab_rt.errors import MediaError
from vab_rt.packets import starts_again, timed_packets
from vab_rt.source import decode, open_video, seek

_PREROLL = Fraction(1)  # seconds after which codec and resampler are as if they had never jumped
_JITTER = Fraction(1, 20)  # seconds; containers round times, so only a larger step is a gap


def read_soundtrack(
    path: Path, rate_hz: int, begin: Fraction, duration: Fraction
) -> NDArray[np.float32]:
    """Mono samples [duration * rate_hz] in [-1, 1], the mean of all channels.

    begin: of the first sample, in seconds of the container, as its frames count them. Silence
    where the file has none. Raises MediaError when it has no sound there, or cannot be read.
    """
    samples = np.zeros(round(duration * rate_hz), np.float32)
    num_heard = 0
    for at, part in _parts(path, rate_hz, begin):
        first = round((at - begin) * rate_hz)
        if first >= len(samples):
            break
        heard = part[max(0, -first) : len(samples) - first]
        samples[max(0, first) :][: len(heard)] = heard
        num_heard += len(heard)
    if not num_heard:
        raise MediaError(
            f"{path} has no sound from {float(begin):g} s on, expected {float(duration):g} s of "
            "it; leave the file out"
        )
    return samples.clip(-1, 1)


def _parts(
    path: Path, rate_hz: int, begin: Fraction
) -> Iterator[tuple[Fraction, NDArray[np.float32]]]:
    """(time of the first sample, samples [S]) from `begin` or before it to the end of the file."""
    seek_s = begin - _PREROLL
    can_seek = seek_s > 0 and _seek_lands_before(path, seek_s)
    with open_video(path) as (container, stream):
        if not container.streams.audio:
            raise MediaError(f"{path} has no sound, expected a soundtrack; leave the file out")
        try:
            if can_seek:
                seek(container, stream, seek_s)
            resampler = av.AudioResampler(format="fltp", rate=rate_hz)  # mixing to mono is louder
            at = None
            for frame in container.decode(container.streams.audio[0]):
                for part in resampler.resample(frame):
                    at = _time_of(part, at)
                    yield at, part.to_ndarray().mean(0)
                    at += Fraction(part.samples, rate_hz)
        except (av.error.FFmpegError, ValueError) as error:
            raise MediaError(
                f"the sound of {path} cannot be read ({error}), expected a complete file; "
                "copy it again, or leave it out"
            ) from error


def _seek_lands_before(path: Path, seconds: Fraction) -> bool:
    """Whether a seek lets this moment be shown: some containers land after it, or cannot seek."""
    with open_video(path) as (container, stream):
        if starts_again(container, stream):
            return False
    with open_video(path) as (container, stream):
        try:
            seek(container, stream, seconds)
        except av.error.FFmpegError:
            return False
        packets = timed_packets(container, stream)
        first = next(decode(packets, stream, path, warn=False), None)
        return first is not None and first[1] <= seconds


def _time_of(part: av.AudioFrame, expected: Fraction | None) -> Fraction:
    """Where a part belongs: right after the one before it, unless there is a gap."""
    if part.pts is None or part.time_base is None:
        return expected or Fraction(0)
    at = part.pts * part.time_base
    return at if expected is None or abs(at - expected) > _JITTER else expected
