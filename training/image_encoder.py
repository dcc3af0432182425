"""CLIP image encoders through open_clip: RGB bytes in, features out, normalisation inside."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import open_clip
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from torch import Tensor, nn
from torch.nn import functional as F

from vab_rt.config import ModelConfig

TINY = "vit-tiny-64"


class ImageEncoder(nn.Module):
    """frames uint8 [N, image_size, image_size, 3] -> unit features float32 [N, image_dim]."""

    def __init__(self, config: ModelConfig, visual: nn.Module | None = None) -> None:
        super().__init__()
        self.visual = visual if visual is not None else build_clip(config).visual
        mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
        std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)
        self.register_buffer("mean", 255 * mean, persistent=False)
        self.register_buffer("std", 255 * std, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        images = frames.float().permute(0, 3, 1, 2)  # [N, 3, image_size, image_size]
        return F.normalize(self.visual((images - self.mean) / self.std), dim=-1)


def build_clip(config: ModelConfig, device: str = "cpu") -> nn.Module:
    """The CLIP model that `config.image_encoder` names, with untrained weights.

    device: "meta" gives names and shapes alone.
    """
    if config.image_encoder != TINY:
        with torch.device(device), without_alarm():
            return open_clip.create_model(config.image_encoder, pretrained=None, device=device)
    vision = CLIPVisionCfg(
        layers=6, width=128, head_width=32, patch_size=16, image_size=config.image_size
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
