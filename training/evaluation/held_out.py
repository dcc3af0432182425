"""Held-out clips of FoleyWorld, as videos for the runtime and as tokens for the transformer."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.command import shown
from training.datasets.clips import TokenisedClips
from training.datasets.encoders import encode, load_encoders
from training.datasets.rendered import frame_times
from training.evaluation.classifier import present_classes
from training.processes import in_order
from vab_rt.config import ClipConfig
from vab_rt.output import writing
from vab_rt.pipeline import Pipeline
from vab_rt.seeing import as_frames
from vab_rt.video import Frame, Video

VIDEO_WIDTH, VIDEO_HEIGHT, VIDEO_FPS = 320, 180, 25


def video_frames(seed: int, config: ClipConfig, kept: Path | None = None) -> list[Frame]:
    """What the runtime sees of a clip, F frames: written as H.264, read by its own reader.

    kept: a folder for the videos, one for each version of the world, which the next call reads
    whatever the model. Raises OutputError where they cannot be written.
    """
    if kept is None:
        with tempfile.TemporaryDirectory() as folder:
            return frames_of(rendered_video(Path(folder), seed), config)
    return frames_of(rendered_video(kept / f"world{foleyworld.VERSION}", seed), config)


def rendered_video(folder: Path, seed: int) -> Path:
    """The silent mp4 of a scene, written unless it is there."""
    path = folder / f"{seed}.mp4"
    if not path.exists():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        scene = foleyworld.make_scene(seed)
        foleyworld.write_clip(path, scene, VIDEO_WIDTH, VIDEO_HEIGHT, VIDEO_FPS, silent=True)
    return path


def frames_of(path: Path, config: ClipConfig) -> list[Frame]:
    return list(Video(path).frames(config))[: config.num_frames]


def visual_features(frames: Iterable[Frame], pipeline: Pipeline) -> NDArray[np.float32]:
    """The features [F, visual_dim] that a model has of F frames."""
    return np.stack(list(pipeline.system.see(iter(frames))))


def scene_features(pipeline: Pipeline, seeds: list[int]) -> NDArray[np.float32]:
    """The features [N, F, visual_dim] of scenes as they are drawn, without H.264."""
    config = pipeline.config
    times_s, size, stride = frame_times(config), config.frame_size, config.large_stride
    features = []
    for scene in map(foleyworld.make_scene, seeds):
        large_s = times_s[::stride] if stride else times_s[:0]
        large = scene.frames(large_s, config.image_size, config.image_size)
        frames = as_frames(scene.frames(times_s, size, size), large, max(1, stride))
        features.append(visual_features(frames, pipeline))
    return np.stack(features)


class ClipJob(msgspec.Struct, frozen=True):
    """One clip to be encoded. frames: its own, where they were rendered before: a folder that
    `rendered_clips` filled, and its row there."""

    seed: int
    checkpoint: Path
    device: str
    frames: tuple[Path, int] | None = None


class EncodedClip(msgspec.Struct, frozen=True):
    """tokens int16 [K, T], features float16 [F, visual_dim]"""

    tokens: np.ndarray
    features: np.ndarray


def encoded_clips(
    checkpoint: Path, seeds: list[int], workers: int, device: str
) -> Iterator[EncodedClip]:
    """Tokens and features by the codec and visual encoders of a checkpoint, in the seeds' order."""
    jobs = (ClipJob(seed, checkpoint, device) for seed in seeds)
    yield from in_order(encode_clip, jobs, workers)


def encode_clip(job: ClipJob) -> EncodedClip:
    encoders = load_encoders(job.checkpoint, job.device)
    config, scene = encoders.config, foleyworld.make_scene(job.seed)
    frames = scene.frames(frame_times(config), config.image_size, config.image_size)
    tokens, features = encode(scene.audio(), frames, encoders)
    return EncodedClip(tokens, features)


def in_memory(clips: Iterable[EncodedClip], seeds: list[int]) -> TokenisedClips:
    """All of `encoded_clips`, with their classes."""
    tokens, features = zip(*((clip.tokens, clip.features) for clip in clips), strict=True)
    return with_classes(np.stack(tokens), np.stack(features), seeds)


def with_classes(
    tokens: NDArray[np.int16], features: NDArray[np.float16], seeds: list[int]
) -> TokenisedClips:
    """tokens [N, K, T], features [N, F, visual_dim] of the scenes of these seeds."""
    labels = present_classes([foleyworld.make_scene(seed) for seed in seeds]).astype(np.float32)
    return TokenisedClips(tokens=tokens, features=features, labels=labels)


def held_out_clips(
    checkpoint: Path, seeds: list[int], workers: int = 1, device: str = "cpu"
) -> TokenisedClips:
    """FoleyWorld's clips by the checkpoint's own codec and visual encoders."""
    encoded = encoded_clips(checkpoint, seeds, workers, device)
    return in_memory(shown("clips encoded", encoded, len(seeds)), seeds)
