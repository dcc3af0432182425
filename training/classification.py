"""Classification of sound, video, or both, by fine-tuning or a linear probe (section 3.5).

`python -m training.classification CKPT --shards FOLDER --modality av --out RUN --minutes 60` leaves
RUN/classify-av.pt.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed
from training.checkpoint import read_checkpoint
from training.command import add_finetuning, report, run_command, settings_of
from training.contrastive import start_from
from training.datasets.clips import Batch, ClipSource, TokenisedClips
from training.datasets.shards import open_shards
from training.evaluation.intervals import share
from training.evaluation.measures import agreement, mean_average_precision
from training.fitting import (
    EMA,
    averaged_weights,
    cosine_lr,
    fit,
    wants_bfloat16,
    warm_up_share,
)
from training.model import VAB
from training.representation import (
    MODALITIES,
    Encoder,
    Modality,
    augmented,
    load_averaged,
    num_steps,
)
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, ExportError, OptionError

OVERSAMPLING = 4
COUNTED_CLIPS = 4096
PREDICTED_AT_ONCE = 32


class ClassificationSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fine-tuning run; the defaults are the paper's for AS-2M (table 8).

    loss: bce for clips of several classes; the paper takes it for single labels too, where ce is
    the other choice. balanced: draw clips of rare classes as often as those of common ones.
    head_rate: the peak rate of the new head, None for that of the rest. warm_up: below 1 a share of
    the run, else a number of steps, which needs a budget of epochs. label_smoothing: as it is
    defined for each loss: of bce, whose classes are two outcomes each, half of it to either.
    """

    batch: int = 60
    epochs: float = 2
    peak_rate: float = 1e-4
    head_rate: float | None = None
    warm_up: float = 0.0
    weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    dropout: float = 0.1
    mixup: float = 0.5
    roll: float = 0.1
    loss: Literal["bce", "ce"] = "bce"
    balanced: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise OptionError(f"classification batch is {self.batch}, expected at least 1 clip")


PRESETS = {  # table 8
    "as-2m": ClassificationSettings(),
    "as-20k": ClassificationSettings(epochs=10, balanced=False),
    "vggsound": ClassificationSettings(epochs=5, batch=48),
}


