"""A pass of pre-training on a GPU that is not there: tensors without memory say where they are."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import tiny_config
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from training import distributed
from training.datasets.clips import TokenisedClips
from training.model import VAB
from training.pretrain import PretrainSettings, masked_loss, training_batch

CUDA = torch.device("cuda", 0)
SETTINGS = PretrainSettings(batch=2, crop_s=1.2, precision="fp32")


@pytest.fixture
def no_memory(monkeypatch):
    """Tensors that compute nothing; mixing devices raises, and so does reading a value."""
    monkeypatch.setattr(distributed, "device", lambda: CUDA)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # CUDA's own
    monkeypatch.setattr(torch.nn.init, "trunc_normal_", lambda weight, **_: weight)  # looks at it
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def make_clips(config) -> TokenisedClips:
    tokens = np.zeros((4, config.num_codebooks, config.num_token_steps), np.int16)
    features = np.zeros((4, config.num_frames, config.visual_dim), np.float16)
    return TokenisedClips(tokens, features, np.zeros((4, 0), np.float32))


@pytest.mark.parametrize("progress", [0.0, 1.0])
@pytest.mark.parametrize("given_codebooks", [0, 1])
def test_a_pass_stays_on_the_gpu_and_does_not_wait_for_it(no_memory, given_codebooks, progress):
    config = tiny_config(
        num_codebooks=2,
        given_codebooks=given_codebooks,
        layers=2,
        expert_layers=1,
        sinusoids=True,
        aligned_visual=True,
    )
    with CUDA:
        model = VAB(config)
    batch = training_batch(make_clips(config), config, SETTINGS, 0, progress)
    loss, right = masked_loss(model, batch, config, SETTINGS)
    assert loss.device == right.device == CUDA


def test_what_waits_or_is_elsewhere_would_be_seen(no_memory):
    here = torch.zeros(3, device=CUDA)
    with pytest.raises(DynamicOutputShapeException):
        here[here > 0]
    with pytest.raises(RuntimeError, match=r"cuda:0, cpu|different devices|same device"):
        here + torch.zeros(3)
