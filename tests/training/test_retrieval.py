"""Recall at ranks, and the choice of clips."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training.datasets.clips import TokenisedClips
from training.evaluation.retrieval import recalls, retrieval_result, spread_over_classes
from vab_rt.errors import DataError


def test_recall_counts_partners_among_the_first():
    similarity = np.eye(20)
    similarity[0, 5] = 2  # query 0 finds its partner second
    similarity[1, 2:9] = 2  # query 1 finds it eighth
    found = recalls(similarity)
    assert (found["r1"], found["r5"], found["r10"]) == (0.9, 0.95, 1.0)
    low, high = found["r1_95"]
    assert low < 0.9 < high


def test_what_tells_nothing_apart_finds_nothing():
    assert recalls(np.ones((50, 50)))["r10"] == 0
    chance = recalls(np.random.default_rng(0).standard_normal((500, 500)))
    assert chance["r1"] < 0.02 and chance["r10"] < 0.05


def test_the_two_ways_are_not_confused():
    class Fixed:
        """Two sounds lie where picture 0 is, and nothing near picture 1."""

        log_scale = torch.zeros(1)

        def audio(self, tokens):
            return torch.tensor([[1.0, 0.0], [0.9, 0.1]])

        def visual(self, features):
            return torch.tensor([[1.0, 0.0], [0.0, 1.0]])

    clips = TokenisedClips(
        tokens=np.zeros((2, 1, 1), np.int16),
        features=np.zeros((2, 1, 1), np.float32),
        labels=np.zeros((2, 1), np.float32),
    )
    found = retrieval_result(Fixed(), clips)
    assert found["video_to_audio"]["r1"] == 1.0, "each picture has its own sound first"
    assert found["audio_to_video"]["r1"] == 0.5, "sound 1 finds picture 0 first"
    with pytest.raises(DataError, match="1 clips, expected at least 2"):
        one = clips.take(np.arange(1))
        retrieval_result(Fixed(), TokenisedClips(one.tokens, one.features, one.labels))


def test_clips_are_spread_over_the_classes():
    labels = np.eye(3)[[0, 0, 0, 0, 0, 0, 1, 1, 2]].astype(np.float32)
    assert spread_over_classes(labels, 3).tolist() == [0, 6, 8]
    assert spread_over_classes(labels, 5).tolist() == [0, 1, 6, 7, 8]
    assert spread_over_classes(labels, 100).tolist() == list(range(9))


def test_clips_without_classes_are_taken_from_the_first_on():
    assert spread_over_classes(np.zeros((9, 0), np.float32), 3).tolist() == [0, 1, 2]
