"""Training data of everything that reads tokens: clips already encoded, and their batches."""

import zipfile
from pathlib import Path
from typing import Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from vab_rt.errors import DataError
from vab_rt.output import whole_file, writing

_ARRAYS = ("tokens", "features", "labels")


class Batch(msgspec.Struct, frozen=True):
    """tokens int32 [B, K, T], features float32 [B, F, visual_dim], labels float32 [B, classes]."""

    tokens: NDArray[np.int32]
    features: NDArray[np.float32]
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.tokens)


class ClipSource(Protocol):
    """What training needs of its data, wherever it is kept."""

    def batch(self, step: int, count: int, seed: int, rank: int = 0, world: int = 1) -> Batch:
        """The `count` clips that process `rank` of `world` sees at `step`.

        A function of its arguments alone, so that a run that resumes sees what it would have seen.
        """
        ...


class TokenisedClips(msgspec.Struct, frozen=True):
    """N clips in memory, drawn with replacement.

    tokens int16 [N, K, T]; features float16 or float32 [N, F, visual_dim]; labels float32
    [N, classes], multi-hot; classes may be 0. Raises DataError when these do not fit each other.
    """

    tokens: np.ndarray
    features: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in _ARRAYS}
        num_dims = [len(shape) for shape in shapes.values()]
        if num_dims != [3, 3, 2] or len({shape[0] for shape in shapes.values()}) != 1:
            found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise DataError(
                f"clips are {found}, expected tokens [N, K, T], features [N, F, C] and labels "
                "[N, classes] of the same N; make them again"
            )
        if len(self) == 0:
            raise DataError("there are no clips, expected at least one; make them again")

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: NDArray[np.integer]) -> Batch:
        """The clips in these rows [B]."""
        return Batch(
            tokens=self.tokens[rows].astype(np.int32),
            features=self.features[rows].astype(np.float32),
            labels=self.labels[rows].astype(np.float32),
        )

    def batch(self, step: int, count: int, seed: int, rank: int = 0, world: int = 1) -> Batch:
        """See ClipSource. All ranks together see what one process with a larger batch would."""
        rows = np.random.default_rng((seed, step)).integers(len(self), size=count * world)
        return self.take(rows[rank::world])

    def save(self, path: Path) -> None:
        """Writes an .npz without pickle; it appears whole or not at all. Raises OutputError."""
        with whole_file(path, force=True) as part, writing(path), part.open("wb") as file:
            np.savez(file, **{name: getattr(self, name) for name in _ARRAYS})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote. Raises DataError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                missing = [name for name in _ARRAYS if name not in saved]
                if missing:
                    raise DataError(
                        f"{path} has no array {missing[0]!r}, expected {', '.join(_ARRAYS)}; "
                        "delete it and make it again"
                    )
                return cls(**{name: saved[name] for name in _ARRAYS})
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} cannot be read ({error}), expected an .npz of {', '.join(_ARRAYS)}; "
                "delete it and make it again"
            ) from error
