"""Sound by video and video by sound: recall at ranks, by the protocol of CAV-MAE.

Each clip of one modality is a query for all clips of the other; cosine similarity of mean-pooled,
normalised representations from separate passes (arXiv:2210.07839, section 4.3).
"""

import numpy as np
import torch
from numpy.typing import NDArray

from training.contrastive import Retriever
from training.datasets.clips import TokenisedClips
from training.evaluation.intervals import share
from training.evaluation.measures import ranks
from vab_rt.errors import DataError

RANKS = (1, 5, 10)
EMBEDDED_AT_ONCE = 32


def retrieval_result(retriever: Retriever, clips: TokenisedClips) -> dict:
    """r1, r5 and r10 with their 95 % intervals, both ways. Raises DataError below two clips."""
    if len(clips) < 2:
        raise DataError(f"{len(clips)} clips, expected at least 2 to tell apart")
    audio, visual = embed(retriever, clips)
    similarity = audio @ visual.T  # [N, N]
    return {
        "video_to_audio": recalls(similarity.T),
        "audio_to_video": recalls(similarity),
        "clips": len(clips),
    }


def recalls(similarity: NDArray[np.float64]) -> dict:
    """Shares of queries [N, N] whose own partner is among the first 1, 5, 10."""
    found = ranks(similarity)
    result: dict = {}
    for rank in RANKS:
        result |= share(f"r{rank}", found <= rank)
    return result


@torch.inference_mode()
def embed(
    retriever: Retriever, clips: TokenisedClips
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors of sound and of video, both [N, D]."""
    device = retriever.log_scale.device
    audio, visual = [], []
    for start in range(0, len(clips), EMBEDDED_AT_ONCE):
        batch = clips.take(np.arange(start, min(start + EMBEDDED_AT_ONCE, len(clips))))
        audio.append(retriever.audio(torch.from_numpy(batch.tokens).to(device)).double().cpu())
        visual.append(retriever.visual(torch.from_numpy(batch.features).to(device)).double().cpu())
    return torch.cat(audio).numpy(), torch.cat(visual).numpy()


def spread_over_classes(labels: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Rows of at most `count` clips, in order, of labels [N, classes]: of each class, by the first
    that a clip has, about as many as of any other; without classes the first ones."""
    first = labels.argmax(1) if labels.shape[1] else np.zeros(len(labels), np.intp)
    nth = np.empty(len(first), np.intp)  # how many of its class come before a clip
    for kind in np.unique(first):
        rows = np.flatnonzero(first == kind)
        nth[rows] = np.arange(len(rows))
    return np.sort(np.argsort(nth, kind="stable")[:count])
