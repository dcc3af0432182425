"""Pairs and clips of FoleyWorld on disk, in one set: what motion encoder and transformer of a model
of real kinds learn from."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from training import foleyworld
from training.datasets.material import Material
from training.datasets.pairs import IMAGES, SOUNDING, draw_pair
from training.datasets.rendered import Clips, frame_times
from training.datasets.resumable_arrays import Field, Row, grow, read_grown
from training.datasets.sound_folders import Split
from training.samples import as_int16
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError

NAMES = ("audio", "frames", "images", "shown", "heard")
WORLD_IMAGES = 2


class PairClips(msgspec.Struct, frozen=True):
    """N clips, left on disk. audio int16 [N, S]; frames uint8 [N, F, frame_size, frame_size, 3];
    images uint8 [N, IMAGES, image_size, image_size, 3]; shown int8 [N, F / image_stride] and heard
    int16 [N, F / image_stride, SOUNDING]: see `Pair`; clips of FoleyWorld have no kind.
    events_s: of the strokes, a tuple a clip."""

    audio: np.ndarray
    frames: np.ndarray
    images: np.ndarray
    shown: np.ndarray
    heard: np.ndarray
    events_s: list[tuple[float, ...]]

    def __len__(self) -> int:
        return len(self.audio)


def pair_clips(
    folder: Path,
    material: Material,
    world: Clips | None,
    split: Split,
    count: int,
    config: ModelConfig,
) -> PairClips:
    """`count` pairs of a split, and all clips of the world among them, in `folder` on first use.

    Raises OutputError naming the folder where it cannot be written, DataError for damage.
    """
    of_world = 0 if world is None else len(world)
    total = count + of_world
    seeds = foleyworld.clip_seeds(split, 0, max(total, 1))

    def rows_from(first: int) -> Iterator[Row]:
        for i in range(first, total):
            before, after = (of_world * n // total for n in (i, i + 1))  # spread evenly
            if after > before:
                assert world is not None
                yield _world_row(world, before, seeds[before], config)
            else:
                yield _pair_row(seeds[i - before], material, config)

    images = (IMAGES, config.image_size, config.image_size, 3)
    size, steps = config.frame_size, config.num_visual
    fields = {
        "audio": Field("<i2", (config.num_samples,)),
        "frames": Field("|u1", (config.num_frames, size, size, 3)),
        "images": Field("|u1", images),
        "shown": Field("|i1", (steps,)),
        "heard": Field("<i2", (steps, SOUNDING)),
    }
    return read_pairs(grow(folder, fields, total, rows_from))


def read_pairs(folder: Path) -> PairClips:
    """Raises DataError for damage."""
    try:
        arrays, notes = read_grown(folder, NAMES)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} cannot be read ({error}), expected clips as they were made; delete it and "
            "run the same command again"
        ) from error
    return PairClips(**arrays, events_s=[tuple(note["events_s"]) for note in notes])


def _pair_row(seed: int, material: Material, config: ModelConfig) -> Row:
    pair = draw_pair(seed, material, config)
    arrays = {
        "audio": as_int16(pair.audio),
        "frames": pair.frames,
        "images": pair.images,
        "shown": pair.shown,
        "heard": pair.heard,
    }
    return Row(arrays, {"seed": seed, "kinds": pair.kinds, "events_s": pair.events_s})


def _world_row(world: Clips, number: int, seed: int, config: ModelConfig) -> Row:
    """A clip of FoleyWorld, seen by the image encoder at a few times."""
    steps = config.num_visual
    times_s = frame_times(config)[:: config.image_stride]
    parts = np.array_split(np.arange(steps), min(steps, WORLD_IMAGES))
    shown = np.concatenate([np.full(len(part), i) for i, part in enumerate(parts)])
    taken_s = np.array([times_s[part[len(part) // 2]] for part in parts])
    size = config.image_size
    images = np.zeros((IMAGES, size, size, 3), np.uint8)
    images[: len(parts)] = foleyworld.make_scene(seed).frames(taken_s, size, size)
    arrays = {
        "audio": at_rate(np.asarray(world.audio[number]), config),
        "frames": np.asarray(world.frames[number]),
        "images": images,
        "shown": shown.astype(np.int8),
        "heard": np.full((steps, SOUNDING), -1, np.int16),
    }
    return Row(arrays, {"seed": seed, "kinds": (), "events_s": ()})


def at_rate(audio: NDArray[np.int16], config: ModelConfig) -> NDArray[np.int16]:
    """FoleyWorld's sound [S at its rate] -> [S at the model's]."""
    ratio = Fraction(config.sample_rate_hz, foleyworld.SAMPLE_RATE_HZ)
    if ratio != 1:
        wide = resample_poly(audio.astype(np.float32), ratio.numerator, ratio.denominator)
        audio = np.round(wide).clip(-32768, 32767).astype("<i2")
    return audio[: config.num_samples]
