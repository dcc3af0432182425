"""Clips in memory: batches are pure functions of their arguments, files are read without pickle."""

import numpy as np
import pytest

from training.datasets.clips import Batch, TokenisedClips
from vab_rt.errors import DataError, OutputError


def make_clips(num_clips=11):
    """Every array names the clip it belongs to."""
    number = np.arange(num_clips)
    return TokenisedClips(
        tokens=np.broadcast_to(number[:, None, None], (num_clips, 2, 5)).astype(np.int16),
        features=np.broadcast_to(number[:, None, None], (num_clips, 3, 4)).astype(np.float16),
        labels=np.eye(num_clips, dtype=np.float32),
    )


def rows(batch: Batch) -> list[int]:
    return batch.tokens[:, 0, 0].tolist()


def test_a_batch_has_the_types_that_training_takes():
    batch = make_clips().batch(step=0, count=6, seed=0)
    assert (batch.tokens.dtype, batch.tokens.shape) == (np.int32, (6, 2, 5))
    assert (batch.features.dtype, batch.features.shape) == (np.float32, (6, 3, 4))
    assert (batch.labels.dtype, batch.labels.shape) == (np.float32, (6, 11))
    assert len(batch) == 6


def test_the_arrays_of_a_batch_are_of_the_same_clips():
    batch = make_clips().batch(step=0, count=50, seed=0)
    assert rows(batch) == batch.features[:, 2, 3].tolist() == batch.labels.argmax(1).tolist()


def test_a_batch_depends_on_step_and_seed_alone():
    clips = make_clips()
    assert rows(clips.batch(3, 20, seed=1)) == rows(make_clips().batch(3, 20, seed=1))
    assert rows(clips.batch(3, 20, seed=1)) != rows(clips.batch(4, 20, seed=1))
    assert rows(clips.batch(3, 20, seed=1)) != rows(clips.batch(3, 20, seed=2))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_ranks_together_see_what_one_process_would(world):
    clips, whole = make_clips(), [0] * 12
    for rank in range(world):
        whole[rank::world] = rows(clips.batch(5, 12 // world, 7, rank, world))
    assert whole == rows(clips.batch(5, 12, 7))


def test_saved_clips_are_the_same_when_loaded(tmp_path):
    clips = make_clips()
    clips.save(tmp_path / "clips.npz")
    loaded = TokenisedClips.load(tmp_path / "clips.npz")
    for name in ("tokens", "features", "labels"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(clips, name))
        assert getattr(loaded, name).dtype == getattr(clips, name).dtype
    assert [path.name for path in tmp_path.iterdir()] == ["clips.npz"]


def test_clips_may_have_no_labels(tmp_path):
    clips = TokenisedClips(
        tokens=np.zeros((2, 2, 5), np.int16),
        features=np.zeros((2, 3, 4), np.float32),
        labels=np.zeros((2, 0), np.float32),
    )
    clips.save(tmp_path / "clips.npz")
    assert TokenisedClips.load(tmp_path / "clips.npz").batch(0, 4, 0).labels.shape == (4, 0)


@pytest.mark.parametrize(
    "shapes",
    [((3, 2, 5), (2, 3, 4), (3, 1)), ((3, 2, 5), (3, 3, 4), (2, 1)), ((3, 2), (3, 3, 4), (3, 1))],
)
def test_arrays_that_do_not_belong_together_are_refused(shapes):
    with pytest.raises(DataError, match=r"expected tokens \[N, K, T\]"):
        TokenisedClips(*(np.zeros(shape) for shape in shapes))


def test_no_clips_at_all_are_refused():
    with pytest.raises(DataError, match="no clips"):
        TokenisedClips(np.zeros((0, 2, 5)), np.zeros((0, 3, 4)), np.zeros((0, 1)))


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "clips.npz"
    make_clips().save(path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"clips\.npz cannot be read.*make it again"):
        TokenisedClips.load(path)
    with pytest.raises(DataError, match=r"none\.npz cannot be read"):
        TokenisedClips.load(tmp_path / "none.npz")


def test_a_file_without_labels_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "old.npz", tokens=np.zeros((1, 2, 5)), features=np.zeros((1, 3, 4)))
    with pytest.raises(DataError, match=r"old\.npz has no array 'labels'"):
        TokenisedClips.load(tmp_path / "old.npz")


def test_pickled_arrays_are_refused(tmp_path):
    objects = np.array([{}], dtype=object)
    np.savez(tmp_path / "evil.npz", tokens=objects, features=objects, labels=objects)
    with pytest.raises(DataError, match=r"evil\.npz cannot be read"):
        TokenisedClips.load(tmp_path / "evil.npz")


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "clips.npz"
    make_clips(3).save(path)

    def no_room(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", no_room)
    with pytest.raises(OutputError, match=r"clips\.npz could not be written \(No space left"):
        make_clips(4).save(path)
    assert len(TokenisedClips.load(path)) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["clips.npz"]
