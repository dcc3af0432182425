"""How far the vectors of frames and of sound are apart, and how near a mapper brings them."""

import torch
from torch import Tensor

from training.evaluation.measures import ranks


def gap(mapped: Tensor, heard: Tensor) -> dict[str, float]:
    """How far unit vectors [N, D] made from frames are from those of the clips' own sound.

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


def spread(vectors: Tensor) -> float:
    """Mean distance between any two of several vectors of one clip [draws, D]."""
    count = len(vectors)
    return float(torch.cdist(vectors, vectors).sum() / (count * (count - 1)))
