"""What clips with kinds say in training: as seen, as told, or unsure; the sum stays."""

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from real_folders import small_config

from training.datasets.kind_clips import AS_SEEN, KindClips

KINDS = ("dog", "rain", "ambience")
CONFIG = msgspec.structs.replace(small_config(), kinds=KINDS, visual_dim=3 + 2 + 128)
NUM = 4


def clips():
    """0: a dog, seen; 1: rain, not seen; 2: of FoleyWorld; 3: ambience, seen, then both kinds."""
    random = np.random.default_rng(0)
    images = np.zeros((NUM, 4, 5), np.float16)
    images[..., :3] = (0.25, 0.25, 0.5)
    images[..., 3:] = random.uniform(1, 2, (NUM, 4, 2))
    shown, heard = np.zeros((NUM, 25), np.int8), np.full((NUM, 25, 2), -1, np.int16)
    shown[1], shown[3, 10:] = -1, -1
    heard[0, :, 0], heard[1, :, 0], heard[3, :10, 0], heard[3, 10:] = 0, 1, 2, (0, 1)
    tokens = random.integers(0, 9, (NUM, 4, 500)).astype(np.int16)
    motion = random.standard_normal((NUM, 250, 128)).astype(np.float16)
    return KindClips(tokens, motion, images, shown, heard, CONFIG)


def many(kept):
    """features [400, 250, visual_dim] and which clip each is of."""
    batches = [kept.batch(step, 40, 0) for step in range(10)]
    which = [np.abs(kept.motion[:, 0, 0] - b.features[:, :1, 5]).argmin(1) for b in batches]
    return np.concatenate([b.features for b in batches]), np.concatenate(which)


def test_a_batch_is_a_function_of_its_arguments_and_ranks_share_it():
    kept = clips()
    whole = kept.batch(3, 8, 1)
    np.testing.assert_array_equal(whole.features, kept.batch(3, 8, 1).features)
    for rank in range(2):
        part = kept.batch(3, 4, 1, rank, 2)
        np.testing.assert_array_equal(part.features, whole.features[rank::2])
        np.testing.assert_array_equal(part.tokens, whole.tokens[rank::2])
    assert whole.features.shape == (8, 250, CONFIG.visual_dim) and whole.labels.shape == (8, 3)


def test_probabilities_add_up_and_motion_stays():
    features, which = many(clips())
    np.testing.assert_allclose(features[..., :3].sum(2), 1, atol=1e-3)
    np.testing.assert_array_equal(features[..., 5:], clips().motion[which].astype(np.float32))


def test_what_is_seen_is_told_as_kinds_are_in_some_clips():
    features, which = many(clips())
    dogs = features[which == 0][:, 0]
    as_seen = np.isclose(dogs[:, :3], (0.25, 0.25, 0.5)).all(1)
    told = (dogs[:, 0] == 1) & (dogs[:, 3:5] == 0).all(1)
    assert abs(as_seen.mean() - AS_SEEN) < 0.15 and abs(told.mean() - 0.3) < 0.15
    unsure = ~as_seen & ~told
    assert unsure.any() and (dogs[unsure, 0] < 1).all()
    assert (dogs[unsure, 0] >= 0.3).all() or np.ptp(dogs[unsure, 0]) > 0


def test_what_is_not_seen_is_told_or_unsure_and_the_world_stays_as_it_is():
    features, which = many(clips())
    rain = features[which == 1][:, 0]
    told = (rain[:, 1] == 1) & (rain[:, 3:5] == 0).all(1)
    assert 0.4 < told.mean() < 0.8 and (rain[:, 1] >= 0.29).all()
    world = features[which == 2][:, 0]
    np.testing.assert_allclose(world[:, :3], np.broadcast_to((0.25, 0.25, 0.5), (len(world), 3)))
    both = features[which == 3][:, 249]
    assert np.isclose(both[:, :2], 0.5).all(1).any()  # shared equally


def test_validation_is_as_seen_and_knows_its_labels():
    kept = clips().in_memory()
    np.testing.assert_allclose(kept.features[0, 0, :3], (0.25, 0.25, 0.5))
    np.testing.assert_array_equal(kept.labels, [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(kept.features, clips().in_memory().features)
