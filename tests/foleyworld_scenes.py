"""Scenes of FoleyWorld with what a test holds still, and what is measured of their sound."""

from dataclasses import replace

import numpy as np

from training.foleyworld import CLIP_S, SAMPLE_RATE_HZ, Scene
from training.foleyworld.stage import Camera, Curve


def with_place(scene: Scene, **changes: float) -> Scene:
    """The same scene with its source elsewhere or of another size."""
    (source,) = scene.sources
    return replace(scene, sources=(replace(source, place=replace(source.place, **changes)),))


def steady(scene: Scene) -> Scene:
    """The same scene before a camera that stands still, with nothing else that moves."""

    def still(value: float) -> Curve:
        return Curve((0.0, CLIP_S), (value, value))

    camera = Camera(x=still(0.0), y=still(0.0), zoom=still(0.96), light=still(1.0))
    return replace(scene, camera=camera, distractors=())


def loudness(audio: np.ndarray, count: int) -> np.ndarray:
    """RMS of `count` equal blocks."""
    return np.sqrt((audio.reshape(count, -1) ** 2).mean(axis=1))


def spectra(audio: np.ndarray) -> np.ndarray:
    """Power of blocks of 0.1 s [blocks, bins of 10 Hz]."""
    blocks = audio.reshape(-1, SAMPLE_RATE_HZ // 10)
    return np.abs(np.fft.rfft(blocks * np.hanning(blocks.shape[1]), axis=1)) ** 2
