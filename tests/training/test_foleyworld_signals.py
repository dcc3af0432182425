"""FoleyWorld's tonal classes: what is seen is what is heard, and none is taken for another."""

import numpy as np
import pytest
from foleyworld_scenes import loudness, spectra, steady, with_place

from training.foleyworld import CLIP_S, NUM_SAMPLES, SAMPLE_RATE_HZ, Scene, make_scene

KINDS = ("siren", "bird", "bell", "alarm")
BLOCK = 320  # samples: 20 ms
NUM_BLOCKS = NUM_SAMPLES // BLOCK


def alone(seed: int, kind: str, size: float = 0.5) -> Scene:
    """The source near and in the middle, before a camera and in a light that stay as they are."""
    return with_place(steady(make_scene(seed, kind)), size=size, distance=1.2, side=0.0)


def rise_db(audio: np.ndarray, time_s: float) -> float:
    """Peak of the 10 ms after a time over the 10 ms before it."""
    at, span = round(time_s * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ // 100
    before, after = np.abs(audio[max(0, at - span) : at]), np.abs(audio[at : at + span])
    return float(20 * np.log10(after.max() / (before.max() + 1e-4)))


@pytest.mark.parametrize("kind", ["bird", "bell", "alarm"])
def test_events_are_where_the_sound_starts(kind):
    for seed in range(3):
        scene = alone(seed, kind)
        audio, events = scene.audio(), scene.truth.events[kind]
        assert list(events) == sorted(events)
        assert 0.0 <= events[0]
        assert CLIP_S / 2 < events[-1] < CLIP_S
        assert min(rise_db(audio, time_s) for time_s in events) > 3.0
        assert max(rise_db(audio, time_s + 0.02) for time_s in events) < 3.0


@pytest.mark.parametrize("kind", ["siren", "bird", "alarm"])
def test_silence_is_between(kind):
    for seed in range(3):
        scene = alone(seed, kind)
        (source,) = scene.sources
        middles = (np.arange(NUM_BLOCKS) + 0.5) * BLOCK / SAMPLE_RATE_HZ
        levels = np.array([source.level(time_s) for time_s in middles])
        edges = np.convolve(levels > 0, np.ones(5), "same")
        heard = loudness(scene.audio(), NUM_BLOCKS)
        assert heard[edges == 0].max() < 0.005
        assert (edges == 0).sum() > 20
        assert np.median(heard[edges == 5]) > 0.05


def test_the_sirens_pitch_and_beam_rise_together():
    for seed in range(3):
        scene = alone(seed, "siren")
        levels = np.array(scene.truth.levels["siren"])
        power = spectra(scene.audio())
        low = power[:, :140]  # the first harmonic lies below 1400 Hz
        pitch = low.argmax(axis=1)
        sounding = (levels > 0.02) & (power.sum(axis=1) > 0.1 * np.median(power.sum(axis=1)))
        assert np.corrcoef(levels[sounding], pitch[sounding])[0, 1] > 0.9
        times = np.arange(0.05, CLIP_S, 0.1)
        heading = np.array([scene.sources[0].heading(time_s) for time_s in times.tolist()])
        up = 0.5 - 0.5 * np.cos(2 * np.pi * heading)
        assert np.abs(up - levels)[sounding].max() < 0.01
        light = scene.frames(times, 64, 64).mean(axis=(1, 2, 3))
        assert np.ptp(light) < 0.08 * light.mean()


def test_a_bell_rings_inharmonically_and_fades():
    for seed in range(3):
        scene = alone(seed, "bell")
        (bell,) = scene.sources
        events = scene.truth.events["bell"]
        assert 3 <= len(events) <= 6
        assert np.diff(events).min() >= 1.3
        heard = loudness(scene.audio(), NUM_BLOCKS)
        for time_s in events:
            block = round(time_s * SAMPLE_RATE_HZ) // BLOCK
            assert heard[block + 1] > 1.5 * heard[min(block + 40, len(heard) - 1)]
        prime = bell.attributes()["prime_hz"]
        start = round((events[0] + 0.1) * SAMPLE_RATE_HZ)
        power = np.abs(np.fft.rfft(scene.audio()[start : start + 16_000] * np.hanning(16_000)))
        for ratio in (0.5, 1.0, 1.2, 1.5, 2.0):
            at = round(prime * ratio)
            assert power[at - 3 : at + 4].max() > 10 * np.median(power[at - 60 : at + 60])


@pytest.mark.parametrize("kind", ["bell", "alarm", "bird"])
def test_a_single_small_picture_shows_the_event(kind):
    """32 milliseconds after it, against a little before it."""
    for seed in range(3):
        scene = alone(seed, kind)
        events = np.array(scene.truth.events[kind])
        before, after = (scene.frames(events + s, 64, 64).astype(int) for s in (-0.03, 0.032))
        changed = (np.abs(after - before).max(axis=3) > 40).sum(axis=(1, 2))
        assert changed.min() >= 25  # pixels of 4096


def test_the_open_beak_is_large():
    for seed in range(3):
        scene = alone(seed, "bird", size=0.1)
        start, duration, *_ = scene.sources[0].chirps[0]
        times = np.array([start - 0.05, start + 0.45 * duration])
        closed, open_ = scene.frames(times, 64, 64).astype(int)
        assert (np.abs(open_ - closed).max(axis=2) > 60).sum() > 60
        assert "bird" in scene.caption(times[0])
        assert "closed" in scene.caption(times[0])
        assert "singing, its beak wide open" in scene.caption(times[1])


def test_an_alarm_has_one_pitch_and_beeps_in_groups():
    for seed in range(4):
        scene = alone(seed, "alarm")
        (alarm,) = scene.sources
        assert all(1 <= len(group) <= 4 for group in alarm.groups)
        power = spectra(scene.audio())
        loud = power.sum(axis=1) > 0.3 * power.sum(axis=1).max()
        assert np.ptp(power[loud].argmax(axis=1)) <= 2  # 20 Hz
        pitch = alarm.attributes()["pitch_hz"]
        assert abs(power.sum(axis=0).argmax() * 10 - pitch) <= 15
        pauses = [b[0] - a[-1] for a, b in zip(alarm.groups, alarm.groups[1:], strict=False)]
        assert min(pauses) > 0.7
        words = [scene.caption(time_s) for time_s in np.arange(0.05, CLIP_S, 0.1)]
        down = [level > 0 for level in scene.truth.levels["alarm"]]
        assert [("lever down" in caption) for caption in words] == down


def test_the_four_differ_at_every_size():
    """In how much of a clip sounds and how much its pitch moves, a rule tells them apart."""
    for kind in KINDS:
        for seed in range(3):
            for size in (0.05, 0.95):
                assert told(alone(seed, kind, size).audio()) == kind


def told(audio: np.ndarray) -> str:
    """A classifier of four rules over the loudest partial of each 0.1 s."""
    power = spectra(audio)
    total = power.sum(axis=1)
    loud = total > 0.01 * total.max()
    strongest = power[loud].argmax(axis=1) * 10.0  # Hz
    spread = np.std(np.log2(strongest))
    third = power[loud].sum(axis=0)
    root = int(third.argmax())
    odd = third[3 * root - 3 : 3 * root + 4].max(initial=0.0) / third[root]
    if spread < 0.03 and odd > 0.03:
        return "alarm"
    if np.median(strongest) > 1150:
        return "bird"
    steps = np.abs(np.diff(np.log2(strongest)))
    return "siren" if np.median(steps) > 0.03 else "bell"
