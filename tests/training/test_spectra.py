"""Level, bands, pitch and envelope tell what they are named for, and nothing else."""

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the measures need scipy")

from training.evaluation.spectra import (
    BANDS,
    blows_at,
    correlation,
    distance_db,
    envelope_db,
    level_db,
    mean_bands,
    semitones,
    steadiness_db,
)

TIMES_S = np.arange(160_000) / 16_000


def strokes(pitches_hz, gain=0.5):
    """A decaying tone at 1, 2, ... s."""
    audio = np.zeros(160_000)
    for second, hz in enumerate(pitches_hz, start=1):
        after = TIMES_S[:8000]
        audio[second * 16_000 :][:8000] += (
            gain * np.exp(-after / 0.1) * np.sin(2 * np.pi * hz * after)
        )
    return audio.astype(np.float32)


def test_level_is_that_of_what_sounds():
    tone = (0.5 * np.sin(2 * np.pi * 440 * TIMES_S)).astype(np.float32)
    halved = np.where(TIMES_S < 5, tone, 0).astype(np.float32)
    assert level_db(tone) == pytest.approx(-9.03, abs=0.05)
    assert level_db(halved) == pytest.approx(level_db(tone), abs=0.1), "its rests do not count"
    assert level_db(tone / 10) == pytest.approx(level_db(tone) - 20)
    assert level_db(np.zeros(160_000, np.float32)) == -100


def test_bands_are_colour_without_level():
    low, high = strokes([300] * 5), strokes([2400] * 5)
    assert distance_db(mean_bands(low), mean_bands(low / 30)) < 0.01
    assert distance_db(mean_bands(low), mean_bands(high)) > 5
    assert mean_bands(low).shape == (BANDS,) and abs(mean_bands(low).mean()) < 1e-9
    assert np.isfinite(mean_bands(np.zeros(160_000, np.float32))).all()


def test_blows_have_their_own_pitch_and_level():
    audio = strokes([300, 600, 300])
    audio[32_000:40_000] *= 0.1
    blows = blows_at(audio, np.array([1.0, 2.0, 3.0]))
    assert blows.pitches_hz == pytest.approx([300, 600, 300], rel=0.02)
    assert blows.levels_db[0] - blows.levels_db[1] == pytest.approx(20, abs=0.2)
    assert distance_db(blows.bands[0], blows.bands[2]) < 0.05
    assert steadiness_db(blows.bands[[0, 2]]) < 0.05 and steadiness_db(blows.bands) > 2
    assert np.isnan(steadiness_db(blows.bands[:1]))
    assert blows_at(audio, np.zeros(0)).bands.shape == (0, BANDS)
    assert len(blows_at(audio, np.array([9.98])).pitches_hz) == 1, "a blow at the very end"


def test_semitones_stop_at_two_octaves():
    found = semitones(np.array([440.0, 880.0, 8000.0]), np.array([440.0, 440.0, 100.0]))
    assert found.tolist() == [0, 12, 24]


@pytest.mark.parametrize(("rate_hz", "expected"), [(0.3, 1), (0.6, 0), (0, 0)])
def test_envelopes_are_compared_by_their_shape(rate_hz, expected):
    carrier = np.random.default_rng(0).standard_normal(160_000)
    swell, other = (1.1 + np.sin(2 * np.pi * hz * TIMES_S) for hz in (0.3, rate_hz))
    first, second = (
        envelope_db((gain * x * carrier).astype(np.float32))
        for gain, x in ((0.1, swell), (0.02, other))
    )
    assert correlation(first, second) == pytest.approx(expected, abs=0.1)
