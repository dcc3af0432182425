"""What a model sees: an image encoder, and beside it a motion encoder where the model has one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.image_encoder import image_encoder
from vab_rt.config import ModelConfig


class VisualEncoder(nn.Module):
    """frames uint8 [N, frame_size, frame_size, 3], consecutive -> features [N, visual_dim]. Where
    image_size is another, `large` [ceil(N / image_stride), image_size, image_size, 3] are the
    images of one frame in `image_stride`.

    The same numbers as `vab_rt.seeing` gives: one image in `image_stride`, which stays until the
    next, beside the motion around each frame.
    """

    def __init__(self, config: ModelConfig, images: nn.Module, motion: nn.Module | None) -> None:
        super().__init__()
        self.config, self.images, self.motion = config, images, motion

    def forward(self, frames: Tensor, large: Tensor | None = None) -> Tensor:
        stride = self.config.image_stride
        images = self.images(frames[::stride] if large is None else large).repeat_interleave(
            stride, 0
        )[: len(frames)]
        if self.motion is None:
            return images
        return torch.cat([images, self.motion.of_clip(frames)], 1)


def build_visual_encoder(config: ModelConfig) -> VisualEncoder:
    """With untrained weights."""
    motion = MotionEncoder(config) if config.motion_dim else None
    return VisualEncoder(config, image_encoder(config), motion).eval()


class MotionEncoder(nn.Module):
    """frames uint8 [B, N + 2 * REACH, frame_size, frame_size, 3] -> unit features
    [B, N, motion_dim] of the motion around each frame but the first and last REACH.

    Layers over single frames, and between them three that see each frame with the one before and
    the one after: a contact is where a movement turns.
    """

    REACH = 3
    PATCH = 4
    CHANNELS = (64, 96, 128)
    JOINED = 256

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a, b, c = self.CHANNELS
        cells = (config.frame_size // (4 * self.PATCH)) ** 2
        self.stem = nn.Linear(3 * self.PATCH**2, 3 * a, bias=False)
        self.first = nn.Conv2d(a, b, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(b, 3 * c, 3, 2, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (a, b, c))
        self.join = nn.Linear(cells * c, self.JOINED)
        self.out = nn.Linear(self.JOINED, 3 * config.motion_dim)

    def forward(self, frames: Tensor) -> Tensor:
        length, (stem, first, second) = frames.shape[1], self.norms
        x = self.stem(self.patches(frames.flatten(0, 1).float() / 127.5 - 1))
        x = _with_neighbours(x, length).permute(0, 3, 1, 2)  # [.., a, size / 4, size / 4]
        x = first(self.first(stem(x).relu())).relu()  # [.., b, size / 8, size / 8]
        x = _with_neighbours(self.second(x).permute(0, 2, 3, 1), length - 2)
        x = second(x.permute(0, 3, 1, 2)).relu()  # [.., c, size / 16, size / 16]
        x = self.join(x.flatten(1)).relu()  # [B * (L - 4), JOINED]
        x = _with_neighbours(self.out(x), length - 4)  # [B * N, motion_dim]
        return F.normalize(x.unflatten(0, (-1, length - 6)), dim=-1)

    def of_clip(self, frames: Tensor) -> Tensor:
        """frames uint8 [N, frame_size, frame_size, 3] of a whole clip -> [N, motion_dim]: before
        the first and after the last one all stands still."""
        first, last = (end.expand(self.REACH, -1, -1, -1) for end in (frames[:1], frames[-1:]))
        return self(torch.cat([first, frames, last])[None])[0]

    def patches(self, frames: Tensor) -> Tensor:
        """[N, H, W, 3] -> [N, H / PATCH, W / PATCH, 3 * PATCH^2]; a product takes these faster
        than a convolution takes 3 channels."""
        x = frames.unflatten(2, (-1, self.PATCH)).unflatten(1, (-1, self.PATCH))
        return x.transpose(2, 3).flatten(3)


def _with_neighbours(x: Tensor, length: int) -> Tensor:
    """[B * length, ..., 3 * C] -> [B * (length - 2), ..., C]: what the frame before, the frame
    itself and the one after it add to each frame. Channels last: so its backward copies least."""
    before, at, after = x.unflatten(0, (-1, length)).chunk(3, -1)
    return (before[:, :-2] + at[:, 1:-1] + after[:, 2:]).flatten(0, 1)
