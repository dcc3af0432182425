"""Masked prediction and contrastive training at once, of the same layers.

The paper found that it does not converge (section 3.4, appendix C.3); a row of the ablations tries.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from training import contrastive, pretrain
from training.contrastive import ContrastiveSettings, Retriever, matching_loss
from training.datasets.clips import ClipSource
from training.fitting import (
    EMA,
    averaged_weights,
    cosine_lr,
    fit,
    steps_made,
    warm_up_share,
)
from training.model import VAB
from training.pretrain import PretrainSettings, make_optimizers, masked_loss
from training.representation import augmented
from training.saving import save_whole
from training.stage import stage

LEFT = {"vab.pt": "vab.", "contrastive.pt": "retriever."}
"""The files that it leaves, as the two stages leave them apart, and whose weights are in each."""


class Joint(nn.Module):
    """A VAB, and a retriever whose layers are the VAB's own."""

    def __init__(self, vab: VAB, settings: ContrastiveSettings) -> None:
        super().__init__()
        self.vab = vab
        self.retriever = Retriever(vab, 0.0, settings.temperature, settings.standardise)
        inner = self.retriever.encoder.vab
        for name in ("audio_in", "visual_in", "visual_beside", "mask_codes", "modality"):
            setattr(inner, name, getattr(vab, name))
        inner.layers = vab.layers[: len(inner.layers)]


def train_jointly(
    folder: Path,
    clips: ClipSource,
    start: VAB,
    masked: PretrainSettings,
    paired: ContrastiveSettings,
    steps: int,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves vab.pt and contrastive.pt in `folder`.

    A step has a batch for each loss; their sum is what is trained, at the rates of `masked`. start:
    the first weights, not changed.
    """
    config, device = start.config, start.codebooks.device
    vab = VAB(config, masked.dropout).to(device)
    vab.load_state_dict(start.state_dict())
    model = Joint(vab, paired).train()
    average, optimizers = EMA(model), make_optimizers(vab, masked)
    theirs = {id(p) for p in vab.parameters()}
    others = [p for p in model.parameters() if id(p) not in theirs]
    optimizers["optimizer"].add_param_group({"params": others, "peak": masked.peak_rate})
    warm_up = warm_up_share(masked.warm_up, steps, "joint")

    def step(i: int, progress: float) -> dict[str, Tensor]:
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = cosine_lr(progress, group["peak"], warm_up)
            optimizer.zero_grad()
        batch = pretrain.training_batch(clips, config, masked, i, progress)
        loss, accuracy = masked_loss(vab, batch, config, masked)
        matching, found = paired_loss(model.retriever, clips, paired, i, progress)
        (loss + matching).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        average.update(model)
        losses = {"loss": loss.detach(), "matching": matching.detach()}
        return losses | {"accuracy": accuracy, "found": found}

    parts: dict[str, Any] = {"joint": model, "average": average, **optimizers}
    yield from fit(folder / "joint.pt", parts, step, None, steps)
    leave_apart(folder)


def paired_loss(
    retriever: Retriever, clips: ClipSource, s: ContrastiveSettings, i: int, progress: float
) -> tuple[Tensor, Tensor]:
    """Equation 4 of batch number `i`, and the share of its pairs that are found."""
    random, vab = np.random.default_rng((s.seed, i)), retriever.encoder.vab
    batch, first = contrastive.training_batch(clips, vab.config, s, i, progress, random)
    tokens, features, _ = augmented(batch, s.mixup, s.roll, random)
    device = vab.codebooks.device
    audio = retriever.audio(tokens.to(device), first)
    visual = retriever.visual(features.to(device), first)
    return matching_loss(audio, visual, retriever.scale, s.label_smoothing)


def leave_apart(folder: Path) -> None:
    path = folder / "joint.pt"
    weights, steps = averaged_weights(path), steps_made(path)
    for name, prefix in LEFT.items():
        own = {n.removeprefix(prefix): x for n, x in weights.items() if n.startswith(prefix)}
        content = {"average": {"weights": own, "count": steps}, "step": steps}
        stage(folder / name, partial(save_whole, folder / name, content), joint=path)
