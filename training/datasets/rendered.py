"""Clips of FoleyWorld on disk as plain arrays, rendered once: what every training stage reads."""

import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from training import foleyworld
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, OutputError

REPORT_CLIPS = 200


class Clips(msgspec.Struct, frozen=True):
    """N clips of one split.

    audio int16 [N, S]; frames uint8 [N, F, image_size, image_size, 3]; labels float32
    [N, classes], 1 for each class of `foleyworld.CLASSES` that is in the clip; primary int64 [N],
    the nearer one; captions [N][F], one a frame.
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

    Raises OutputError naming the folder where it cannot be written.
    """
    size, rate_hz = config.image_size, config.visual_rate_hz
    name = f"{split}-{count}-{size}px-{rate_hz:g}fps-world{foleyworld.VERSION}"
    if not (folder / name).exists():
        for done in rendering(folder / name, split, count, config):
            if done % REPORT_CLIPS == 0 or done == count:
                print(f"rendering {name}: {done} of {count} clips", file=sys.stderr)
    return read_clips(folder / name)


def read_clips(folder: Path) -> Clips:
    """What `rendering` wrote; audio and frames stay on disk. Raises DataError for damage."""
    try:
        text = json.loads((folder / "clips.json").read_text())
        audio, frames = (np.load(folder / f"{x}.npy", mmap_mode="r") for x in ("audio", "frames"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} cannot be read ({error}), expected clips as they were rendered; delete it "
            "and run the same command again"
        ) from error
    classes = [[foleyworld.CLASSES.index(kind) for kind in kinds] for kinds in text["classes"]]
    labels = np.zeros((len(classes), len(foleyworld.CLASSES)), np.float32)  # [N, classes]
    for row, present in zip(labels, classes, strict=True):
        row[present] = 1.0
    return Clips(
        audio=audio,
        frames=frames,
        labels=labels,
        primary=np.array([present[0] for present in classes]),
        captions=text["captions"],
    )


def rendering(folder: Path, split: str, count: int, config: ModelConfig) -> Iterator[int]:
    """Render the first `count` clips of a split into `folder`; yields how many are done.

    Until the last one is written the folder is called `NAME.partial`, and a later call starts
    again. Raises OutputError naming the folder where it cannot be written.
    """
    partial = folder.with_name(folder.name + ".partial")
    jobs = [(seed, config) for seed in foleyworld.clip_seeds(split, 0, count)]
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield from _write_clips(partial, jobs, config)
        partial.rename(folder)
    except OSError as error:
        size_gb = count * (config.num_frames * config.image_size**2 * 3 + 2 * config.num_samples)
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}; expected a folder that can "
            f"be written, with {size_gb / 1e9:.1f} GB free; free some or choose another"
        ) from error


def _write_clips(
    folder: Path, jobs: list[tuple[int, ModelConfig]], config: ModelConfig
) -> Iterator[int]:
    """Written front to back rather than through a memory map: a full disk is then an OSError."""
    size, num_frames = config.image_size, config.num_frames
    classes, captions = [], []
    with (
        (folder / "audio.npy").open("wb") as audio,
        (folder / "frames.npy").open("wb") as frames,
        ProcessPoolExecutor() as pool,
    ):
        _write_header(audio, "<i2", (len(jobs), config.num_samples))
        _write_header(frames, "|u1", (len(jobs), num_frames, size, size, 3))
        for done, clip in enumerate(pool.map(_render_clip, jobs, chunksize=8), start=1):
            audio.write(clip[0].tobytes())
            frames.write(clip[1].tobytes())
            classes.append(clip[2])
            captions.append(clip[3])
            yield done
    (folder / "clips.json").write_text(json.dumps({"classes": classes, "captions": captions}))


def _write_header(file: BinaryIO, dtype: str, shape: tuple[int, ...]) -> None:
    npy.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _render_clip(
    job: tuple[int, ModelConfig],
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], list[str]]:
    seed, config = job
    scene = foleyworld.make_scene(seed)
    times_s = frame_times(config)
    audio = np.round(scene.audio() * 32767).astype("<i2")
    frames = scene.frames(times_s, config.image_size, config.image_size)
    return audio, frames, scene.classes, [scene.caption(t) for t in times_s]
