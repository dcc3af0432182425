"""A sheet of spectrograms: a clip a row; what is seen, and its sounds beside each other."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.evaluation.real_figures import (
    CODEC,
    MADE,
    RETRIEVED,
    TRUE,
    ScoredClip,
)
from training.foleyworld.contact_sheets import BANDS_HZ, RANGE_DB, TICKS_HZ

COLUMNS = {TRUE: "true sound", CODEC: "the codec alone", RETRIEVED: "retrieved", MADE: "generated"}
THUMBNAIL = 96
MOST_ROWS = 16


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most about THUMBNAIL pixels wide [h, w, 3]."""
    stride = max(1, image.shape[1] // THUMBNAIL)
    return image[::stride, ::stride]


def drawn_clips(clips: Sequence[ScoredClip]) -> list[ScoredClip]:
    """At most MOST_ROWS of those whose sounds were kept to be drawn, spread over the kinds."""
    kept = [clip for clip in clips if "picture" in clip.arrays]
    step = max(1, -(-len(kept) // MOST_ROWS))
    return kept[::step]


def sheet(clips: Sequence[ScoredClip], clip_s: float) -> bytes:
    """PNG of `drawn_clips`."""
    from matplotlib.figure import Figure  # no pyplot: it looks for a display

    names = [name for name in COLUMNS if f"spectrogram/{name}" in clips[0].arrays]
    figure = Figure(figsize=(1.3 + 2.5 * len(names), 1.15 * len(clips) + 0.3), layout="constrained")
    ratios = [0.45] + [1.0] * len(names)
    cells = figure.subplots(len(clips), 1 + len(names), squeeze=False, width_ratios=ratios)
    for row, clip in zip(cells, clips, strict=True):
        if clip.seen == "picture":
            row[0].imshow(clip.arrays["picture"])
        else:
            row[0].text(0.5, 0.5, f"by its\n{clip.seen}", fontsize=7, ha="center", va="center")
        row[0].set_axis_off()
        row[0].set_title(clip.kind.replace("_", " "), fontsize=7, pad=2)
        top_db = max(float(clip.arrays[f"spectrogram/{name}"].max()) for name in names)
        for axes, name in zip(row[1:], names, strict=True):
            level_db = clip.arrays[f"spectrogram/{name}"].astype(np.float32)
            low, high = np.log10(BANDS_HZ[[0, -1]])
            axes.imshow(
                level_db,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                extent=(0.0, clip_s, low, high),
                vmin=top_db - RANGE_DB,
                vmax=top_db,
                cmap="magma",
            )
            axes.set_yticks(np.log10(TICKS_HZ), ["100", "1k", "8k"])
            axes.tick_params(labelsize=5, length=2, pad=1)
    for axes, name in zip(cells[0, 1:], names, strict=True):
        axes.set_title(COLUMNS[name], fontsize=8, pad=3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return file.getvalue()
