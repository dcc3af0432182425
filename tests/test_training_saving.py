"""What is saved is whole, or the old file stays and the error says what to do."""

import resource

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from training.saving import save_whole
from vab_rt.errors import OutputError


@pytest.fixture
def small_disk():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file(tmp_path, small_disk):
    path = tmp_path / "stage.pt"
    save_whole(path, {"step": 1})
    with pytest.raises(OutputError, match=r"stage\.pt could not be written .*free some space"):
        save_whole(path, {"weights": torch.zeros(100_000)})
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]
