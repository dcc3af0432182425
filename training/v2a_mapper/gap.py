"""How far the vectors of pictures and of sound are apart, and how near a mapper brings them."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from training.evaluation.measures import ranks

Draw = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""Features of a clip's pictures [F, D] and a seed -> a unit vector [1, D] in the space of sound."""


def gap(mapped: Tensor, heard: Tensor) -> dict[str, float]:
    """Of unit vectors [N, D] made from pictures, and those of the clips' own sound.

    matched: mean cosine of the two of a clip; unmatched: of other clips. centroids: distance
    between the means of the two sets, 0 to 2. found_1, found_10: share of clips whose own sound is
    the nearest of all, or among the nearest ten.
    """
    likeness = mapped @ heard.T  # [N, N]
    count = len(likeness)
    own = likeness.diagonal()
    place = ranks(likeness.double().numpy())
    return {
        "matched": round(own.mean().item(), 4),
        "unmatched": round(((likeness.sum() - own.sum()) / (count * (count - 1))).item(), 4),
        "centroids": round((mapped.mean(0) - heard.mean(0)).norm().item(), 4),
        "found_1": round(float((place <= 1).mean()), 4),
        "found_10": round(float((place <= 10).mean()), 4),
    }


def mapped_vectors(features: NDArray[np.float32], draw: Draw) -> Tensor:
    """Unit vectors [N, D] of the pictures of N clips [N, F, D]; clip i has the seed i."""
    rows = [draw(pictures, seed) for seed, pictures in enumerate(features)]
    return F.normalize(torch.from_numpy(np.concatenate(rows)), dim=1)


def spread(vectors: Tensor) -> float:
    """Mean distance between any two of several vectors of one clip [draws, D]."""
    count = len(vectors)
    return float(torch.cdist(vectors, vectors).sum() / (count * (count - 1)))
