"""Clips of FoleyWorld as pairs: features of the frames, and the spectrum of the sound."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import torch
from torch import nn

from training import foleyworld
from training.datasets.rendered import frame_times
from training.datasets.resumable_arrays import Field, Row, grow, read_grown
from training.image_encoder import build_clip
from training.processes import in_order
from training.representation import load_averaged
from training.stage import begin
from training.v2a_mapper.mel import LogMel
from training.v2a_mapper.parts import PictureEncoder
from vab_rt.errors import DataError
from vab_rt.v2a_mapper.config import V2AConfig


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
            arrays, seeds = read_grown(folder, ("mels", "features"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} cannot be read ({error}), expected mels, features and seeds; delete it "
                "and run the command again"
            ) from error
        return cls(**arrays, seeds=seeds)


class PairJob(msgspec.Struct, frozen=True):
    """One clip to be made; clip is the file of CLIP's weights."""

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
    begin(made, clip=clip)
    fields = {
        "mels": Field("<f2", (config.num_mel_frames, config.num_mels)),
        "features": Field("<f2", (config.num_frames, config.visual_dim)),
    }
    jobs = [PairJob(seed, clip, config) for seed in foleyworld.clip_seeds(split, 0, count)]

    def rows_from(first: int) -> Iterator[Row]:
        yield from in_order(make_pair, jobs[first:], workers)

    return Pairs.load(grow(made, fields, count, rows_from))


@torch.inference_mode()
def make_pair(job: PairJob) -> Row:
    """The log mels [frames, mels] of a clip, its features [F, visual_dim], and its seed."""
    config, scene = job.config, foleyworld.make_scene(job.seed)
    encoder, log_mel = open_encoders(job.clip, config)
    frames = scene.frames(frame_times(config), config.image_size, config.image_size)
    mels = log_mel(torch.from_numpy(scene.audio())[None])[0]
    features = encoder(torch.from_numpy(frames))
    return Row({"mels": mels.half().numpy(), "features": features.half().numpy()}, job.seed)


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_encoders(clip: Path, config: V2AConfig) -> tuple[nn.Module, nn.Module]:
    return load_picture_encoder(clip, config), LogMel(config)


def load_picture_encoder(clip: Path, config: V2AConfig) -> PictureEncoder:
    """The image encoder that `clip_training` left. Raises DataError, ExportError."""
    return PictureEncoder(config, load_averaged(clip, build_clip(config)).visual).eval()
