"""Windows over a stream of features: what each sees, what is heard of it, what it carries over."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_bundle import tiny_config

from vab_rt.systems.vab import carry_over
from vab_rt.windows import Seen, cut_windows, join, num_windows

CONFIG = tiny_config()  # F 4, T 100, S 32000, overlap 30 steps: windows begin every 1.4 s
PAPER = tiny_config(clip_s=10.0, visual_rate_hz=1.0)
FAST = tiny_config(clip_s=10.0, visual_rate_hz=25.0)


def ticks(duration_s, config):
    """One feature per tick whose centre lies inside the video, at least one; it says its number."""
    for i in itertools.count():
        if i and (i + 0.5) / config.visual_rate_hz >= duration_s:
            return
        is_last = (i + 1.5) / config.visual_rate_hz >= duration_s
        yield Seen(np.array([i], np.float32), duration_s if is_last else None)


def windows(duration_s, config=CONFIG):
    return list(cut_windows(ticks(duration_s, config), config))


def seen(window) -> list[int]:
    return window.features[:, 0].astype(int).tolist()


def heard(found, config) -> list[tuple[int, int]]:
    """First and last sample of the video that each window gives."""
    stride = (config.num_hops - config.num_overlap_hops) * config.hop_samples
    return [(w.index * stride + w.keep.start, w.index * stride + w.keep.stop) for w in found]


def test_a_video_of_the_clips_length_is_one_window():
    (window,) = windows(10.0, PAPER)
    assert window.is_last and window.keep == slice(0, 160_000)
    assert seen(window) == list(range(10))


def test_a_shorter_video_repeats_its_last_feature_and_is_cut():
    (window,) = windows(3.3, PAPER)
    assert seen(window) == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2]
    assert window.keep == slice(0, 52_800)


def test_a_very_short_video_is_seen_back_and_forth():
    (window,) = windows(0.2, FAST)
    assert seen(window)[:12] == [0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 1] and window.num_seen == 5
    assert len(window.features) == FAST.num_frames and window.keep == slice(0, 3200)
    assert seen(windows(1.2, FAST)[0])[28:33] == [28, 29, 29, 29, 29]


def test_a_lead_is_seen_but_not_heard():
    *before, last = ticks(3.0, PAPER)
    stream = iter([*before, last._replace(end_s=0.5)])
    (window,) = cut_windows(stream, PAPER, lead_s=1.75)
    assert seen(window)[:4] == [0, 1, 2, 2] and window.keep == slice(28_000, 36_000)


def test_a_longer_video_is_joined_in_the_middle_of_the_shared_parts():
    first, second, third = windows(20.0, PAPER)
    assert seen(first) == list(range(10)) and seen(second) == list(range(7, 17))
    assert seen(third) == [14, 15, 16, 17, 18, 19, 19, 19, 19, 19]
    assert first.keep == slice(0, 136_000)  # 8.5 s
    assert second.keep == slice(24_000, 136_000)
    assert third.keep == slice(24_000, 96_000)
    assert [w.is_last for w in (first, second, third)] == [False, False, True]


def test_one_sample_too_many_takes_another_window():
    assert len(windows(2.0)) == 1
    _first, second = windows(2.0 + 1 / 16_000)
    assert second.keep.stop == CONFIG.samples_in(0.6) + 1
    assert seen(second) == [3, 3, 3, 3]


def test_a_video_of_one_frame():
    (window,) = windows(0.04)
    assert seen(window) == [0, 0, 0, 0] and window.keep == slice(0, 640)


@settings(max_examples=200)
@given(
    duration_s=st.floats(0.001, 60),
    clip_s=st.sampled_from([0.1, 1.0, 2.0, 3.7, 10.0]),
    visual_rate_hz=st.sampled_from([0.1, 0.7, 1.0, 5.0, 7.3, 29.97]),
)
def test_what_is_heard_adds_up_to_the_video(duration_s, clip_s, visual_rate_hz):
    config = tiny_config(clip_s=clip_s, visual_rate_hz=visual_rate_hz)
    found = windows(duration_s, config)
    ends = heard(found, config)
    assert ends[0][0] == 0 and ends[-1][1] == config.samples_in(duration_s)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))
    assert all(0 <= w.keep.start <= w.keep.stop <= config.num_samples for w in found)
    assert [w.is_last for w in found] == [False] * (len(found) - 1) + [True]
    assert all(w.features.shape == (config.num_frames, 1) for w in found)
    assert len(found) == num_windows(duration_s, config)


@given(st.floats(1.3, 60), st.sampled_from([CONFIG, PAPER, FAST]))
def test_every_window_sees_the_pictures_of_its_own_time(duration_s, config):
    last = len(list(ticks(duration_s, config))) - 1
    stride_s = (config.num_hops - config.num_overlap_hops) / config.hop_rate_hz
    for window in windows(duration_s, config):
        first = window.index * stride_s * config.visual_rate_hz
        for i, tick in enumerate(seen(window)):
            assert tick == last or abs(tick - (first + i)) <= 0.5


def test_windows_are_cut_while_the_video_is_read():
    """Nothing is held but one window: a video without end works."""
    read = itertools.count()
    endless = (Seen(np.array([next(read)], np.float32), None) for _ in itertools.count())
    for window in itertools.islice(cut_windows(endless, PAPER), 500):
        assert seen(window)[0] == 7 * window.index
    assert next(read) == 7 * 499 + 11


def test_seeds_of_windows():
    first, second, *_ = windows(10.0)
    assert first.seed(5) == 5
    assert second.seed(2**64 - 1) == 0x9E3779B97F4A7C15 - 1


def test_carried_over_tokens_are_the_last_of_the_window_before():
    assert (carry_over(None, CONFIG) == CONFIG.mask_id).all()
    previous = np.arange(200, dtype=np.int32).reshape(1, 2, 100)
    tokens = carry_over(previous, CONFIG)
    assert tokens.shape == (1, 2, 100) and tokens.dtype == np.int32
    assert (tokens[..., :30] == previous[..., 70:]).all()
    assert (tokens[..., 30:] == CONFIG.mask_id).all()


def test_a_clip_too_short_to_share_carries_nothing_over():
    config = tiny_config(clip_s=0.02)
    previous = np.zeros((1, 2, 1), np.int32)
    assert (carry_over(previous, config) == config.mask_id).all()


def tone(phase):
    time_s = np.arange(PAPER.num_samples) / PAPER.sample_rate_hz
    return (0.3 * np.sin(2 * np.pi * 440 * time_s + phase)).astype(np.float32)


def test_a_join_of_equal_renderings_changes_nothing():
    first, second = windows(15.0, PAPER)
    stride = PAPER.num_samples - PAPER.num_overlap_hops * PAPER.hop_samples
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * PAPER.num_samples).astype(np.float32)
    heard, tail = join(sound[: PAPER.num_samples], np.empty(0, np.float32), first, PAPER)
    assert len(tail) == PAPER.hop_samples
    more, rest = join(sound[stride : stride + PAPER.num_samples], tail, second, PAPER)
    np.testing.assert_allclose(np.concatenate([heard, more]), sound[: 15 * 16_000], atol=1e-6)
    assert len(rest) == 0


@pytest.mark.parametrize("phase", [0.5, 1.0, 1.5, 2.0])
def test_a_join_of_tones_out_of_phase_keeps_their_power_and_does_not_click(phase):
    first, second = windows(15.0, PAPER)
    heard, tail = join(tone(0), np.empty(0, np.float32), first, PAPER)
    more, _ = join(tone(phase), tail, second, PAPER)
    sound = np.concatenate([heard, more])
    blocks = np.lib.stride_tricks.sliding_window_view(sound, 800)[::80]  # 50 ms every 5 ms
    level_db = 20 * np.log10(np.sqrt((blocks**2).mean(1)))
    assert np.ptp(level_db) < 1.0
    steps = np.abs(np.diff(sound))
    assert steps.max() < 1.2 * steps[: len(heard)].max()


def test_a_join_with_silence_fades():
    first, second = windows(15.0, PAPER)
    _, tail = join(np.zeros(PAPER.num_samples, np.float32), np.empty(0, np.float32), first, PAPER)
    more, _ = join(np.ones(PAPER.num_samples, np.float32), tail, second, PAPER)
    assert more[0] < 0.1 and more[PAPER.hop_samples] == 1 and np.isfinite(more).all()
