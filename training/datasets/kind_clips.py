"""Encoded clips of a model with kinds: what its features say of them is drawn anew in each batch.

As seen, or as `--kind` makes it: one kind's probability 1 and the reduced feature 0; or unsure: the
probabilities less sharp, with the reduced feature of another clip. So the model hears the kind in
the probabilities alone where these are all there is: kinds without pictures have no others.
"""

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.datasets.clips import Batch, TokenisedClips
from vab_rt.config import ModelConfig

AS_SEEN, UNSURE = 0.5, 0.2
"""Shares of the clips; the rest is as told by `--kind`. What is not seen is unsure or told."""


class KindClips(msgspec.Struct, frozen=True):
    """N clips. tokens int16 [N, K, T]; motion float16 [N, F, motion_dim]; images float16 [N, I,
    image_dim]; shown int8 [N, F / image_stride], which image, or -1; heard int16 [N, F /
    image_stride, 2], numbers of kinds, or -1."""

    tokens: np.ndarray
    motion: np.ndarray
    images: np.ndarray
    shown: np.ndarray
    heard: np.ndarray
    config: ModelConfig

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, step: int, count: int, seed: int, rank: int = 0, world: int = 1) -> Batch:
        """See ClipSource."""
        random = np.random.default_rng((seed, step))
        rows = random.integers(len(self), size=count * world)
        told = self._told(rows, random)[rank::world]
        return self._batch(rows[rank::world], told)

    def in_memory(self, seed: int = 0) -> TokenisedClips:
        """All of them once, as seen; those that are not seen as told or unsure."""
        rows = np.arange(len(self))
        batch = self._batch(rows, self._told(rows, np.random.default_rng(seed), as_seen=1.0))
        return TokenisedClips(
            tokens=self.tokens, features=batch.features.astype(np.float16), labels=batch.labels
        )

    def _batch(self, rows: NDArray[np.int64], images: NDArray[np.float32]) -> Batch:
        """images [B, F / image_stride, image_dim]"""
        c = self.config
        features = np.empty((len(rows), c.num_frames, c.visual_dim), np.float32)
        features[..., : c.image_dim] = images.repeat(c.image_stride, 1)
        features[..., c.image_dim :] = self.motion[rows]
        labels = np.zeros((len(rows), len(c.kinds)), np.float32)
        for label, heard in zip(labels, self.heard[rows], strict=True):
            label[np.unique(heard[heard >= 0])] = 1.0
        return Batch(tokens=self.tokens[rows].astype(np.int32), features=features, labels=labels)

    def _told(
        self, rows: NDArray[np.int64], random: np.random.Generator, as_seen: float = AS_SEEN
    ) -> NDArray[np.float32]:
        """What the image encoder is made to say of these clips [B, F / image_stride, image_dim]."""
        num_kinds = len(self.config.kinds)
        shown, known = self.shown[rows], self.probabilities(rows)  # [B, steps, kinds]
        out = self.images[rows[:, None], shown.clip(0)].astype(np.float32)
        has_kind = known.sum(2) > 0
        others = self._reduced_of_others(len(rows), random)
        for i, way in enumerate(random.random(len(rows))):
            hidden = shown[i] < 0 if way < as_seen else has_kind[i]
            unsure = (way / as_seen if way < as_seen else (way - as_seen) / (1 - as_seen)) < (
                UNSURE / (1 - AS_SEEN)
            )
            if unsure:
                out[i, hidden, :num_kinds] = self._unsure(known[i, hidden], random)
                out[i, hidden, num_kinds:] = others[i]
            else:
                out[i, hidden, :num_kinds] = known[i, hidden]
                out[i, hidden, num_kinds:] = 0.0
        return out

    def probabilities(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """As `--kind` has them: shared equally; 0 where no kind is known [B, steps, kinds]."""
        heard = self.heard[rows]
        table = np.eye(len(self.config.kinds) + 1, dtype=np.float32)[:, :-1]  # -1 is the last row
        shares = table[heard].sum(2)
        return shares / shares.sum(2, keepdims=True).clip(1)

    def _unsure(
        self, known: NDArray[np.float32], random: np.random.Generator
    ) -> NDArray[np.float32]:
        """Probabilities [steps, kinds] mixed with some that are spread over a few kinds."""
        num_kinds = known.shape[1]
        few = random.choice(num_kinds, size=min(num_kinds, 6), replace=False)
        spread = np.zeros(num_kinds, np.float32)
        spread[few] = random.dirichlet(np.full(len(few), 0.5))
        spread = 0.5 * spread
        spread[-1] += 0.5  # what is in no kind's class is ambience
        ambient = known[:, -1:] == 1
        sure = np.where(ambient, random.uniform(0, 1), random.uniform(0.3, 1.0))
        return (sure * known + (1 - sure) * spread).astype(np.float32)

    def _reduced_of_others(self, count: int, random: np.random.Generator) -> NDArray[np.float32]:
        """The reduced feature of a random image [count, R], 0 where none is seen."""
        rows = random.integers(len(self), size=count)
        first = self.images[rows, 0, len(self.config.kinds) :].astype(np.float32)
        return first * (self.shown[rows] >= 0).any(1)[:, None]
