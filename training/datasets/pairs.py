"""Clips of real pictures and real recordings, seeded: what is seen moves as FoleyWorld's things do,
and what is heard are recordings of its kind, in time with that.

A clip has one or two scenes, cut at any moment.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.datasets.material import Material
from training.datasets.moving_pictures import film
from training.datasets.one_shots import Samples, room_tone
from training.datasets.pair_scenes import Form, Scene, draw_scene
from training.foleyworld.sounds import limit
from vab_rt.config import ModelConfig

CUT_SHARE, SHORTEST_SCENE_S = 0.22, 1.5
FLOOR_DB = -62.0
IMAGES = 4
"""Different images a clip has at most."""
SOUNDING = 2
"""Kinds that a scene has at most."""
FADE_S = 0.005


class Pair(msgspec.Struct, frozen=True):
    """A clip. frames uint8 [F, frame_size, frame_size, 3]; images uint8 [IMAGES, image_size,
    image_size, 3]; shown int8 [F / image_stride]: which image is seen then, -1 where a kind without
    pictures sounds; heard int16 [F / image_stride, SOUNDING]: numbers of kinds, -1 for none; audio
    float32 [S]; events_s: strokes that are heard."""

    frames: NDArray[np.uint8]
    images: NDArray[np.uint8]
    shown: NDArray[np.int8]
    heard: NDArray[np.int16]
    audio: Samples
    kinds: tuple[str, ...]
    events_s: tuple[float, ...]


def draw_pair(
    seed: int,
    material: Material,
    config: ModelConfig,
    kind: str | None = None,
    form: Form | None = None,
) -> Pair:
    """The clip of a seed; of one scene with this kind and form, where they are given."""
    random = np.random.default_rng((seed, 5))
    cuts = [0.0]
    if kind is None and form is None and random.random() < CUT_SHARE:
        last_s = config.clip_s - SHORTEST_SCENE_S
        cuts.append(float(random.uniform(SHORTEST_SCENE_S, last_s)))
    scenes = [draw_scene(random, material, start_s, kind, form) for start_s in cuts]
    bounds = [round(start_s * config.sample_rate_hz) for start_s in cuts] + [config.num_samples]
    times_s = (np.arange(config.num_frames) + 0.5) / config.visual_rate_hz
    shots = [scene.shot for scene in scenes]
    shown, images_s = _images(scenes, times_s[:: config.image_stride], random)
    images = np.zeros((IMAGES, config.image_size, config.image_size, 3), np.uint8)
    images[: len(images_s)] = film(shots, np.array(images_s), config.image_size)
    ends_s = [*cuts[1:], config.clip_s]
    events_s = [
        t
        for scene, end_s in zip(scenes, ends_s, strict=True)
        for t in scene.events_s
        if scene.shot.start_s <= t < end_s
    ]
    return Pair(
        frames=film(shots, times_s, config.frame_size),
        images=images,
        shown=shown,
        heard=_heard(scenes, times_s[:: config.image_stride], material),
        audio=_audio(scenes, bounds, material.rate_hz, random),
        kinds=tuple(dict.fromkeys(kind for scene in scenes for kind in scene.kinds)),
        events_s=tuple(events_s),
    )


def _audio(
    scenes: Sequence[Scene], bounds: Sequence[int], rate_hz: int, random: np.random.Generator
) -> Samples:
    """The scenes' sounds, each cut where its frames are, over a floor of noise [S]."""
    floor = 10 ** ((FLOOR_DB + random.uniform(-6, 4)) / 20)
    audio = np.float32(floor) * room_tone(bounds[-1], rate_hz, random)
    fade = np.linspace(0, 1, round(FADE_S * rate_hz), dtype=np.float32)
    for scene, start, end in zip(scenes, bounds, bounds[1:], strict=False):
        sound = scene.sound(start, end)
        if start > 0:
            sound[: len(fade)] *= fade
        if end < bounds[-1]:
            sound[len(sound) - len(fade) :] *= fade[::-1]
        audio[start:end] += sound
    return limit(audio)


def _images(
    scenes: Sequence[Scene], times_s: NDArray[np.float64], random: np.random.Generator
) -> tuple[NDArray[np.int8], list[float]]:
    """Which image is seen at these times, and when the images are taken."""
    shown, images_s = np.full(len(times_s), -1, np.int8), list[float]()
    which = _scene_at(scenes, times_s)
    for number, scene in enumerate(scenes):
        rows = np.flatnonzero(which == number)
        if not scene.seen or not len(rows):
            continue
        for part in np.array_split(rows, min(len(rows), IMAGES // 2)):
            shown[part] = len(images_s)
            images_s.append(float(times_s[int(random.choice(part))]))
    return shown, images_s


def _heard(
    scenes: Sequence[Scene], times_s: NDArray[np.float64], material: Material
) -> NDArray[np.int16]:
    heard = np.full((len(times_s), SOUNDING), -1, np.int16)
    for row, number in zip(heard, _scene_at(scenes, times_s).tolist(), strict=True):
        numbers = [material.kinds.index(kind) for kind in scenes[number].kinds]
        row[: len(numbers)] = numbers
    return heard


def _scene_at(scenes: Sequence[Scene], times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    starts = [scene.shot.start_s for scene in scenes]
    return np.searchsorted(starts, times_s, side="right") - 1
