"""Clips of FoleyWorld as pairs: features of the pictures, and the spectrum of the sound."""

import functools
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

import msgspec
import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import nn

from training import foleyworld
from training.datasets.rendered import frame_times
from training.evaluation.held_out import one_thread_in_a_worker
from training.image_encoder import build_clip
from training.processes import in_parallel
from training.representation import load_averaged
from training.v2a_mapper.mel import LogMel
from training.v2a_mapper.parts import PictureEncoder
from vab_rt.errors import DataError, OutputError
from vab_rt.v2a_config import V2AConfig

REPORT_CLIPS = 200


class Pairs(msgspec.Struct, frozen=True):
    """N clips: log mels float16 [N, frames, mels], features float16 [N, F, visual_dim], on disk.

    seeds: of the scenes, which tell the rest.
    """

    mels: np.ndarray
    features: np.ndarray
    seeds: list[int]

    def __len__(self) -> int:
        return len(self.seeds)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `made_pairs` wrote. Raises DataError."""
        try:
            return cls(
                mels=np.load(folder / "mels.npy", mmap_mode="r"),
                features=np.load(folder / "features.npy", mmap_mode="r"),
                seeds=json.loads((folder / "seeds.json").read_text()),
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} cannot be read ({error}), expected mels, features and seeds; delete it "
                "and run the command again"
            ) from error


class PairJob(msgspec.Struct, frozen=True):
    """One clip to be made; clip is the file of CLIP's weights."""

    number: int
    seed: int
    clip: Path
    config: V2AConfig


def made_pairs(
    folder: Path, split: str, count: int, config: V2AConfig, clip: Path, workers: int
) -> Pairs:
    """The first `count` clips of a split, made in `folder` on first use and when CLIP changes.

    Raises OutputError naming the folder where it cannot be written.
    """
    made = folder / f"{split}-{count}-{config.visual_rate_hz:g}fps-world{foleyworld.VERSION}"
    if made.exists() and made.stat().st_mtime > clip.stat().st_mtime:
        return Pairs.load(made)
    seeds = foleyworld.clip_seeds(split, 0, count)
    partial = made.with_name(made.name + ".partial")
    try:
        for leftover in (partial, made):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        for done in _written(partial, seeds, config, clip, workers):
            if done % REPORT_CLIPS == 0 or done == count:
                print(f"pairs {made.name}: {done} of {count} clips", file=sys.stderr, flush=True)
        partial.rename(made)
    except OSError as error:
        size_gb = 2 * count * (config.num_mel_frames * config.num_mels) / 1e9
        raise OutputError(
            f"{made} cannot be written: {error.strerror or error}; expected a folder that can be "
            f"written, with {size_gb:.1f} GB free; free some or choose another"
        ) from error
    return Pairs.load(made)


def _written(
    folder: Path, seeds: list[int], config: V2AConfig, clip: Path, workers: int
) -> Iterator[int]:
    """Front to back, so that a full disk is an OSError and no crash; yields how many are done."""
    jobs = (PairJob(number, seed, clip, config) for number, seed in enumerate(seeds))
    count = len(seeds)
    with (folder / "mels.npy").open("wb") as mels, (folder / "features.npy").open("wb") as features:
        _write_header(mels, (count, config.num_mel_frames, config.num_mels))
        _write_header(features, (count, config.num_frames, config.visual_dim))
        for done, pair in enumerate(in_order(in_parallel(make_pair, jobs, workers)), start=1):
            mels.write(pair[0].tobytes())
            features.write(pair[1].tobytes())
            yield done
    (folder / "seeds.json").write_text(json.dumps(seeds))


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    npy.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})


def in_order(
    numbered: Iterator[tuple[int, NDArray, NDArray]],
) -> Iterator[tuple[NDArray, NDArray]]:
    """What comes in any order, by its numbers from 0; few wait, as few are under way."""
    waiting: dict[int, tuple[NDArray, NDArray]] = {}
    following = 0
    for number, *item in numbered:
        waiting[number] = (item[0], item[1])
        while following in waiting:
            yield waiting.pop(following)
            following += 1


@torch.inference_mode()
def make_pair(job: PairJob) -> tuple[int, NDArray[np.float16], NDArray[np.float16]]:
    """The clip's number, its log mels [frames, mels] and its features [F, visual_dim]."""
    one_thread_in_a_worker()
    config, scene = job.config, foleyworld.make_scene(job.seed)
    encoder, log_mel = open_encoders(job.clip, config)
    frames = scene.frames(frame_times(config), config.image_size, config.image_size)
    mels = log_mel(torch.from_numpy(scene.audio())[None])[0]
    features = encoder(torch.from_numpy(frames))
    return job.number, mels.half().numpy(), features.half().numpy()


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_encoders(clip: Path, config: V2AConfig) -> tuple[nn.Module, nn.Module]:
    return load_picture_encoder(clip, config), LogMel(config)


def load_picture_encoder(clip: Path, config: V2AConfig) -> PictureEncoder:
    """The image encoder that `clip_training` left. Raises DataError, ExportError."""
    return PictureEncoder(config, load_averaged(clip, build_clip(config)).visual).eval()
