"""Contrastive fine-tuning: the sound and the video of a clip near each other (section 3.4).

`python -m training.contrastive CKPT --shards FOLDER --out RUN --minutes 60` leaves
RUN/contrastive.pt.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed
from training.checkpoint import read_checkpoint
from training.command import add_finetuning, report, run_command, settings_of
from training.datasets.clips import Batch, ClipSource
from training.datasets.shards import open_shards
from training.fitting import (
    EMA,
    averaged_weights,
    cosine_lr,
    fit,
    set_lr,
    wants_bfloat16,
    warm_up_share,
)
from training.masking import part_of_clip, random_part
from training.model import VAB
from training.representation import Encoder, augmented, load_averaged, num_steps
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

STANDARD_CLIPS = 256
MAX_SCALE = 100.0  # as CLIP has it: beyond, training is unstable


class ContrastiveSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fine-tuning run; the defaults are the paper's (table 8).

    warm_up: below 1 a share of the run, else a number of steps, which needs a budget of epochs.
    temperature: at the start. Its first value is missing from the published text; CLIP's is taken.
    standardise: vectors also get a learned mean and scale, which begin as those of some clips, so
    that a short run begins where clips differ.
    crop_s: until `crop_share` of the run, batches of as many seconds in clips this long.
    """

    batch: int = 108
    epochs: float = 14
    peak_rate: float = 2e-4
    warm_up: float = 100_000.0
    weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    dropout: float = 0.1
    mixup: float = 0.5
    roll: float = 0.1
    temperature: float = 0.07
    standardise: bool = False
    crop_s: float | None = None
    crop_share: float = 0.75
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 2:
            raise OptionError(f"contrastive batch is {self.batch}, expected at least 2 clips")


