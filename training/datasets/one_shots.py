"""Recordings in parts: single sounds from their onset on, and stretches; and quiet room tone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

LONGEST_S, FADE_S = 1.2, 0.08
BEFORE_S = 0.002
RISE_DB, BELOW_PEAK_DB, GAP_S = 10.0, -14.0, 0.09
STRUCK_BELOW, SHORT_S = 0.5, 1.0
USUAL_DB = -20.0
JOINT_S = 0.08


def envelope_db(samples: Samples, rate_hz: int) -> NDArray[np.float64]:
    """RMS of every 5 ms, in dB of full scale."""
    hop = rate_hz // 200
    padded = np.pad(samples, (0, -len(samples) % hop)).reshape(-1, hop).astype(np.float64)
    return 10 * np.log10((padded**2).mean(1) + 1e-10)


def onsets(samples: Samples, rate_hz: int) -> list[int]:
    """Where sounds begin, as sample numbers: steep rises to near the loudest moment. A recording
    without any has one, where it is first loud."""
    level = envelope_db(samples, rate_hz)
    before = np.pad(level, (8, 0), constant_values=level.min() - 2 * RISE_DB)
    lowest = np.lib.stride_tricks.sliding_window_view(before, 8)[: len(level)].min(1)
    near = np.lib.stride_tricks.sliding_window_view(np.pad(level, (0, 3), mode="edge"), 4).max(1)
    loud = level.max() + BELOW_PEAK_DB
    rises = np.flatnonzero((near > loud) & (level - lowest > RISE_DB))
    kept: list[int] = []
    for i in rises.tolist():
        if not kept or i - kept[-1] > 200 * GAP_S:
            kept.append(i)
    if not kept:
        kept = [int(np.argmax(level > loud))]
    return [_exact(samples, i * (rate_hz // 200), rate_hz) for i in kept]


def _exact(samples: Samples, near: int, rate_hz: int) -> int:
    """The first sample of a rise that is found to 5 ms."""
    start = max(0, near - rate_hz // 200)
    part = np.abs(samples[start : near + rate_hz // 33])
    first = start + int(np.argmax(part > 0.15 * part.max()))
    return max(0, first - round(BEFORE_S * rate_hz))


def one_shots(samples: Samples, rate_hz: int) -> list[Samples]:
    """Each single sound, until the next one or LONGEST_S, with its tail faded out."""
    starts = onsets(samples, rate_hz)
    ends = [*starts[1:], len(samples)]
    cut = []
    for start, end in zip(starts, ends, strict=True):
        shot = samples[start : min(end, start + round(LONGEST_S * rate_hz))].copy()
        fade = min(len(shot), round(FADE_S * rate_hz))
        shot[len(shot) - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
        shot[: rate_hz // 1000] *= np.linspace(0, 1, rate_hz // 1000, dtype=np.float32)[: len(shot)]
        if len(shot) > 0.02 * rate_hz:
            cut.append(shot)
    return cut


def are_struck(recordings: Sequence[Samples], rate_hz: int) -> bool:
    """Whether they are of a kind that is heard in single sounds: they are short, or loud for less
    than half of the time."""
    lengths = [len(x) / rate_hz for x in recordings]
    loud = [float((e > e.max() - 20).mean()) for e in (_slowly(x, rate_hz) for x in recordings)]
    return float(np.median(lengths)) < SHORT_S or float(np.median(loud)) < STRUCK_BELOW


def _slowly(samples: Samples, rate_hz: int) -> NDArray[np.float64]:
    """RMS of every 25 ms, in dB: crackling fire is no row of single sounds."""
    power = 10 ** (envelope_db(samples, rate_hz) / 10)
    padded = np.pad(power, (0, -len(power) % 5), mode="edge").reshape(-1, 5)
    return 10 * np.log10(padded.mean(1))


def trimmed(samples: Samples, rate_hz: int) -> Samples:
    """Without what is far below its loudest moment at either end."""
    level = envelope_db(samples, rate_hz)
    loud = np.flatnonzero(level > level.max() - 45)
    hop = rate_hz // 200
    return samples[loud[0] * hop : (loud[-1] + 1) * hop]


def stretch(parts: Sequence[Samples], length: int, rate_hz: int) -> Samples:
    """[length]: the parts one after the other and from the first again, joined by crossfades."""
    joint = min([round(JOINT_S * rate_hz), *(len(part) // 3 for part in parts)])
    rise = np.sqrt(np.linspace(0, 1, joint, dtype=np.float32))
    out, at, i = np.zeros(length, np.float32), 0, 0
    while at < length:
        part = parts[i % len(parts)].copy()
        if at > 0:
            part[:joint] *= rise
        part[len(part) - joint :] *= rise[::-1]
        count = min(len(part), length - at)
        out[at : at + count] += part[:count]
        at, i = at + len(part) - joint, i + 1
    return out


def played(
    shots: Sequence[Samples], starts: Sequence[int], gains: Sequence[float], length: int
) -> Samples:
    """[length]: shot i at sample starts[i]; what still sounds then goes on beneath it."""
    out = np.zeros(length, np.float32)
    for shot, start, gain in zip(shots, starts, gains, strict=True):
        count = min(len(shot), length - start)
        out[start : start + count] += np.float32(gain) * shot[:count]
    return out


def room_tone(length: int, rate_hz: int, random: np.random.Generator) -> Samples:
    """Noise of a drawn colour whose level moves slowly, RMS 1."""
    spectrum = np.fft.rfft(random.standard_normal(length))
    hz = np.fft.rfftfreq(length, 1 / rate_hz)
    tilt, low = random.uniform(0.4, 1.1), random.uniform(30, 120)
    spectrum *= (hz / low + 1) ** -tilt * (hz > 20)
    noise = np.fft.irfft(spectrum, length)
    knots = random.uniform(0.6, 1.0, 6)
    noise *= np.interp(np.arange(length), np.linspace(0, length, 6), knots)
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


def active_db(samples: Samples, rate_hz: int) -> float:
    """The level of what sounds: of the moments within 20 dB of the loudest."""
    level = envelope_db(samples, rate_hz)
    loud = level[level > level.max() - 20]
    return float(10 * np.log10((10 ** (loud / 10)).mean()))


def at_usual_level(samples: Samples, rate_hz: int, random: np.random.Generator) -> Samples:
    """Halfway, in dB, from its own level to USUAL_DB, a few dB around that."""
    target_db = 0.5 * (active_db(samples, rate_hz) + USUAL_DB) + random.uniform(-3, 3)
    gain = 10 ** ((target_db - active_db(samples, rate_hz)) / 20)
    return samples * np.float32(gain)
