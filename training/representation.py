"""The expert layers of a VAB as an encoder: what retrieval and classification fine-tune."""

from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from training.checkpoint import check_weights
from training.datasets.clips import Batch
from training.fitting import averaged_weights
from training.masking import temporal_mixup, temporal_roll
from training.model import VAB
from vab_rt.config import ModelConfig

Modality = Literal["a", "v", "av"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)


class Encoder(nn.Module):
    """Tokens or features, or both, of clips -> one vector a clip [B, D] (sections 3.4 and 3.5).

    Holds copies of the first layers of a VAB and what leads into them. A modality that is not
    given is absent. Mean over all positions, after a norm that pre-norm layers leave to the next.
    """

    def __init__(self, vab: VAB, dropout: float = 0.0) -> None:
        super().__init__()
        self.depth = depth_of(vab.config)
        self.vab = VAB(first_layers(vab.config), dropout)
        del self.vab.heads, self.vab.norm
        weights = vab.state_dict()
        self.vab.load_state_dict({name: weights[name] for name in self.vab.state_dict()})
        self.norm = nn.LayerNorm(vab.config.width)
        self.to(vab.codebooks.device)

    def forward(
        self, tokens: Tensor | None, features: Tensor | None, first_frame: int = 0
    ) -> Tensor:
        return self.norm(self.vab.encode(tokens, features, self.depth, first_frame)).mean(1)


def depth_of(config: ModelConfig) -> int:
    """The expert layers; of a model without them, the first half of its layers."""
    return config.expert_layers or max(1, config.layers // 2)


def first_layers(config: ModelConfig) -> ModelConfig:
    return msgspec.structs.replace(config, layers=depth_of(config))


def augmented(
    batch: Batch, mixup: float, roll: float, random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """tokens [B, K, T], features [B, F, C] and labels [B, classes] after mixup and roll (B.3).

    Labels ride along with the frames, so that a joined clip has each label for its share.
    """
    labels = np.repeat(batch.labels[:, None], batch.features.shape[1], 1)  # [B, F, classes]
    frames = np.concatenate([batch.features, labels], 2).astype(np.float32)
    tokens, frames = temporal_mixup(batch.tokens.astype(np.int32), frames, random, mixup)
    tokens, frames = temporal_roll(tokens, frames, random, roll)
    features, labels = np.split(frames, [batch.features.shape[2]], 2)
    return torch.from_numpy(tokens), torch.from_numpy(features), torch.from_numpy(labels.mean(1))


def num_steps(count: int, epochs: float, batch: int) -> int:
    return max(1, round(epochs * count / batch))


def load_averaged(path: Path, module: nn.Module) -> nn.Module:
    """`module` in eval mode with the averaged weights of a finished stage.

    Raises DataError for a file that is none, ExportError for one of another architecture.
    """
    weights = averaged_weights(path)
    check_weights(str(path), weights, module.state_dict())
    module.load_state_dict(weights)
    return module.eval()
