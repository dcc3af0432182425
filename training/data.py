"""Clips of FoleyWorld on disk as plain arrays, rendered once: what every training stage reads."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from training import foleyworld
from vab_rt.config import ModelConfig


class Clips(msgspec.Struct, frozen=True):
    """N clips of one split.

    audio int16 [N, S]; frames uint8 [N, F, image_size, image_size, 3]; labels [N] into
    `foleyworld.CLASSES`; captions [N][F], one a frame.
    """

    audio: np.ndarray
    frames: np.ndarray
    labels: np.ndarray
    captions: list[list[str]]

    def __len__(self) -> int:
        return len(self.labels)


def frame_times(config: ModelConfig) -> NDArray[np.float64]:
    """The instants of a clip that its visual features show, in s [F]."""
    return (np.arange(config.num_frames) + 0.5) / config.visual_rate_hz


def clips(folder: Path, split: str, count: int, config: ModelConfig) -> Clips:
    """The first `count` clips of a split, rendered into `folder` on first use."""
    folder = folder / f"{split}-{count}-{config.image_size}px-{config.visual_rate_hz:g}fps"
    if not (folder / "clips.json").exists():
        _render(folder, split, count, config)
    text = json.loads((folder / "clips.json").read_text())
    return Clips(
        audio=np.load(folder / "audio.npy", mmap_mode="r"),
        frames=np.load(folder / "frames.npy", mmap_mode="r"),
        labels=np.array(text["labels"]),
        captions=text["captions"],
    )


def _render(folder: Path, split: str, count: int, config: ModelConfig) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size, num_frames = config.image_size, config.num_frames
    audio = open_memmap(folder / "audio.npy", "w+", np.int16, (count, config.num_samples))
    frames = open_memmap(folder / "frames.npy", "w+", np.uint8, (count, num_frames, size, size, 3))
    labels, captions = [], []
    jobs = [(seed, config) for seed in foleyworld.clip_seeds(split, 0, count)]
    with ProcessPoolExecutor() as pool:
        for i, clip in enumerate(pool.map(_render_clip, jobs, chunksize=8)):
            audio[i], frames[i], label, caption = clip
            labels.append(label)
            captions.append(caption)
    audio.flush()
    frames.flush()
    (folder / "clips.json").write_text(json.dumps({"labels": labels, "captions": captions}))


def _render_clip(
    job: tuple[int, ModelConfig],
) -> tuple[np.ndarray, np.ndarray, int, list[str]]:
    seed, config = job
    scene = foleyworld.make_scene(seed)
    times_s = frame_times(config)
    audio = np.round(scene.audio() * 32767).astype(np.int16)
    frames = scene.frames(times_s, config.image_size, config.image_size)
    label = foleyworld.CLASSES.index(scene.truth.classes[0])
    return audio, frames, label, [scene.caption(t) for t in times_s]
