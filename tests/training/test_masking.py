"""What pre-training does to a batch."""

import numpy as np
import pytest

from training.masking import (
    mask_ratios,
    mask_tokens,
    temporal_freeze,
    temporal_mixup,
    temporal_roll,
)


def test_ratios_follow_the_truncated_normal():
    ratios = mask_ratios(np.random.default_rng(0), 20_000)
    assert ratios.min() >= 0.5 and ratios.max() <= 1.0
    # mean of a normal(0.55, 0.25) kept on [0.5, 1]: 0.55 + 0.25 * (phi(-0.2) - phi(1.8)) / Z
    assert ratios.mean() == pytest.approx(0.6935, abs=0.003)


def test_masking_hides_each_token_independently():
    tokens = np.arange(8 * 4 * 500, dtype=np.int32).reshape(8, 4, 500) % 100
    masked, hidden = mask_tokens(tokens, 100, np.random.default_rng(0))
    assert (masked[hidden] == 100).all()
    assert (masked[~hidden] == tokens[~hidden]).all()
    shares = hidden.mean((1, 2))
    assert (shares > 0.45).all() and shares.std() > 0.02
    assert hidden[0].mean(1).std() < 0.1  # no codebook is favoured


def test_masking_in_order_hides_the_last_codebooks_first():
    tokens = np.zeros((400, 6, 50), np.int32)
    _, hidden = mask_tokens(tokens, 100, np.random.default_rng(0), given=2, in_order=1.0)
    shares = hidden.mean(2)  # [B, K]
    assert (shares[:, :2] == 0).all() and (shares[:, 5] > 0).mean() > 0.95
    assert (np.diff(shares[:, 2:], axis=1) >= 0).all()  # a later one as often or oftener
    assert ((shares > 0) & (shares < 1)).sum(1).max() == 1  # one at a time is known in part
    assert abs(shares[:, 2:].mean() - 0.5) < 0.05


def batch(count=64):
    tokens = np.repeat(np.arange(count, dtype=np.int32), 4 * 100).reshape(count, 4, 100)
    features = np.repeat(np.arange(count, dtype=np.float32), 10 * 3).reshape(count, 10, 3)
    return tokens, features


def test_mixup_cuts_both_streams_at_the_same_instant():
    tokens, features = batch()
    mixed, mixed_features = temporal_mixup(tokens, features, np.random.default_rng(0), 1.0)
    for b in range(len(tokens)):
        step = int((mixed[b, 0] == b).sum())
        frame = int((mixed_features[b, :, 0] == b).sum())
        assert step == 10 * frame and 0 < frame < 10
        assert (mixed[b, :, step:] == (b - 1) % len(tokens)).all()
    assert (tokens == batch()[0]).all(), "the clips themselves must not change"


def test_mixup_happens_as_often_as_asked():
    tokens, features = batch(2000)
    mixed, _ = temporal_mixup(tokens, features, np.random.default_rng(0), 0.5)
    assert (mixed != tokens).any((1, 2)).mean() == pytest.approx(0.5, abs=0.04)


def test_roll_turns_both_streams_together():
    tokens = np.broadcast_to(np.arange(100, dtype=np.int32), (32, 4, 100))
    features = np.broadcast_to(np.arange(10, dtype=np.float32)[:, None], (32, 10, 3))
    rolled, rolled_features = temporal_roll(tokens, features, np.random.default_rng(0), 1.0)
    assert (rolled[:, 0, 0] // 10 == rolled_features[:, 0, 0]).all()
    assert len(set(rolled[:, 0, 0].tolist())) > 5


def test_from_one_frame_on_a_frozen_clip_shows_its_last_one():
    _, features = batch()
    features = features + np.arange(10, dtype=np.float32)[:, None] / 100
    frozen = temporal_freeze(features, np.random.default_rng(0), 0.5)
    changed = (frozen != features).any((1, 2))
    assert 0.3 < changed.mean() < 0.7
    for before, after in zip(features[changed], frozen[changed], strict=True):
        first = int((before != after).any(1).argmax())
        assert first >= 1 and (after[:first] == before[:first]).all()
        assert (after[first:] == before[first - 1]).all()
