"""From a media file to tokens and features: the two encoders that stand before the transformer."""

import functools
import warnings
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.checkpoint import read_checkpoint
from training.datasets.media_sets import Segment
from training.datasets.shard_format import ClipNotes, Sample
from training.datasets.soundtrack import read_soundtrack
from vab_rt.config import ModelConfig
from vab_rt.errors import BackendError, MediaError, MediaWarning
from vab_rt.video import Video, read_frames

_SLACK_S = 1.0  # by which a file that was cut to a segment may be longer than it


class Encoders(msgspec.Struct, frozen=True):
    """config: of the model that they belong to. device: where they run, as torch names it."""

    config: ModelConfig
    codec: nn.Module
    visual_encoder: nn.Module
    device: str


@functools.lru_cache(maxsize=1)  # one for all shards of a process
def load_encoders(checkpoint: Path, device: str) -> Encoders:
    """Raises ExportError for a checkpoint that does not fit, BackendError for a device."""
    saved = read_checkpoint(checkpoint)
    codec, visual_encoder = saved.codec(), saved.visual_encoder()
    try:
        return Encoders(saved.config, codec.to(device), visual_encoder.to(device), device)
    except (RuntimeError, AssertionError) as error:  # torch raises both for a missing device
        raise BackendError(
            f"device {device!r} cannot be used ({error}), expected cpu or cuda; choose another"
        ) from error


def encode_segment(media: Path, segment: Segment, key: str, encoders: Encoders) -> Sample:
    """Raises MediaError, also for what the runtime would only warn of, and OptionError."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MediaWarning)
        audio, frames, notes = read_segment(media, segment, encoders.config)
    for warning in caught:
        if issubclass(warning.category, MediaWarning):
            raise MediaError(f"{warning.message}; leave the file out, or copy it again")
    tokens, features = encode(audio, frames, encoders)
    return Sample(key=key, tokens=tokens, features=features, notes=notes)


def read_segment(
    media: Path, segment: Segment, config: ModelConfig
) -> tuple[NDArray[np.float32], NDArray[np.uint8], ClipNotes]:
    """audio [S] with silence after its end, frames [1 to F, image_size, image_size, 3]."""
    path = media / segment.path
    duration_s = min(segment.end_s - segment.start_s, config.clip_s)
    video = Video(path, segment.start_s, duration_s)
    length_s = video.info.duration_s
    is_cut = length_s is not None and length_s <= segment.end_s - segment.start_s + _SLACK_S
    if segment.holds == "segment" or (segment.holds == "either" and is_cut):
        video = Video(path, 0.0, duration_s)
    images, length_s = read_frames(video, config)
    frames = np.stack(images[: config.num_frames])
    begin = video.info.first_s + video.start
    heard = read_soundtrack(path, config.sample_rate_hz, begin, Fraction(length_s))
    audio = np.zeros(config.num_samples, np.float32)
    audio[: len(heard)] = heard[: len(audio)]
    end_s = segment.start_s + length_s
    return audio, frames, ClipNotes(segment.path, segment.start_s, end_s, segment.labels)


@torch.inference_mode()
def encode(
    audio: NDArray[np.float32], frames: NDArray[np.uint8], encoders: Encoders
) -> tuple[NDArray[np.int16], NDArray[np.float16]]:
    """tokens [K, T], features [F, visual_dim]; a clip with fewer frames repeats the last one's."""
    device, num_frames = encoders.device, encoders.config.num_frames
    tokens = encoders.codec.encode(torch.from_numpy(audio)[None].to(device))[0]  # [K, T]
    features = encoders.visual_encoder(torch.from_numpy(frames).to(device))  # [1 to F, visual_dim]
    padding = features[-1:].expand(num_frames - len(features), -1)
    features = torch.cat([features, padding])  # [F, visual_dim]
    return tokens.cpu().numpy().astype(np.int16), features.cpu().numpy().astype(np.float16)
