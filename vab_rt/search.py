"""Which sounds of an index fit a video: by what the model says of their tokens.

A first pass takes what is said of all times together, so that a sound need not be in time; the best
are then tried from every time on.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from vab_rt.config import ModelConfig
from vab_rt.sound_index import SoundIndex
from vab_rt.systems.vab import Said, Vab, mean_gains
from vab_rt.windows import Window, heard_hops

TRIED_IN_TIME = 16
"""At least so many of the best are tried from every time on, in each window."""
_APART_S = 0.04

Floats = npt.NDArray[np.float32]


class Found(msgspec.Struct, frozen=True):
    """A sound file that fits a video."""

    path: Path
    """the file, below the folder as it was indexed"""
    score: float
    """how much likelier what is seen makes it: nats a token, more is better"""
    start_s: float
    """where in the video its beginning fits best, in seconds; below 0 where the video begins
    within it; of a sound shorter than a clip without the silence before it"""


def search(windows: Iterable[Window], index: SoundIndex, system: Vab, top: int) -> list[Found]:
    """The `top` sounds that fit best, each where it fits best; fewer where there are fewer."""
    c, usable = system.config, np.flatnonzero(index.is_usable)
    best: dict[int, Found] = {}
    lead = None
    for window in windows:
        heard = heard_hops(window, c)
        lead = heard.start if lead is None else lead
        begin = window.index * (c.num_hops - c.num_overlap_hops) + heard.start - lead
        said = system.said(window.features)
        part = Said(said.with_features[:, heard], said.without[:, heard])
        first = at_any_time(part, index.tokens[usable])
        rows = usable[np.argsort(-first, kind="stable")[: max(top, TRIED_IN_TIME)]]
        scores, hops = in_time(part.gains, index.tokens[rows], c)
        for row, score, hop in zip(rows, scores, hops, strict=True):
            start_s = (begin + int(hop)) / c.hop_rate_hz
            if row not in best or score > best[row].score:
                best[row] = Found(index.folder / index.names[row], float(score), start_s)
    return sorted(best.values(), key=lambda found: -found.score)[:top]


def at_any_time(said: Said, tokens: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """How well tokens [N, K, T] fit what is said [K, H, V] of all times together [N]."""
    gains = _log_mean(said.with_features) - _log_mean(said.without)  # [K, 1, V]
    steps = tokens.shape[2]
    return mean_gains(np.broadcast_to(gains, (len(gains), steps, gains.shape[2])), tokens)


def in_time(
    gains: Floats, tokens: npt.NDArray[np.int16], config: ModelConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """How well tokens [N, K, T] fit gains [K, H, V] when they begin at the hop where they fit best
    [N], and that hop [N]: below 0 where the gains begin within the sound. What would be heard
    before its beginning is its end."""
    steps, hops = tokens.shape[2], gains.shape[1]
    starts = np.arange(0, steps, max(1, round(_APART_S * config.hop_rate_hz)))
    of_token = np.ascontiguousarray(gains.transpose(0, 2, 1))  # [K, V, H]
    scores = np.empty((len(tokens), len(starts)))
    for number, one in enumerate(tokens):
        scores[number] = _from_each(starts, of_token, one)
    begun = starts[scores.argmax(1)]
    return scores.max(1), np.where(begun < hops, begun, begun - steps)


def _from_each(
    starts: npt.NDArray[np.intp], gains: Floats, tokens: npt.NDArray[np.int16]
) -> npt.NDArray[np.float64]:
    """How well tokens [K, T] fit gains [K, V, H] when they begin at each of these hops [starts]."""
    (num_codebooks, _, hops), steps = gains.shape, tokens.shape[1]
    fit = sum(gains[k, tokens[k]] for k in range(num_codebooks))  # [T, H]
    twice = np.concatenate([fit, fit])
    row, item = twice.strides
    begun = np.lib.stride_tricks.as_strided(twice[steps:], (steps, hops), (-row, row + item))
    mean: npt.NDArray[np.float64] = begun[starts].mean(1, dtype=np.float64) / num_codebooks
    return mean


def _log_mean(logarithms: Floats) -> Floats:
    """The logarithm of the mean over the steps of what these [K, H, V] are of [K, 1, V]."""
    highest = logarithms.max(1, keepdims=True)
    mean: Floats = highest + np.log(np.exp(logarithms - highest).mean(1, keepdims=True))
    return mean
