"""What a model sees: an image encoder, and beside it a motion encoder where the model has one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.image_encoder import ImageEncoder
from vab_rt.config import ModelConfig


class VisualEncoder(nn.Module):
    """frames uint8 [N, image_size, image_size, 3], consecutive -> features [N, visual_dim].

    The same numbers as `vab_rt.seeing` gives: one image in `image_stride`, which stays until the
    next, beside the motion around each frame.
    """

    def __init__(self, config: ModelConfig, images: ImageEncoder, motion: nn.Module | None) -> None:
        super().__init__()
        self.config, self.images, self.motion = config, images, motion

    def forward(self, frames: Tensor) -> Tensor:
        stride, reach = self.config.image_stride, self.config.motion_reach
        images = self.images(frames[::stride]).repeat_interleave(stride, 0)[: len(frames)]
        if self.motion is None:
            return images
        first, last = frames[:1], frames[-1:]
        still = (first.expand(reach, -1, -1, -1), frames, last.expand(reach, -1, -1, -1))
        return torch.cat([images, self.motion(torch.cat(still)[None])[0]], 1)


def build_visual_encoder(config: ModelConfig) -> VisualEncoder:
    """With untrained weights."""
    motion = MotionEncoder(config) if config.motion_dim else None
    return VisualEncoder(config, ImageEncoder(config), motion).eval()


class MotionEncoder(nn.Module):
    """frames uint8 [B, N + 2 * REACH, image_size, image_size, 3] -> unit features
    [B, N, motion_dim] of the motion around each frame but the first and last REACH.

    Convolutions over single frames, and between them three that see each frame with the one before
    and the one after: a contact is where a movement turns.
    """

    REACH = 3
    CHANNELS = (64, 96, 128)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a, b, c = self.CHANNELS
        cells = (config.image_size // 16) ** 2
        self.stem = _smaller(3 * 3, a, kernel=6, stride=4)
        self.first = _smaller(a, b, kernel=3, stride=2)
        self.second = _smaller(3 * b, c, kernel=3, stride=2)
        self.join = nn.Sequential(nn.Linear(cells * c, 256), nn.ReLU())
        self.out = nn.Linear(3 * 256, config.motion_dim)

    def forward(self, frames: Tensor) -> Tensor:
        length = frames.shape[1]
        x = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = self.first(self.stem(_with_neighbours(x, length)))  # [.., b, size / 8, size / 8]
        x = self.second(_with_neighbours(x, length - 2))  # [.., c, size / 16, size / 16]
        x = _with_neighbours(self.join(x.flatten(1)), length - 4)  # [B * N, 3 * 256]
        return F.normalize(self.out(x).unflatten(0, (-1, length - 6)), dim=-1)


def _smaller(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Module:
    """Height and width divided by the stride."""
    padding = (kernel - stride + 1) // 2
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU())


def _with_neighbours(x: Tensor, length: int) -> Tensor:
    """[B * length, C, ...] -> [B * (length - 2), 3 * C, ...]: each beside the one before and the
    one after."""
    x = x.unflatten(0, (-1, length))
    return torch.cat([x[:, i : length - 2 + i] for i in range(3)], 2).flatten(0, 1)
