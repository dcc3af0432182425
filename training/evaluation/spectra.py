"""What a sound is like beside its kind: level, bands, pitch, envelope; of clips and of blows.

A spectrum is the level in BANDS bands, with its own mean taken away: what remains is colour. What
lies more than FLOOR_DB below the loudest band is as good as silent.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchaudio.functional import resample

from training.foleyworld.sounds import SAMPLE_RATE_HZ, active_rms

Floats = NDArray[np.float64]
Sound = NDArray[np.float32]

BANDS, LOW_HZ, HIGH_HZ = 30, 80.0, 7600.0
FLOOR_DB = 40.0
SILENCE_RMS = 1e-5
N_FFT = 4096
BLOW_S, BEFORE_S = 0.25, 0.01
"""A blow lasts until the next, at most BLOW_S, and begins before its onset, which is the middle of
the rise."""
ENVELOPE_RATE_HZ = 10


def resampled(sound: Sound, from_hz: int, to_hz: int) -> Sound:
    """[..., S] at another rate."""
    return resample(torch.from_numpy(sound), from_hz, to_hz).numpy()


class Blows(NamedTuple):
    """What each of n onsets sounds like: bands [n, BANDS] and levels [n] in dB, pitches [n] in
    Hz."""

    bands: Floats
    levels_db: Floats
    pitches_hz: Floats


def level_db(audio: Sound) -> float:
    """RMS while it sounds, in dB of full scale; -100 for silence."""
    return float(20 * np.log10(max(active_rms(audio), SILENCE_RMS)))


def mean_bands(audio: Sound) -> Floats:
    """The spectrum of a whole clip [S] -> [BANDS]."""
    frames = np.lib.stride_tricks.sliding_window_view(audio, N_FFT)[:: N_FFT // 2]
    spectrum = np.fft.rfft(frames * np.hanning(N_FFT).astype(np.float32))
    return colour_of((np.abs(spectrum).astype(np.float64) ** 2).mean(0))


def blows_at(audio: Sound, onsets_s: Floats) -> Blows:
    """The blows that begin at sorted onsets [n] of a clip [S]."""
    starts = np.maximum(0, np.round((onsets_s - BEFORE_S) * SAMPLE_RATE_HZ)).astype(int)
    longest = round(BLOW_S * SAMPLE_RATE_HZ)
    ends = np.minimum(np.append(starts[1:], len(audio)), starts + longest)
    bands, levels, pitches = [], [], []
    for start, end in zip(starts, ends, strict=True):
        power = np.abs(np.fft.rfft(faded(audio[start:end]), N_FFT)) ** 2
        bands.append(colour_of(power))
        rms = np.sqrt(np.sum(audio[start:end].astype(np.float64) ** 2) / longest)
        levels.append(20 * np.log10(max(rms, SILENCE_RMS)))
        pitches.append(pitch_of(power))
    return Blows(np.reshape(bands, (-1, BANDS)), np.array(levels), np.array(pitches))


def faded(blow: Sound) -> Floats:
    """Without the step that its cut end would be."""
    return blow * np.cos(np.linspace(0, np.pi / 2, len(blow))) ** 2


def colour_of(power: Floats) -> Floats:
    """Levels in dB of the bands of a power spectrum [N_FFT / 2 + 1], their mean taken away."""
    levels = 10 * np.log10(np.add.reduceat(power, band_bins()[:-1])[:BANDS] + 1e-12)
    levels = np.maximum(levels, levels.max() - FLOOR_DB)
    return levels - levels.mean()


@functools.cache
def band_bins() -> NDArray[np.int64]:
    """The first bin of each band, and of what is above them [BANDS + 1]."""
    edges_hz = np.geomspace(LOW_HZ, HIGH_HZ, BANDS + 1)
    bins = np.round(edges_hz * N_FFT / SAMPLE_RATE_HZ).astype(np.int64)
    return np.append(bins, N_FFT // 2)


def pitch_of(power: Floats) -> float:
    """Hz of the strongest partial from LOW_HZ on."""
    first = int(band_bins()[0])
    return float((first + power[first:].argmax()) * SAMPLE_RATE_HZ / N_FFT)


def distance_db(a: Floats, b: Floats) -> Floats:
    """Mean difference of spectra [..., BANDS], which are broadcast against each other."""
    return np.abs(a - b).mean(-1)


def semitones(a_hz: Floats, b_hz: Floats) -> Floats:
    """The interval between pitches, at most two octaves: a wrong partial is wrong, however far."""
    return np.minimum(24.0, np.abs(12 * np.log2(a_hz / b_hz)))


def steadiness_db(bands: Floats) -> float:
    """Mean distance of all pairs of spectra [n, BANDS]; NaN of fewer than two."""
    first, second = np.triu_indices(len(bands), 1)
    return float(distance_db(bands[first], bands[second]).mean()) if len(first) else np.nan


def envelope_db(audio: Sound) -> Floats:
    """Levels in dB, ENVELOPE_RATE_HZ a second, no lower than FLOOR_DB below the highest."""
    block = SAMPLE_RATE_HZ // ENVELOPE_RATE_HZ
    blocks = audio[: len(audio) // block * block].reshape(-1, block).astype(np.float64)
    levels = 20 * np.log10(np.sqrt((blocks**2).mean(1)) + SILENCE_RMS)
    return np.maximum(levels, levels.max() - FLOOR_DB)


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's, of envelopes; 0 where either does not move."""
    a, b = a - a.mean(), b - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 1e-9 else 0.0
