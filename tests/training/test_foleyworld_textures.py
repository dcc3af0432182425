"""FoleyWorld's continuous classes: sound follows the picture, and none sounds like another."""

from itertools import pairwise

import numpy as np
import pytest
from foleyworld_scenes import loudness, spectra, with_place

from training.foleyworld import SAMPLE_RATE_HZ, Scene, make_scene
from training.foleyworld.sounds import NUM_SAMPLES
from training.foleyworld.winds import moving_band

KINDS = ("rain", "waves", "engine", "wind", "fire", "saw")
NEW = ("wind", "fire", "saw")
EDGES_HZ = np.geomspace(60, 7500, 19)


def at_place(kind: str, seed: int, size: float, distance: float) -> Scene:
    return with_place(make_scene(seed, kind), size=size, distance=distance, side=0.0)


def centroids_hz(audio: np.ndarray) -> np.ndarray:
    power = spectra(audio)
    return (power * np.arange(power.shape[1]) * 10).sum(axis=1) / power.sum(axis=1)


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_level_follows_loudness(kind, distance):
    for seed in range(4):
        scene = at_place(kind, seed, 0.5, distance)
        levels = np.array(scene.truth.levels[kind])
        assert levels.max() - levels.min() > 0.4
        heard = loudness(scene.audio(), len(levels))
        assert np.corrcoef(levels, heard)[0, 1] > 0.7


@pytest.mark.parametrize("kind", (*NEW, "engine"))
@pytest.mark.parametrize("size", [0.05, 0.95])
def test_a_single_picture_shows_the_level(kind, size):
    """A straight line from 8x8 colours fits the level of frames it was not fitted to."""
    scene = at_place(kind, 3, size, 1.5)
    source = scene.sources[0]
    times = np.linspace(0.05, 9.95, 160)
    frames = scene.frames(times, 64, 64).astype(np.float64) / 255
    coarse = frames.reshape(160, 8, 8, 8, 8, 3).mean(axis=(2, 4)).reshape(160, -1)
    coarse = np.concatenate([coarse - coarse.mean(axis=0), np.ones((160, 1))], axis=1)
    levels = np.array([source.level(time_s) for time_s in times.tolist()])
    fit, held = coarse[::2], coarse[1::2]
    weights = np.linalg.solve(fit.T @ fit + 0.02 * np.eye(fit.shape[1]), fit.T @ levels[::2])
    assert np.corrcoef(held @ weights, levels[1::2])[0, 1] > 0.85


def test_wind_moans_higher_in_gusts():
    for seed in range(3):
        for size in (0.05, 0.95):
            scene = at_place("wind", seed, size, 1.0)
            levels = np.array(scene.truth.levels["wind"])
            center = centroids_hz(scene.audio())
            windy = levels > 0.2
            assert np.corrcoef(levels[windy], center[windy])[0, 1] > 0.7
            assert 230 < np.median(center[windy]) < 950


def test_a_moving_band_is_where_it_is_asked_for():
    center = np.where(np.arange(NUM_SAMPLES) < NUM_SAMPLES // 2, 400.0, 1200.0)
    band = moving_band(np.random.default_rng(0), center, 30.0)
    measured = centroids_hz(band)
    np.testing.assert_allclose(measured[:50].mean(), 400, atol=25)
    np.testing.assert_allclose(measured[50:].mean(), 1200, atol=25)
    assert abs(np.sqrt(np.mean(band**2)) - 1) < 1e-3


def test_fire_crackles_over_its_rumble():
    """Above 1 kHz the fire is sparse clicks, where rain is a steady hiss."""

    def peakiness(kind: str) -> float:
        spectrum = np.fft.rfft(at_place(kind, 2, 0.5, 1.0).sources[0].sound(rng))
        spectrum[: NUM_SAMPLES * 1000 // SAMPLE_RATE_HZ] = 0
        high = np.fft.irfft(spectrum)
        return float((high**4).mean() / (high**2).mean() ** 2)

    rng = np.random.default_rng(0)
    assert peakiness("fire") > 3 * peakiness("rain")


def test_the_saw_is_silent_between_strokes_and_rough_within():
    scene = at_place("saw", 1, 0.5, 1.0)
    saw, audio = scene.sources[0], scene.audio()
    speed = np.abs(saw.speed((np.arange(1000) + 0.5) / 100))
    heard = loudness(audio, 1000)
    assert heard[speed == 0].max() < 0.05 * heard[speed > 0.5].mean()
    starts = np.array(scene.truth.events["saw"])
    assert 0.55 < np.diff(starts).min()
    assert np.diff(starts).max() < 1.25
    blade = saw.position(np.linspace(0, 10, 2001))
    assert blade.min() < 0.2
    assert blade.max() > 0.8
    assert np.abs(np.diff(blade)).max() < 0.02


def test_the_saws_speed_is_the_slope_of_its_position():
    saw = make_scene(4, "saw").sources[0]
    times = np.linspace(1.0, 9.0, 4001)
    slope = np.gradient(saw.position(times), times)
    speed = saw.speed(times)
    assert np.corrcoef(slope, speed)[0, 1] > 0.999
    assert np.abs(speed).max() <= 1.0


def voice(kind: str, seed: int, size: float) -> np.ndarray:
    """What tells textures apart: a mean log spectrum and how much each band comes and goes."""
    audio = at_place(kind, seed, size, 2.0).audio()
    power = spectra(audio)
    hertz = np.arange(power.shape[1]) * 10
    bands = [
        power[:, (hertz >= low) & (hertz < high)].mean(axis=1) for low, high in pairwise(EDGES_HZ)
    ]
    decibels = 10 * np.log10(np.array(bands) + 1e-6)
    return np.concatenate([decibels.mean(axis=1), 2 * decibels.std(axis=1)])


def test_the_six_sound_unlike_each_other_at_every_size():
    """Every clip lies nearest to another clip of its class, in three sizes."""
    sizes = (0.0, 0.5, 1.0)
    voices = [(kind, voice(kind, s, size)) for kind in KINDS for size in sizes for s in (0, 1)]
    for i, (kind, one) in enumerate(voices):
        others = [(np.linalg.norm(one - v), k) for j, (k, v) in enumerate(voices) if j != i]
        assert min(others)[1] == kind
