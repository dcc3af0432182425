"""What makes a sound: probabilities of a model's kinds, out of EfficientNet-Lite0's own classes and
of rows beside them that a few pictures a kind have trained."""

import csv
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training.efficientnet import FEATURE_DIM, LITE0, NUM_CLASSES, load_efficientnet
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, OptionError

NEVER = -1e4
"""The bias of a row of a kind that has no pictures: its probability is 0."""
STEPS, PEAK_RATE = 300, 1e-2
DECAY = 1e-3
"""On the rows' squares."""
FITTED = 1000
"""Pictures in a step, and imagined ones."""
HELD, MARGINS, SHRUNK, AROUND = 0.1, (8.0, 20.0), 0.1, 0.8
"""Of imagined features: their weight in the loss; how far they raise their class's logit above the
others' mean, so that the recogniser is as sure of them as of pictures; the share of white in the
covariance; and their scatter. Without them the rows take what ImageNet's own classes have known
better."""
TRACE = 1e-3
BATCH = 16
FROZEN = "recogniser."


class KindsEncoder(nn.Module):
    """frames uint8 [N, 224, 224, 3] -> features float32 [N, image_dim]: first the probabilities of
    `config.kinds`, which add up to 1, then a reduced feature whose mean length is 1.

    Softmax runs over ImageNet's classes and a row a kind; a kind's probability is the sum over its
    own. The recogniser's weights are no part of the state_dict: they stay in their package. Raises
    OptionError for a config without kinds, or with no room for them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        num_kinds = len(config.kinds)
        num_reduced = config.image_dim - num_kinds
        if not num_kinds or num_reduced < 1:
            raise OptionError(
                f"model {config.name} has {num_kinds} kinds and {config.image_dim} numbers of an "
                f"image, expected kinds, and more numbers than them for {LITE0}; correct kinds or "
                "visual_dim"
            )
        self.recogniser = load_efficientnet(config)
        self.rows = nn.Linear(FEATURE_DIM, num_kinds)
        self.reduce = nn.Linear(FEATURE_DIM, num_reduced)
        self.register_buffer("kind_of_class", torch.full((NUM_CLASSES,), num_kinds - 1))
        self.register_state_dict_post_hook(_leave_frozen_out)
        self.register_load_state_dict_post_hook(_expect_no_frozen)

    def forward(self, frames: Tensor) -> Tensor:
        return self.features(*self.recogniser(frames))

    def features(self, logits: Tensor, feature: Tensor) -> Tensor:
        """The same of what the recogniser sees: logits [N, 1000], feature [N, FEATURE_DIM]."""
        shares = torch.cat([logits, self.rows(feature)], 1).softmax(1)
        own = torch.arange(self.rows.out_features, device=logits.device)
        of_kind = (self.kind_of_class[:, None] == own).float()  # [1000, kinds]
        probabilities = shares[:, :NUM_CLASSES] @ of_kind + shares[:, NUM_CLASSES:]
        return torch.cat([probabilities, self.reduce(feature)], 1)

    def train(self, mode: bool = True) -> "KindsEncoder":
        super().train(mode)
        self.recogniser.eval()
        return self


def _leave_frozen_out(module: nn.Module, weights: dict[str, Any], prefix: str, _: Any) -> None:
    for name in [name for name in weights if name.startswith(prefix + FROZEN)]:
        del weights[name]


def _expect_no_frozen(module: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if FROZEN not in name]


def with_kinds(model: ModelConfig, kinds: tuple[str, ...]) -> ModelConfig:
    """A recipe's model has none yet: its visual_dim is without them."""
    return msgspec.structs.replace(model, kinds=kinds, visual_dim=model.visual_dim + len(kinds))


def with_kinds_of(model: ModelConfig, started: ModelConfig) -> ModelConfig:
    """A recipe's model with the kinds of the checkpoint that it starts from, where it has none."""
    lacks = model.image_encoder == LITE0 and not model.kinds
    return with_kinds(model, started.kinds) if lacks else model


def train_kinds(
    config: ModelConfig,
    pictures: Iterable[tuple[NDArray[np.uint8], str]],
    table: Mapping[int, str],
    seed: int = 0,
) -> KindsEncoder:
    """An encoder that knows the kinds of `config`, in seconds beside the pictures' features.

    pictures: RGB [224, 224, 3], each with its kind. table: see `read_table`. A kind that the
    config does not have stands for its last one. Raises DataError for no picture.
    """
    torch.manual_seed(seed)
    encoder = KindsEncoder(config).eval()
    found = {kind: number for number, kind in enumerate(config.kinds)}
    last = len(config.kinds) - 1
    of_class = [found.get(table.get(number, ""), last) for number in range(NUM_CLASSES)]
    encoder.kind_of_class.copy_(torch.tensor(of_class))
    logits, features, kinds = picture_features(encoder, pictures)
    targets = torch.tensor([found.get(kind, last) for kind in kinds])
    fit_rows(encoder, logits, features, targets)
    fit_reduction(encoder, features)
    return encoder


