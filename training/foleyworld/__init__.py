"""FoleyWorld: seeded, procedural 10-s clips whose sound follows from what is seen."""

from training.foleyworld.rendering import write_clip
from training.foleyworld.scenes import (
    CLASSES,
    FAMILIES,
    SPLITS,
    VERSION,
    Scene,
    clip_seeds,
    make_scene,
)
from training.foleyworld.sounds import CLIP_S, NUM_SAMPLES, SAMPLE_RATE_HZ
from training.foleyworld.truth import Truth, read_truth, write_truth

__all__ = [
    "CLASSES",
    "CLIP_S",
    "FAMILIES",
    "NUM_SAMPLES",
    "SAMPLE_RATE_HZ",
    "SPLITS",
    "VERSION",
    "Scene",
    "Truth",
    "clip_seeds",
    "make_scene",
    "read_truth",
    "write_clip",
    "write_truth",
]
