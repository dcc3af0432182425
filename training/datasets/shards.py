"""Training data from shards, local or remote, in an order in which any step can be found."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import fsspec.core
import numpy as np
from numpy.typing import NDArray

from training.checkpoint import Checkpoint
from training.datasets.clips import Batch, TokenisedClips
from training.datasets.shard_format import (
    INDEX,
    ClipNotes,
    check_facts,
    encoders_sha256,
    read_index,
    read_origins,
    read_shard,
)
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, reason_of

_READERS = 4


class ShardedClips:
    """Every clip once an epoch, shuffled: the shards first, then the clips of a few at a time.

    location: a folder that training.extract has filled, or the URL of a copy, as fsspec reads it.
    shards_at_once: a group, held in memory and shuffled together; the next one is read ahead.
    encoders_sha256: of the codec and visual encoders that clips must come from, if that matters.
    Raises DataError for clips of another model, an unfinished extraction, and damage.
    """

    def __init__(
        self,
        location: str | Path,
        config: ModelConfig,
        *,
        encoders_sha256: str | None = None,
        shards_at_once: int = 8,
    ) -> None:
        self.location, self.shards_at_once = str(location).rstrip("/"), shards_at_once
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.location)
        except (ValueError, ImportError) as error:  # fsspec names the package to install
            raise DataError(f"{self.location} cannot be opened: {error}") from error
        self.index = read_index(f"{self.location}/{INDEX}", self._read(INDEX))
        check_facts(self.location, self.index.model, config)
        self._check_ready(encoders_sha256)
        self._names = sorted(name for name, shard in self.index.shards.items() if shard.clips)
        self._counts = np.array([self.index.shards[name].clips for name in self._names], np.int64)
        self._readers = ThreadPoolExecutor(_READERS, "shard-reader")
        self._loading: dict[int, Future[TokenisedClips]] = {}

    def __len__(self) -> int:
        return int(self._counts.sum())

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in the order of a batch's labels."""
        return self.index.labels

    def batch(self, step: int, count: int, seed: int, rank: int = 0, world: int = 1) -> Batch:
        """See ClipSource. All ranks together walk through an epoch's order, then the next one's."""
        places = step * count * world + np.arange(count * world)[rank::world]
        epochs, places = np.divmod(places, len(self))
        return _joined(
            part
            for epoch in np.unique(epochs)
            for part in self._in_epoch(seed, int(epoch), places[epochs == epoch])
        )

    def in_memory(self) -> TokenisedClips:
        """All clips in the order of the shards, for data that fits: about 20 KB a clip."""
        parts = [self._load(shard) for shard in range(len(self._names))]
        return TokenisedClips(
            tokens=np.concatenate([part.tokens for part in parts]),
            features=np.concatenate([part.features for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
        )

    def origins(self) -> list[tuple[str, ClipNotes]]:
        """The key of each clip and where it is from, in the order of `in_memory`."""
        return [
            origin
            for name in self._names
            for origin in read_origins(f"{self.location}/{name}", self._read(name))
        ]

    def _in_epoch(self, seed: int, epoch: int, places: NDArray[np.int64]) -> Iterator[Batch]:
        """The clips at these places, ascending, of an epoch's order."""
        order, size = self._shard_order(seed, epoch), self.shards_at_once
        ends = np.cumsum(self._counts[order])
        group_of = np.searchsorted(ends, places, "right") // size
        for group in np.unique(group_of):
            shards = order[group * size : (group + 1) * size]
            first = ends[group * size] - self._counts[shards[0]]
            following = order[(group + 1) * size :][:size]
            if not len(following):
                following = self._shard_order(seed, epoch + 1)[:size]
            self._read_ahead([*shards, *following])
            # A seed that ends in 0 is the same as one without it: groups count from 1.
            random = np.random.default_rng((seed, epoch, int(group) + 1))
            shuffled = random.permutation(self._counts[shards].sum())
            yield self._take(shards, shuffled[places[group_of == group] - first])

    def _take(self, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> Batch:
        """Rows [B] of these shards, counted through from the first to the last."""
        ends = np.cumsum(self._counts[shards])
        which = np.searchsorted(ends, rows, "right")
        rows = rows - (ends - self._counts[shards])[which]
        loaded = [self._loading[int(shard)].result() for shard in shards]
        return _joined(loaded[i].take(row[None]) for i, row in zip(which, rows, strict=True))

    def _shard_order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((seed, epoch)).permutation(len(self._names))

    def _read_ahead(self, shards: list[np.int64]) -> None:
        """Keep these shards in memory, or on their way to it, and no others."""
        self._loading = {
            int(shard): self._loading.get(int(shard))
            or self._readers.submit(self._load, int(shard))
            for shard in shards
        }

    def _load(self, shard: int) -> TokenisedClips:
        name = self._names[shard]
        where = f"{self.location}/{name}"
        return read_shard(where, self._read(name), self.index.shards[name], self.index)

    def _read(self, name: str) -> bytes:
        try:
            return self._files.cat_file(f"{self._root}/{name}")
        except Exception as error:  # every file system of fsspec has its own
            reason = reason_of(error)
            raise DataError(
                f"{self.location}/{name} cannot be read ({reason}), expected a folder of shards as "
                "training.extract writes it; check the location, or copy it again"
            ) from error

    def _check_ready(self, encoders_sha256: str | None) -> None:
        if not self.index.complete:
            raise DataError(
                f"{self.location} is not finished: {len(self.index.shards)} shards are there; run "
                "the same extraction again to go on"
            )
        if encoders_sha256 not in (None, self.index.encoders_sha256):
            raise DataError(
                f"{self.location} was extracted with other weights of codec or visual encoders "
                f"({self.index.encoders_sha256[:12]}), expected those of the model "
                f"({encoders_sha256[:12]}); extract the clips again with this checkpoint"
            )
        if not any(shard.clips for shard in self.index.shards.values()):
            raise DataError(f"{self.location} holds no clips, expected some; extract them again")


def _joined(parts: Iterator[Batch]) -> Batch:
    batches = list(parts)
    return Batch(
        tokens=np.concatenate([batch.tokens for batch in batches]),
        features=np.concatenate([batch.features for batch in batches]),
        labels=np.concatenate([batch.labels for batch in batches]),
    )


def open_shards(location: str, checkpoint: Checkpoint) -> ShardedClips:
    """Clips that `training.extract` made with this checkpoint. Raises DataError."""
    digest = encoders_sha256(checkpoint.codec(), checkpoint.visual_encoder())
    return ShardedClips(location, checkpoint.config, encoders_sha256=digest)
