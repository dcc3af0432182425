"""Contact sheets: what clips look like above what they sound like, with their events marked."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.foleyworld.rendering import frame_times
from training.foleyworld.scenes import Scene
from training.foleyworld.sounds import CLIP_S, SAMPLE_RATE_HZ
from vab_rt.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

PICTURES = 10
PICTURE_SIZE = 64
BANDS_HZ = np.geomspace(60.0, 8000.0, 64)
WINDOW, HOP = 1024, 400  # samples
RANGE_DB = 50.0
TICKS_HZ = (100, 1000, 8000)
MARKS = ("cyan", "lime")  # of the first and the second source
COLORS = 256


def write_sheet(path: Path, scenes: list[Scene]) -> None:
    """A PNG with two columns of clips. Raises OutputError if it cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    columns = min(2, len(scenes))
    rows = -(-len(scenes) // columns)
    figure = Figure(figsize=(7.0 * columns, 2.0 * rows), dpi=100)
    blocks = np.array(figure.subfigures(rows, columns, squeeze=False)).ravel()
    for block, scene in zip(blocks, scenes, strict=False):
        _draw_clip(block, scene)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    try:
        image.quantize(COLORS, kmeans=2, dither=Image.Dither.NONE).save(path, "PNG", optimize=True)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; choose another --out"
        ) from error


def _draw_clip(block: "Figure | SubFigure", scene: Scene) -> None:
    top, bottom = block.subplots(2, 1, height_ratios=[1.0, 1.35])
    block.subplots_adjust(left=0.055, right=0.985, top=0.87, bottom=0.11, hspace=0.04)
    times = frame_times(PICTURES / CLIP_S)
    pictures = scene.frames(times, PICTURE_SIZE, PICTURE_SIZE)
    spaced = np.pad(pictures, ((0, 0), (0, 0), (0, 2), (0, 0)), constant_values=255)
    top.imshow(np.concatenate(spaced, axis=1)[:, :-2], aspect="auto", interpolation="nearest")
    top.set_axis_off()
    name = " and ".join(scene.classes)
    top.set_title(f"{name}: {scene.caption(times[0])}", fontsize=8, loc="left", pad=3)
    low, high = np.log10(BANDS_HZ[[0, -1]])
    level_db = spectrogram_db(scene.audio())
    bottom.imshow(
        level_db,
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        extent=(0.0, CLIP_S, low, high),
        vmin=level_db.max() - RANGE_DB,
        cmap="magma",
    )
    for kind, color in zip(scene.classes, MARKS, strict=False):
        bottom.vlines(scene.truth.events[kind], high - 0.25, high, color=color, linewidth=1.5)
    bottom.set_yticks(np.log10(TICKS_HZ), ["100", "1k", "8k Hz"])
    bottom.set_xticks(range(0, int(CLIP_S) + 1, 2), [f"{t} s" for t in range(0, 11, 2)])
    bottom.tick_params(labelsize=6, length=2, pad=1)


def spectrogram_db(audio: np.ndarray) -> np.ndarray:
    """Power in dB at BANDS_HZ [bands, S / HOP], full scale 0."""
    padded = np.pad(audio, WINDOW // 2)
    starts = np.arange(0, len(audio), HOP)
    window = np.hanning(WINDOW).astype(np.float32)
    spectra = np.fft.rfft(padded[starts[:, None] + np.arange(WINDOW)] * window)  # [T, bins]
    level_db = 20 * np.log10(np.abs(spectra) * 2 / window.sum() + 1e-6)
    hz = np.arange(level_db.shape[1]) * SAMPLE_RATE_HZ / WINDOW
    return np.stack([np.interp(BANDS_HZ, hz, column) for column in level_db], axis=1)
