"""A small ear for kinds that lies beside this file: a linear probe on statistics of mel bands.

It needs no file of anybody's, so that a test can hold what the shipped model makes of its kinds
without the recordings that it was trained on. `python -m training.evaluate kinds --sounds DIR`
makes it, and notes how many of `told_sounds` it knew: what the test holds.
"""

import dataclasses
import functools
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torchaudio.functional import melscale_fbanks

from training import foleyworld
from training.datasets.material import AMBIENCE
from training.datasets.rendered import frame_times
from training.datasets.sound_folders import OTHER, list_sounds, of_split, read_sounds
from training.evaluation.evaluator import Sound
from training.evaluation.kind_probe import Probe, shares_right, train_probe
from training.evaluation.models import generate
from training.evaluation.yamnet import RATE_HZ, at_16_khz
from vab_rt.errors import DataError, OptionError
from vab_rt.options import GenerateOptions
from vab_rt.output import whole_file, writing
from vab_rt.pipeline import Pipeline
from vab_rt.seeing import as_frames, given_kinds

Floats = NDArray[np.float64]

KEPT = Path(__file__).with_name("kinds-ear.npz")
N_FFT, HOP, MELS = 1024, 320, 40
QUIET_DB = 40.0
TOLD = 20
"""Kinds that a model is told the names of."""


class Ear(NamedTuple):
    """told: the kinds that the model was told; right: the share of them that it made so that the
    probe knew them."""

    probe: Probe
    told: tuple[str, ...]
    right: float


def statistics(sound: Sound) -> Floats:
    """[3 MELS]: of the levels in dB of mel bands, of frames no quieter than QUIET_DB below the
    loudest: the mean without the overall level, the spread, and the mean rise to the next frame."""
    padded = np.pad(sound, N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT).astype(np.float32))) ** 2
    mel = 10 * np.log10(power @ mel_filters() + 1e-6)  # [frames, MELS]
    loudest = mel.max(1)
    mel = np.maximum(mel, loudest.max() - 2 * QUIET_DB)
    loud = loudest >= loudest.max() - QUIET_DB
    rises = np.abs(np.diff(mel, axis=0, prepend=mel[:1]))[loud]
    level = mel[loud].mean(0)
    return np.concatenate([level - level.mean(), mel[loud].std(0), rises.mean(0)])


@functools.cache
def mel_filters() -> Floats:
    return melscale_fbanks(N_FFT // 2 + 1, 40, RATE_HZ / 2, MELS, RATE_HZ).double().numpy()


def train_ear(sounds: Path, kinds: Sequence[str], workers: int = 1) -> tuple[Probe, dict]:
    """A probe for those of these kinds that there are recordings of, and its figures on the test
    split. Raises DataError."""
    listed = [one for one in list_sounds(sounds) if one.kind in kinds and one.kind != OTHER]
    if not listed:
        raise DataError(
            f"{sounds} has sounds of no kind that the model knows, expected some of: "
            f"{', '.join(kinds)}; name its folders so"
        )
    read = read_sounds(listed, RATE_HZ, workers)
    described = np.stack([statistics(samples) for samples in read.samples])

    def of(split: str) -> tuple[Floats, list[str]]:
        rows = [i for i, one in enumerate(read.listed) if one.split == split]
        return described[rows], [read.listed[i].kind for i in rows]

    probe = train_probe(*of("train"))
    inputs, true = of("test")
    figures = shares_right(probe.names(inputs), true) if true else {}
    counts = Counter(one.kind for one in of_split(read.listed, "train"))
    return probe, figures | {"told": sorted(kind for kind, _ in counts.most_common(TOLD))}


def told_share(pipeline: Pipeline, probe: Probe, told: Sequence[str]) -> float:
    """The share of these kinds that the probe knows in what the model makes when it is told them,
    for the motion of a scene of FoleyWorld each."""
    heard = [statistics(told_sound(pipeline, kind, seed)) for seed, kind in enumerate(told)]
    found = probe.names(np.stack(heard))
    return float(np.mean([a == b for a, b in zip(found, told, strict=True)]))


def told_sound(pipeline: Pipeline, kind: str, seed: int) -> Sound:
    """16 kHz [S]: with the motion of the scene of a test seed, and this kind instead of images.

    Raises OptionError for a model that does not know it.
    """
    config, system = pipeline.system.config, pipeline.system
    if kind not in config.kind_names:
        raise OptionError(f"model {config.name} has no kind {kind}, expected one that has")
    blank = np.zeros(config.image_dim, np.float32)
    engines = system.engines.with_graphs(
        visual_encoder=lambda frames: np.repeat(blank[None], len(frames), 0)
    )
    side, size = config.frame_size, config.image_size
    scene = foleyworld.make_scene(foleyworld.clip_seeds("test", seed, 1)[0])
    frames = scene.frames(frame_times(config), side, side)
    large = np.zeros((config.num_visual, size, size, 3), np.uint8)
    seen = dataclasses.replace(system, engines=engines).see(
        as_frames(frames, large, config.image_stride)
    )
    features = given_kinds(np.stack(list(seen)), (kind,), config)
    made = generate(pipeline, features[None], GenerateOptions(seed=seed))
    return at_16_khz(made, config.sample_rate_hz)


def keep_ear(path: Path, ear: Ear) -> None:
    """Raises OutputError."""
    arrays = {
        "kinds": np.array(ear.probe.kinds),
        "weight": ear.probe.weight.astype(np.float16),
        "bias": ear.probe.bias.astype(np.float32),
        "told": np.array(ear.told),
        "right": np.array(ear.right),
    }
    with whole_file(path, force=True) as part, writing(path), part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def load_ear(path: Path = KEPT) -> Ear:
    """Raises DataError."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            weight, bias = (kept[name].astype(np.float64) for name in ("weight", "bias"))
            probe = Probe(tuple(kept["kinds"].tolist()), weight, bias)
            return Ear(probe, tuple(kept["told"].tolist()), float(kept["right"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected what `python -m training.evaluate kinds` "
            "made"
        ) from error


def made_ear(path: Path, sounds: Path, pipeline: Pipeline, workers: int = 1) -> dict:
    """Train one for the kinds of a model, measure the model by it, keep it. Raises VabError."""
    kinds = [kind for kind in pipeline.config.kind_names if kind != AMBIENCE]
    if not kinds:
        raise OptionError(
            f"model {pipeline.config.name} has no names for what it sees, expected one that was "
            "trained on kinds, as `vab-rt kinds` lists them"
        )
    probe, figures = train_ear(sounds, kinds, workers)
    told = tuple(figures["told"])
    keep_ear(path, Ear(probe, told, 1.0))
    kept = load_ear(path).probe  # the test hears with these very numbers
    right = told_share(pipeline, kept, told)
    keep_ear(path, Ear(kept, told, right))
    return figures | {"told_right": round(right, 4), "ear": str(path)}
