"""Headroom: no true peak above -1 dBTP, whatever arrives, in pieces of any length."""

import numpy as np
import pytest

from vab_rt.loudness import CEILING, Limiter, true_peaks

RATE = 16_000
CEILING_DBTP = -1.0


def peak_dbtp(samples: np.ndarray, times: int = 16) -> float:
    """The true peak, by oversampling in the spectrum."""
    padded = np.pad(samples.astype(np.float64), 256)
    spectrum = np.fft.rfft(padded)
    long = np.zeros(len(padded) * times // 2 + 1, complex)
    long[: len(spectrum)] = spectrum
    return 20 * np.log10(np.abs(np.fft.irfft(long, len(padded) * times) * times).max())


def limited(samples: np.ndarray, lengths: list[int] | None = None) -> np.ndarray:
    pieces = np.split(samples, np.cumsum(lengths or []))
    limiter = Limiter(RATE)
    ready = [
        limiter.add(piece, is_last=number == len(pieces) - 1) for number, piece in enumerate(pieces)
    ]
    return np.concatenate(ready)


def loud(kind: str) -> np.ndarray:
    time = np.arange(RATE) / RATE
    away = np.abs(np.arange(RATE) - RATE / 2 + 0.5)
    random = np.random.default_rng(0)
    sounds = {
        "clipped noise": np.clip(random.standard_normal(RATE), -1, 1),
        "slip": (away < 8) * 0.39 * np.cos(np.pi * (away - 0.5)),  # + - + + - +
        "square": np.sign(np.sin(2 * np.pi * 441 * time)),
        "low tone": np.sin(2 * np.pi * 60 * time),
        "between samples": np.sin(2 * np.pi * 4000 * time + np.pi / 4) * 1.2,
        "click": (time == 0.5) * 1.0,
        "click at the ends": ((time == 0) | (time == time[-1])) * 1.0,
    }
    return sounds[kind].astype(np.float32)


KINDS = ["clipped noise", "slip", "square", "low tone", "between samples", "click"]
KINDS += ["click at the ends"]


@pytest.mark.parametrize("kind", KINDS)
def test_true_peaks_stay_below_the_ceiling(kind):
    sound = loud(kind)
    assert peak_dbtp(sound) > CEILING_DBTP
    out = limited(sound)
    assert out.shape == sound.shape and out.dtype == np.float32
    assert peak_dbtp(out) <= CEILING_DBTP
    assert np.abs(out).max() > 0.3


def test_what_is_below_the_ceiling_is_not_touched():
    sound = np.random.default_rng(0).uniform(-0.4, 0.4, RATE).astype(np.float32)
    assert np.array_equal(limited(sound), sound)
    sound[RATE // 2] = 1.0
    changed = np.flatnonzero(limited(sound) != sound)
    assert changed.min() > RATE // 2 - 700 and changed.max() < RATE // 2 + 700


@pytest.mark.parametrize("lengths", [[8000], [0, 1, 7, 300, 5000], [15_999], [700] * 22])
def test_pieces_give_the_sound_of_the_whole(lengths):
    sound = loud("clipped noise")
    np.testing.assert_allclose(limited(sound, lengths), limited(sound), atol=1e-6)


@pytest.mark.parametrize("num_samples", [1, 2, 100, 3000])
def test_short_sound_keeps_its_length(num_samples):
    sound = np.ones(num_samples, np.float32)
    out = limited(sound)
    assert len(out) == num_samples and peak_dbtp(out) <= CEILING_DBTP


def test_peaks_between_samples_are_found():
    time = np.arange(4000) / RATE
    tone = np.sin(2 * np.pi * 4000 * time + np.pi / 4).astype(np.float32)  # samples of 0.707
    assert true_peaks(tone)[100:-100].max() == pytest.approx(1.0, abs=0.01)
    assert np.abs(tone).max() < CEILING
