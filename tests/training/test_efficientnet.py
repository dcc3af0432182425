"""The frozen recogniser: its package's weights, its pictures' scale, and what it refuses."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import tiny_config
from efficientnet_lite_pytorch import EfficientNet

from training.efficientnet import IMAGE_SIZE, LITE0, load_efficientnet, read_efficientnet
from vab_rt.errors import OptionError


def test_logits_are_those_of_the_authors_network():
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, IMAGE_SIZE, IMAGE_SIZE, 3), generator=random).byte()
    encoder = load_efficientnet(tiny_config(image_size=IMAGE_SIZE))
    theirs = EfficientNet.from_name(LITE0).eval()
    theirs.load_state_dict({n: torch.tensor(w) for n, w in read_efficientnet().items()})
    with torch.no_grad():
        logits, feature = encoder(frames)
        expected = theirs((frames.permute(0, 3, 1, 2).float() - 127) / 128)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert feature.shape == (2, 1280) and feature.std() > 0.1
    assert not any(weight.requires_grad for weight in encoder.parameters())


def test_other_sizes_of_picture_are_refused():
    with pytest.raises(OptionError, match="image_size 32, expected 224"):
        load_efficientnet(tiny_config(image_size=32))
