"""What is saved is whole, or the old file stays and the error says what to do."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from command import small_disk

from training.saving import arrays_once, save_whole
from vab_rt.errors import OutputError


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path, content = tmp_path / "stage.pt", {"weights": torch.zeros(100_000)}
    save_whole(path, {"step": 1})
    with small_disk(), pytest.raises(OutputError, match=r"stage\.pt could not .*free some space"):
        save_whole(path, content)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_of_a_gpu_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def fail(content, path):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="CUDA error"):
        save_whole(tmp_path / "stage.pt", {})
    assert not list(tmp_path.iterdir())


def test_arrays_are_made_once_and_again_where_they_are_damaged(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"x/y": np.arange(3)}

    path = tmp_path / "heard" / "0.npz"
    for _ in range(2):
        assert list(arrays_once(path, make)["x/y"]) == [0, 1, 2]
    assert len(made) == 1
    path.write_bytes(path.read_bytes()[:50])
    assert list(arrays_once(path, make)["x/y"]) == [0, 1, 2] and len(made) == 2
    arrays_once(None, make)
    assert len(made) == 3 and list(tmp_path.rglob("*.npz")) == [path]