def read_table(path: Path) -> dict[int, str]:
    """The kind of each of ImageNet's classes that has one, from a CSV with the columns
    imagenet_index (0 to 999) and kind. Raises DataError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark first
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}), expected a CSV in UTF-8") from error
    if not rows:
        raise DataError(f"{path} has no rows, expected imagenet_index and kind; leave it out")
    table: dict[int, str] = {}
    for line, row in enumerate(rows, start=2):
        index, kind = row.get("imagenet_index") or "", row.get("kind") or ""
        if not (index.isdecimal() and int(index) < NUM_CLASSES and kind):
            raise DataError(
                f"{path}, line {line}: imagenet_index is {index!r} and kind {kind!r}, expected "
                f"0 to {NUM_CLASSES - 1} and a name; correct it"
            )
        if table.setdefault(int(index), kind) != kind:
            raise DataError(
                f"{path}, line {line}: {index} is {kind!r} and {table[int(index)]!r} before, "
                "expected one kind; delete a line"
            )
    return table


@torch.no_grad()
def picture_features(
    encoder: KindsEncoder, pictures: Iterable[tuple[NDArray[np.uint8], str]]
) -> tuple[Tensor, Tensor, list[str]]:
    """logits [n, 1000] and features [n, FEATURE_DIM] of RGB pictures [224, 224, 3], BATCH at a
    time, and their kinds. Raises DataError for none."""
    found, kinds = [], list[str]()
    rest = iter(pictures)
    while batch := list(islice(rest, BATCH)):
        images = np.stack([image for image, _ in batch])
        found.append(encoder.recogniser(torch.from_numpy(images)))
        kinds += [kind for _, kind in batch]
    if not found:
        raise DataError("there are no pictures, expected some of each kind in KIND/FILE")
    logits, features = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(features), kinds


def fit_rows(encoder: KindsEncoder, logits: Tensor, features: Tensor, targets: Tensor) -> None:
    """Train the rows of the kinds that are among the targets [n]; the others get NEVER.

    What the recogniser's own classes say of pictures that are not here is held by what they say of
    imagined ones.
    """
    rows, num_kinds = encoder.rows, encoder.rows.out_features
    shown = targets.unique()  # [P]
    known = log_sums(logits, encoder.kind_of_class, num_kinds)  # [n, kinds]
    imagined = imagined_features(encoder, features, targets)
    weight = torch.zeros(len(shown), FEATURE_DIM, requires_grad=True)
    bias = torch.zeros(len(shown), requires_grad=True)

    def with_rows(known: Tensor, features: Tensor) -> Tensor:
        own = torch.full_like(known, NEVER).index_copy(1, shown, features @ weight.T + bias)
        return torch.logaddexp(known, own)

    optimizer = torch.optim.Adam([weight, bias], lr=PEAK_RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for _ in range(STEPS):
        chosen = torch.randint(len(targets), (FITTED,))
        loss = F.cross_entropy(with_rows(known[chosen], features[chosen]), targets[chosen])
        other = next(imagined)
        told = log_sums(encoder.recogniser.network._fc(other), encoder.kind_of_class, num_kinds)
        held = F.cross_entropy(with_rows(told, other), told.softmax(1))
        loss = loss + HELD * held + DECAY * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        rows.weight.zero_().index_copy_(0, shown, weight)
        rows.bias.fill_(NEVER).index_copy_(0, shown, bias)


def imagined_features(encoder: KindsEncoder, features: Tensor, targets: Tensor) -> Iterator[Tensor]:
    """Features [FITTED, FEATURE_DIM] as pictures of ImageNet's classes, chosen at random, may have.

    In linear discriminant analysis a class's weights are its mean, less that of all, times the
    inverse of the features' covariance. So the covariance of the features that are here [n,
    FEATURE_DIM] times the weights points to the mean; how pictures of a class lie around it is
    taken from how those of a kind do.
    """
    classes = encoder.recogniser.network._fc.weight  # [1000, FEATURE_DIM]
    classes = classes - classes.mean(0)
    centre = features.mean(0)
    covariance = (features - centre).T @ (features - centre) / len(features)
    spread = (covariance.trace() / FEATURE_DIM).clamp_min(TRACE)  # 0 where all look alike
    white = torch.eye(FEATURE_DIM) * spread
    ways = classes @ torch.lerp(covariance, white, SHRUNK)
    ways = ways / (ways * classes).sum(1, keepdim=True)  # each raises its class's logit by 1
    sums = torch.zeros(encoder.rows.out_features, FEATURE_DIM).index_add_(0, targets, features)
    means = sums / torch.bincount(targets, minlength=len(sums)).clamp_min(1)[:, None]
    while True:
        way = ways[torch.randint(NUM_CLASSES, (FITTED,))]
        picture = torch.randint(len(features), (FITTED,))
        around = features[picture] - means[targets[picture]]
        margin = torch.empty(FITTED, 1).uniform_(*MARGINS)
        yield (centre + margin * way + AROUND * around).relu()  # a feature is never negative


def log_sums(logits: Tensor, kind_of_class: Tensor, num_kinds: int) -> Tensor:
    """logits [n, 1000] -> [n, kinds]: the log of the sum of exp over each kind's classes."""
    most = logits.max(1, keepdim=True).values
    sums = torch.zeros(len(logits), num_kinds, dtype=torch.float64)
    sums.index_add_(1, kind_of_class, (logits - most).double().exp())
    return (sums.clamp_min(1e-300).log() + most).float()


@torch.no_grad()
def fit_reduction(encoder: KindsEncoder, features: Tensor) -> None:
    """The principal components of the features [n, FEATURE_DIM], scaled to a mean length of 1.

    Where there are fewer pictures than components, the directions in which the recogniser tells its
    own classes apart follow.
    """
    classes = encoder.recogniser.network._fc.weight  # [1000, FEATURE_DIM]
    centre = features.mean(0)
    spread = torch.cat([features - centre, TRACE * (classes - classes.mean(0))])
    _, _, directions = torch.linalg.svd(spread, full_matrices=False)
    weight = directions[: encoder.reduce.out_features]
    weight = weight / ((features - centre) @ weight.T).norm(dim=1).mean().clamp_min(TRACE)
    encoder.reduce.weight.copy_(weight)
    encoder.reduce.bias.copy_(-weight @ centre)
