"""The multi-scale STFT discriminator against which a codec learns detail (arXiv:2210.13438).

The network is the encodec package's; the losses are those of the paper's section 3.4.
"""

from typing import Any

import torch
from encodec.msstftd import MultiScaleSTFTDiscriminator
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = (1024, 2048, 512, 256, 128)  # windows in samples; hops are a quarter


class Adversary:
    """The discriminator with its optimiser; both survive an interruption together."""

    def __init__(
        self, filters: int, rate: float, betas: tuple[float, float], device: torch.device
    ) -> None:
        self.network = build_discriminator(filters).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), rate, betas)

    def learn(self, output: Tensor, target: Tensor) -> None:
        """One step to tell output from target [B, S]."""
        fake, _ = self.network(output.detach()[:, None])
        real, _ = self.network(target[:, None])
        self.optimizer.zero_grad()
        discriminator_loss(real, fake).backward()
        self.optimizer.step()

    def losses(self, output: Tensor, target: Tensor) -> tuple[dict[str, Tensor], float]:
        """What the codec loses, `adversarial` and `features`, and the discriminator's own loss."""
        fake, fake_features = self.network(output[:, None])
        with torch.no_grad():
            real, features = self.network(target[:, None])
            own = discriminator_loss(real, fake).item()
        of_codec = {
            "adversarial": generator_loss(fake),
            "features": feature_loss(features, fake_features),
        }
        return of_codec, own

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def build_discriminator(filters: int) -> nn.Module:
    """audio [B, 1, S] -> logits and feature maps, a list of each with one entry a scale."""
    return MultiScaleSTFTDiscriminator(
        filters,
        n_ffts=list(SIZES),
        win_lengths=list(SIZES),
        hop_lengths=[n // 4 for n in SIZES],
    )


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """The hinge: real logits at least 1, fake ones at most -1; mean over scales."""
    pairs = zip(real, fake, strict=True)
    return torch.stack([F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in pairs]).mean()


def generator_loss(fake: list[Tensor]) -> Tensor:
    """The hinge of the codec: logits of its output at least 1; mean over scales."""
    return torch.stack([F.relu(1 - f).mean() for f in fake]).mean()


def feature_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """L1 of each feature map over the mean size of the real one; mean over maps and scales."""
    maps = [
        (r - f).abs().mean() / r.abs().mean()
        for rs, fs in zip(real, fake, strict=True)
        for r, f in zip(rs, fs, strict=True)
    ]
    return torch.stack(maps).mean()
