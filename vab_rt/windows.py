"""Sound of any length from a model of fixed length: windows over a stream of visual features.

Each window after the first begins inside the one before. What its system decodes there is what that
one ended with, so that the sound goes on instead of starting anew; the two renderings of the shared
part are joined in its middle, within one hop. Only one window is held at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vab_rt.config import ClipConfig

# 2**64 over the golden ratio: window seeds of nearby clip seeds do not meet.
_SEED_STRIDE = 0x9E3779B97F4A7C15
_SHORT_S = 1.2


class Seen(NamedTuple):
    """What a model sees at one visual tick."""

    feature: npt.NDArray[np.float32]
    """[visual_dim]"""
    end_s: float | None
    """with the last feature alone: the exact length of what is to be heard"""


@dataclass(frozen=True)
class Window:
    """One run of the model. `keep` selects the samples [S] of its sound that are heard."""

    index: int
    features: npt.NDArray[np.float32]
    """[F, visual_dim]; past the end of the video its last feature repeats, of a very short one all
    come back and forth"""
    num_seen: int
    """features that are of the video, before those that repeat"""
    keep: slice
    is_last: bool

    def seed(self, clip_seed: int) -> int:
        return (clip_seed + self.index * _SEED_STRIDE) % 2**64


def cut_windows(
    stream: Iterator[Seen], config: ClipConfig, lead_s: float = 0.0
) -> Iterator[Window]:
    """Windows over a stream of features, one per visual tick, at least one.

    A feature of tick i means that the video is longer than (i + 0.5) / visual_rate_hz. The kept
    samples add up to the video's, exactly. lead_s: at most half a clip that is seen but not heard,
    before the time that end_s tells.
    """
    c = config
    lead = c.samples_in(lead_s)
    held: list[npt.NDArray[np.float32]] = []
    num_read, end_s = 0, None
    for index in count():
        start = index * (c.num_hops - c.num_overlap_hops)
        end = start + c.num_hops
        # A feature centred at or past the window's end proves that the video goes on; not the
        # first of all, which is there however short the video.
        beyond = max(1, _tick(end, c))
        for feature, end_s in islice(stream, max(0, beyond + 1 - num_read)):
            held.append(feature)
            num_read += 1
        held = held[-max(1, num_read - _tick(start, c)) :]
        num_left: int | None = None
        if num_read <= beyond:
            assert end_s is not None, f"the stream ended after {num_read} without its length"
            num_left = lead + c.samples_in(end_s) - start * c.hop_samples
        is_last = num_left is not None and num_left <= c.num_samples
        keep = _kept(index, num_left if is_last else None, lead, c)
        num_seen = min(len(held), c.num_frames)
        is_short = index == 0 and is_last and num_seen < _SHORT_S * c.visual_rate_hz
        fill = _fill_back_and_forth if is_short else _fill
        yield Window(index, fill(held, c.num_frames), num_seen, keep, is_last)
        if is_last:
            return


def join(
    audio: npt.NDArray[np.float32],
    tail: npt.NDArray[np.float32],
    window: Window,
    config: ClipConfig,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """What is heard of a window's sound [S], blended in from the `tail` that the window before
    left; and the tail that this one leaves, one hop long, empty after the last window.

    Both render the same tokens, so most codecs agree on these samples. One that accumulates phase
    agrees but for the phase.
    """
    heard = audio[window.keep].copy()
    count = min(len(tail), len(heard))
    heard[:count] = blend(tail[:count], heard[:count])
    end = window.keep.stop
    return heard, audio[end : end + (0 if window.is_last else config.hop_samples)]


def blend(old: npt.NDArray[np.float32], new: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A line from old to new [S], raised where they are not in phase, so that the power stays."""
    rise = (np.arange(len(old), dtype=np.float32) + 1) / (len(old) + 1)
    scale = np.sqrt((old @ old) * (new @ new))
    correlation = (old @ new) / scale if scale > 0 else np.float32(1)
    power = 1 - 2 * rise * (1 - rise) * (1 - max(np.float32(0), correlation))
    blended: npt.NDArray[np.float32] = np.clip(
        (new + (1 - rise) * (old - new)) / np.sqrt(power), -1, 1
    )
    return blended


def heard_hops(window: Window, config: ClipConfig) -> slice:
    """The hops of a window that are heard, the first and the last of them maybe in part."""
    hop = config.hop_samples
    return slice(window.keep.start // hop, -(-window.keep.stop // hop))


def num_windows(duration_s: float, config: ClipConfig) -> int:
    """How many windows a video of this length takes."""
    stride = config.num_hops - config.num_overlap_hops
    beyond = config.samples_in(duration_s) / config.hop_samples - config.num_hops
    return 1 + max(0, math.ceil(beyond / stride))


def _tick(hop: int, config: ClipConfig) -> int:
    """The first visual tick whose centre lies at or after the beginning of a hop."""
    return math.ceil(hop / config.hop_rate_hz * config.visual_rate_hz - 0.5)


def _fill(held: list[npt.NDArray[np.float32]], num_frames: int) -> npt.NDArray[np.float32]:
    rows = held[:num_frames]
    return np.stack(rows + rows[-1:] * (num_frames - len(rows)))  # [F, visual_dim]


def _fill_back_and_forth(
    held: list[npt.NDArray[np.float32]], num_frames: int
) -> npt.NDArray[np.float32]:
    """The features of a very short video again and again: one that freezes at once sounds of
    nothing."""
    there_and_back = held + held[::-1]
    return np.stack([there_and_back[i % len(there_and_back)] for i in range(num_frames)])


def _kept(index: int, num_left: int | None, lead: int, config: ClipConfig) -> slice:
    """From the middle of one shared part to the middle of the next, or the ends of the video."""
    shared = config.num_overlap_hops * config.hop_samples
    begin = shared // 2 if index else lead
    end = config.num_samples - shared + shared // 2
    return slice(begin, end if num_left is None else num_left)