class Classifier(nn.Module):
    """Clips -> logits [B, classes], from the modalities in `modality` and no others."""

    def __init__(
        self, vab: VAB, modality: Modality, num_classes: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.modality = modality
        self.encoder = Encoder(vab, dropout)
        self.head = nn.Linear(vab.config.width, num_classes, device=vab.codebooks.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        heard = tokens if "a" in self.modality else None
        seen = features if "v" in self.modality else None
        return self.head(self.encoder(heard, seen))


def finetune_classifier(
    folder: Path,
    vab: VAB,
    clips: ClipSource,
    modality: Modality,
    settings: ClassificationSettings,
    minutes: float | None,
    probe: bool = False,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/classify-MODALITY.pt, averaged weights too.

    `vab` gives the first weights and the device, and is not changed. minutes None:
    `settings.epochs` of the clips. probe: train the head alone, and leave probe-MODALITY.pt.
    Raises DataError for clips without classes.
    """
    s, device = settings, vab.codebooks.device
    half = wants_bfloat16("auto", device)
    torch.manual_seed(s.seed)
    frequency = class_frequency(clips, s.seed)  # [classes]
    model = Classifier(vab, modality, len(frequency), 0.0 if probe else s.dropout).train()
    model.encoder.requires_grad_(not probe)
    average = EMA(model)
    steps = None if minutes is not None else num_steps(len(clips), s.epochs, s.batch)
    warm_up = warm_up_share(s.warm_up, steps, "classification")
    head_rate = s.peak_rate if s.head_rate is None else s.head_rate
    peak_rates = {model.head: head_rate} | ({} if probe else {model.encoder: s.peak_rate})
    groups = [{"params": list(part.parameters())} for part in peak_rates]
    optimizer = torch.optim.AdamW(groups, weight_decay=s.weight_decay)

    def step(i: int, progress: float) -> dict[str, Tensor]:
        for group, peak_rate in zip(optimizer.param_groups, peak_rates.values(), strict=True):
            group["lr"] = cosine_lr(progress, peak_rate, warm_up)
        random = np.random.default_rng((s.seed, i))
        batch = training_batch(clips, i, s, frequency, random)
        tokens, features, labels = augmented(batch, s.mixup, s.roll, random)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = model(tokens.to(device), features.to(device)).float()
        loss, right = class_loss(logits, labels.to(device), s)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
        optimizer.step()
        average.update(model)
        return {"loss": loss.detach(), "accuracy": right}

    parts = {"classifier": model, "average": average, "optimizer": optimizer}
    yield from fit(weights_path(folder, modality, probe), parts, step, minutes, steps)


def weights_path(folder: Path, modality: Modality, probe: bool = False) -> Path:
    return folder / f"{'probe' if probe else 'classify'}-{modality}.pt"


def class_loss(
    logits: Tensor, labels: Tensor, settings: ClassificationSettings
) -> tuple[Tensor, Tensor]:
    """The loss of logits [B, classes] for labels of the same shape, 0 to 1, and the share of clips
    whose highest class is one of theirs."""
    right = (labels.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean()
    smoothing = settings.label_smoothing
    if settings.loss == "ce":
        shares = labels / labels.sum(1, keepdim=True).clamp(min=1e-6)
        return F.cross_entropy(logits, shares, label_smoothing=smoothing), right
    smooth = labels * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, smooth), right


def class_frequency(clips: ClipSource, seed: int) -> NDArray[np.float64]:
    """The share of clips that have each class [classes], among the first that are drawn."""
    labels = clips.batch(0, COUNTED_CLIPS, seed).labels  # [N, classes]
    if labels.shape[1] == 0 or not labels.any():
        raise DataError(
            "the clips have no classes, expected labels to train on; extract them with a CSV"
        )
    return labels.mean(0, dtype=np.float64)


def training_batch(
    clips: ClipSource,
    step: int,
    settings: ClassificationSettings,
    frequency: NDArray[np.float64],
    random: np.random.Generator,
) -> Batch:
    """One batch; balanced, it is drawn from a larger one, each clip by the rarity of its classes
    (1 / frequency, added up, as AST draws AudioSet: arXiv:2104.01778)."""
    if not settings.balanced:
        return clips.batch(step, settings.batch, settings.seed)
    drawn = clips.batch(step, OVERSAMPLING * settings.batch, settings.seed)
    rarity = 1 / np.maximum(frequency, 1 / COUNTED_CLIPS)
    weights = drawn.labels @ rarity + 1e-9
    rows = random.choice(len(weights), settings.batch, p=weights / weights.sum())
    return Batch(
        tokens=drawn.tokens[rows], features=drawn.features[rows], labels=drawn.labels[rows]
    )


@torch.no_grad()
def predict(classifier: Classifier, clips: TokenisedClips) -> NDArray[np.float64]:
    """Logits [N, classes] of all clips."""
    device = classifier.head.weight.device
    parts = []
    for start in range(0, len(clips), PREDICTED_AT_ONCE):
        batch = clips.take(np.arange(start, min(start + PREDICTED_AT_ONCE, len(clips))))
        tokens = torch.from_numpy(batch.tokens).to(device)
        features = torch.from_numpy(batch.features).to(device)
        parts.append(classifier(tokens, features).double().cpu())
    return torch.cat(parts).numpy()


def classification_result(classifier: Classifier, clips: TokenisedClips) -> dict:
    """accuracy, of the highest class being one of a clip's own, with its 95 % interval, and map.

    Raises DataError when the clips have other classes than the classifier.
    """
    num_classes = len(classifier.head.weight)
    if clips.labels.shape[1] != num_classes:
        raise DataError(
            f"the clips have {clips.labels.shape[1]} classes, expected {num_classes}, those of the "
            "classifier; evaluate it on clips with the labels it was trained on"
        )
    truth = clips.labels > 0
    logits = predict(classifier, clips)
    return {
        **share("accuracy", agreement(logits, truth)),
        "map": round(mean_average_precision(logits, truth), 4),
    }


def load_classifier(path: Path, config: ModelConfig, modality: Modality) -> Classifier:
    """What `finetune_classifier` left. Raises ExportError for another model's, DataError."""
    head = averaged_weights(path).get("head.weight")
    if head is None or head.ndim != 2:
        raise ExportError(f"{path} has no head.weight [classes, D], expected a classifier")
    return load_averaged(path, Classifier(VAB(config), modality, len(head)))


def command_line(words: list[str] | None) -> argparse.ArgumentParser:
    """The options, with the defaults of the preset that `words` name."""
    preset = argparse.ArgumentParser("python -m training.classification", add_help=False)
    preset.add_argument(
        "--preset", choices=PRESETS, default="as-2m", help="defaults of the paper for a data set"
    )
    defaults = PRESETS[preset.parse_known_args(words)[0].preset]
    parser = argparse.ArgumentParser(
        prog="python -m training.classification", description=__doc__, parents=[preset]
    )
    add_finetuning(parser, defaults)
    parser.add_argument("--shards", required=True, help="clips: a folder or an fsspec URL")
    parser.add_argument("--modality", choices=MODALITIES, default="av", help=" ")
    parser.add_argument("--probe", action="store_true", help="train a linear head alone")
    parser.add_argument("--contrastive", type=Path, help="a contrastive.pt to start from")
    return parser


def main(words: list[str] | None = None) -> None:
    run_command(_run, command_line(words), words)


def _run(arguments: argparse.Namespace) -> None:
    settings = settings_of(arguments, ClassificationSettings)
    checkpoint = read_checkpoint(arguments.checkpoint)
    clips = open_shards(arguments.shards, checkpoint)
    vab = checkpoint.vab().to(distributed.device())
    if arguments.contrastive is not None:
        start_from(arguments.contrastive, vab)
    modality, probe = arguments.modality, arguments.probe
    training = finetune_classifier(
        arguments.out, vab, clips, modality, settings, arguments.minutes, probe
    )
    report(f"classify-{modality}", training)
    print(weights_path(arguments.out, modality, probe))


if __name__ == "__main__":
    main()