class Retriever(nn.Module):
    """Two passes of one encoder, sound without video and video without sound."""

    def __init__(
        self,
        vab: VAB,
        dropout: float = 0.0,
        temperature: float = 0.07,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(vab, dropout)
        device, width = vab.codebooks.device, vab.config.width
        self.heard, self.seen = (
            Standardize(width).to(device) if standardise else nn.Identity() for _ in range(2)
        )
        self.log_scale = nn.Parameter(torch.tensor(1 / temperature, device=device).log())

    def audio(self, tokens: Tensor, first_frame: int = 0) -> Tensor:
        """tokens [B, K, T] -> unit vectors [B, D]"""
        return F.normalize(self.heard(self.encoder(tokens, None, first_frame).float()), dim=1)

    def visual(self, features: Tensor, first_frame: int = 0) -> Tensor:
        """features [B, F, visual_dim] -> unit vectors [B, D]"""
        return F.normalize(self.seen(self.encoder(None, features, first_frame).float()), dim=1)

    @torch.no_grad()
    def standardise(self, tokens: Tensor, features: Tensor) -> None:
        """Begin where clips differ: what these have in common is taken away, per modality."""
        self.heard.fit(self.encoder(tokens, None))
        self.seen.fit(self.encoder(None, features))

    @property
    def scale(self) -> Tensor:
        """One over the temperature."""
        return self.log_scale.exp().clamp(max=MAX_SCALE)


class Standardize(nn.Module):
    """Vectors [B, D] with a learned mean and scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale

    def fit(self, x: Tensor) -> None:
        self.mean.copy_(x.mean(0))
        self.scale.copy_(1 / (x.std(0) + 1e-3))


def finetune_contrastive(
    folder: Path,
    vab: VAB,
    clips: ClipSource,
    settings: ContrastiveSettings,
    minutes: float | None,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/contrastive.pt with the averaged weights.

    `vab` gives the first weights and the device, and is not changed. minutes None:
    `settings.epochs` of the clips.
    """
    s, device = settings, vab.codebooks.device
    half = wants_bfloat16("auto", device)
    torch.manual_seed(s.seed)
    steps = None if minutes is not None else num_steps(len(clips), s.epochs, s.batch)
    warm_up = warm_up_share(s.warm_up, steps, "contrastive")
    retriever = Retriever(vab, s.dropout, s.temperature, s.standardise).train()
    if s.standardise:
        some = clips.batch(0, STANDARD_CLIPS, s.seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            retriever.standardise(
                *(torch.from_numpy(x).to(device) for x in (some.tokens, some.features))
            )
    average = EMA(retriever)
    optimizer = torch.optim.AdamW(retriever.parameters(), weight_decay=s.weight_decay)

    def step(i: int, progress: float) -> dict[str, Tensor]:
        set_lr(optimizer, cosine_lr(progress, s.peak_rate, warm_up))
        random = np.random.default_rng((s.seed, i))
        batch, first_frame = training_batch(clips, vab.config, s, i, progress, random)
        tokens, features, _ = augmented(batch, s.mixup, s.roll, random)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            audio = retriever.audio(tokens.to(device), first_frame)
            visual = retriever.visual(features.to(device), first_frame)
        loss, found = matching_loss(audio, visual, retriever.scale, s.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(retriever.parameters(), 1.0)
        optimizer.step()
        average.update(retriever)
        return {"loss": loss.detach(), "found": found, "scale": retriever.scale.detach()}

    parts = {"retriever": retriever, "average": average, "optimizer": optimizer}
    yield from fit(folder / "contrastive.pt", parts, step, minutes, steps)


def training_batch(
    clips: ClipSource,
    config: ModelConfig,
    settings: ContrastiveSettings,
    step: int,
    progress: float,
    random: np.random.Generator,
) -> tuple[Batch, int]:
    """A batch and its first frame; while clips are cropped, more of them in as many seconds."""
    s = settings
    share = part_of_clip(s.crop_s, s.crop_share, config, progress)
    if share == 1:
        return clips.batch(step, s.batch, s.seed), 0
    batch = clips.batch(step, round(s.batch / share), s.seed)
    tokens, features, first_frame = random_part(batch.tokens, batch.features, config, share, random)
    return Batch(tokens=tokens, features=features, labels=batch.labels), first_frame


def matching_loss(
    audio: Tensor, visual: Tensor, scale: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of unit vectors [B, D] (equation 4), and the share of pairs found."""
    logits = scale * audio @ visual.T  # [B, B]
    pairs = torch.arange(len(logits), device=logits.device)
    loss = sum(
        F.cross_entropy(x, pairs, label_smoothing=label_smoothing) for x in (logits, logits.T)
    )
    found = sum((x.argmax(1) == pairs).float().mean() for x in (logits, logits.T))
    return loss / 2, found / 2


def load_retriever(path: Path, config: ModelConfig) -> Retriever:
    """What `finetune_contrastive` left. Raises ExportError for another model's, DataError."""
    standardise = "heard.mean" in averaged_weights(path)
    return load_averaged(path, Retriever(VAB(config), standardise=standardise))


def start_from(path: Path, vab: VAB) -> None:
    """Write the layers of a contrastive.pt into a VAB, to train it on from there (C.3, C.4)."""
    encoder = load_retriever(path, vab.config).encoder
    vab.load_state_dict(vab.state_dict() | encoder.vab.state_dict())


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.contrastive", description=__doc__)
    add_finetuning(parser, ContrastiveSettings())
    parser.add_argument("--shards", required=True, help="clips: a folder or an fsspec URL")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    settings = settings_of(arguments, ContrastiveSettings)
    checkpoint = read_checkpoint(arguments.checkpoint)
    clips = open_shards(arguments.shards, checkpoint)
    vab = checkpoint.vab().to(distributed.device())
    training = finetune_contrastive(arguments.out, vab, clips, settings, arguments.minutes)
    report("contrastive", training)
    print(arguments.out / "contrastive.pt")


if __name__ == "__main__":
    main()
