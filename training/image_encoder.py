"""Image encoders: RGB bytes in, features out, normalisation inside. CLIP's through open_clip,
MAE's through timm, which the paper compares with them (appendix C.6), and one that knows kinds."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import open_clip
import timm
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn import functional as F

from training.efficientnet import LITE0
from training.kinds import KindsEncoder
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

TINY = "resnet-tiny-64"
"""CLIP's own ResNet, small: on a few thousand clips it learns kinds that a ViT of this size and in
this time does not (docs/LOG.md)."""
MAE = "mae/"
"""Before timm's name of a ViT, whose [CLS] token is the feature: mae/vit_large_patch16_224."""


def image_encoder(config: ModelConfig) -> nn.Module:
    """frames uint8 [N, image_size, image_size, 3] -> features float32 [N, image_dim], untrained."""
    return KindsEncoder(config) if config.image_encoder == LITE0 else ImageEncoder(config)


class ImageEncoder(nn.Module):
    """frames uint8 [N, image_size, image_size, 3] -> unit features float32 [N, image_dim]."""

    def __init__(self, config: ModelConfig, visual: nn.Module | None = None) -> None:
        super().__init__()
        self.visual = visual if visual is not None else build_visual(config)
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in mean_and_std(config))
        self.register_buffer("mean", 255 * mean, persistent=False)
        self.register_buffer("std", 255 * std, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        images = frames.float().permute(0, 3, 1, 2)  # [N, 3, image_size, image_size]
        return F.normalize(self.visual((images - self.mean) / self.std), dim=-1)


def mean_and_std(config: ModelConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """By channel, of the images that the encoder learned from, whose values are 0 to 1."""
    if config.image_encoder.startswith(MAE):
        return timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD
    return open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def build_visual(config: ModelConfig) -> nn.Module:
    """images [N, 3, image_size, image_size] -> [N, image_dim], with untrained weights."""
    is_mae = config.image_encoder.startswith(MAE)
    return build_mae(config) if is_mae else build_clip(config).visual


def build_mae(config: ModelConfig, device: str = "cpu") -> nn.Module:
    """The ViT that `config.image_encoder` names, as far as MAE keeps it after its pre-training.

    device: as in `build_clip`. Raises OptionError for one that timm does not know, or of another
    width than the config's.
    """
    name = config.image_encoder.removeprefix(MAE)
    if not name.startswith("vit_") or not timm.is_model(name):
        raise OptionError(
            f"model {config.name} has the image encoder {config.image_encoder}, expected {MAE} and "
            "timm's name of a ViT, such as mae/vit_large_patch16_224"
        )
    size = config.image_size
    with torch.device(device):
        visual = timm.create_model(name, num_classes=0, global_pool="token", img_size=size)
    if visual.num_features != config.image_dim:
        raise OptionError(
            f"model {config.name} has features of {config.image_dim} numbers of an image, expected "
            f"{visual.num_features}, those of {config.image_encoder}; correct visual_dim"
        )
    return visual


def build_clip(config: ModelConfig, device: str = "cpu") -> nn.Module:
    """The CLIP model that `config.image_encoder` names, with untrained weights.

    device: "meta" gives names and shapes alone. Raises OptionError for a size of image that the
    small one cannot halve five times.
    """
    if config.image_encoder != TINY:
        with torch.device(device), without_alarm():
            return open_clip.create_model(config.image_encoder, pretrained=None, device=device)
    if config.image_size % 32:
        raise OptionError(
            f"model {config.name} has image_size {config.image_size}, expected a multiple of 32 "
            f"for {TINY}; 64 is the usual one"
        )
    vision = CLIPVisionCfg(
        layers=(1, 1, 1, 1), width=32, head_width=64, image_size=config.image_size
    )
    text = CLIPTextCfg(context_length=24, width=128, heads=4, layers=2)
    return CLIP(config.image_dim, vision, text)


@contextmanager
def without_alarm() -> Iterator[None]:
    """open_clip warns of random weights, through the root logger; here others are loaded next."""

    def is_other(record: logging.LogRecord) -> bool:
        return "No pretrained weights loaded" not in record.getMessage()

    root = logging.getLogger()
    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)
