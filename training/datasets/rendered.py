"""Clips of FoleyWorld on disk as plain arrays, rendered once: what every training stage reads."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.datasets.resumable_arrays import Field, Row, grow, read_grown
from training.processes import in_order
from training.samples import as_int16
from vab_rt.config import ClipConfig, ModelConfig
from vab_rt.errors import DataError, OptionError


class Clips(msgspec.Struct, frozen=True):
    """N clips of one split.

    audio int16 [N, foleyworld.NUM_SAMPLES]; frames uint8 [N, F, frame_size, frame_size, 3]; labels
    float32 [N, classes], 1 for each class of `foleyworld.CLASSES` that is in the clip; primary
    int64 [N], the nearer one; captions [N][F], one a frame.
    """

    audio: np.ndarray
    frames: np.ndarray
    labels: np.ndarray
    primary: np.ndarray
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.primary)


def frame_times(config: ModelConfig) -> NDArray[np.float64]:
    """The instants of a clip that its visual features show, in s [F]."""
    return (np.arange(config.num_frames) + 0.5) / config.visual_rate_hz


def rendered_clips(folder: Path, split: str, count: int, config: ModelConfig) -> Clips:
    """The first `count` clips of a split, rendered into `folder` on first use.

    Their sound is FoleyWorld's, whatever rate and length the config has. Raises OutputError naming
    the folder where it cannot be written.
    """
    size, rate_hz = config.frame_size, config.visual_rate_hz
    name = f"{split}-{count}-{size}px-{rate_hz:g}fps-world{foleyworld.VERSION}"
    fields = {
        "audio": Field("<i2", (foleyworld.NUM_SAMPLES,)),
        "frames": Field("|u1", (config.num_frames, size, size, 3)),
    }
    jobs = [(seed, config) for seed in foleyworld.clip_seeds(split, 0, count)]

    def rows_from(first: int) -> Iterator[Row]:
        yield from in_order(_render_clip, jobs[first:], os.cpu_count() or 1)

    return read_clips(grow(folder / name, fields, count, rows_from))


def check_world(config: ClipConfig) -> None:
    """Raises OptionError for a model of clips that are not FoleyWorld's."""
    found = (config.clip_s, config.sample_rate_hz)
    if found != (foleyworld.CLIP_S, foleyworld.SAMPLE_RATE_HZ):
        raise OptionError(
            f"model {config.name} makes {found[0]:g} s at {found[1]} Hz, expected the clips of "
            f"FoleyWorld, {foleyworld.CLIP_S:g} s at {foleyworld.SAMPLE_RATE_HZ} Hz"
        )


def read_clips(folder: Path) -> Clips:
    """What `rendered_clips` wrote; audio and frames stay on disk. Raises DataError for damage."""
    try:
        arrays, notes = read_grown(folder, ("audio", "frames"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} cannot be read ({error}), expected clips as they were rendered; delete it "
            "and run the same command again"
        ) from error
    classes = [[foleyworld.CLASSES.index(kind) for kind in clip["classes"]] for clip in notes]
    labels = np.zeros((len(classes), len(foleyworld.CLASSES)), np.float32)  # [N, classes]
    for row, present in zip(labels, classes, strict=True):
        row[present] = 1.0
    return Clips(
        audio=arrays["audio"],
        frames=arrays["frames"],
        labels=labels,
        primary=np.array([present[0] for present in classes]),
        captions=[clip["captions"] for clip in notes],
    )


def _render_clip(job: tuple[int, ModelConfig]) -> Row:
    seed, config = job
    scene = foleyworld.make_scene(seed)
    times_s = frame_times(config)
    audio = as_int16(scene.audio())
    frames = scene.frames(times_s, config.frame_size, config.frame_size)
    captions = [scene.caption(t) for t in times_s]
    return Row({"audio": audio, "frames": frames}, {"classes": scene.classes, "captions": captions})
