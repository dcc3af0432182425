"""Clips of real pictures and real recordings, seeded: what is seen moves as FoleyWorld's things do,
and what is heard are recordings of its kind, in time with that.

A clip has one or two scenes, cut at any moment. A scene is ambient (a picture under a camera, and a
stretch of recordings), struck (a picture that strikes, and single sounds at its strokes), both at
once, or nothing that is known, with quiet room tone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.datasets.material import AMBIENCE, Levels, Material
from training.datasets.moving_pictures import (
    Layer,
    Shot,
    aspect,
    crossing,
    film,
    striking,
    wandering_light,
    wandering_view,
)
from training.datasets.one_shots import (
    Samples,
    at_usual_level,
    played,
    room_tone,
    stretch,
)
from training.foleyworld.scenes import SOURCES
from training.foleyworld.sounds import limit
from training.foleyworld.stage import Place, jolt
from vab_rt.config import ModelConfig

Form = Literal["ambient", "struck", "two", "ambience"]
FORMS: tuple[Form, ...] = get_args(Form)
SHARES = (0.37, 0.4, 0.11, 0.12)
CUT_SHARE, SHORTEST_SCENE_S = 0.22, 1.5
STRUCK_AS_STRUCK = 0.75
DISTRACTED = 0.35
ROOM_DB, FLOOR_DB = -45.0, -62.0
STRIKERS = ("ball", "drum", "hammer", "knock", "footsteps")
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


class Scene(msgspec.Struct, frozen=True):
    """What one camera sees, from start_s on; seen: whether that is what sounds."""

    kinds: tuple[str, ...]
    seen: bool
    shot: Shot
    sound: Callable[[int, int], Samples]
    """From one sample of the clip to another."""
    events_s: tuple[float, ...] = ()


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
    scenes = [_draw_scene(random, material, config, start_s, kind, form) for start_s in cuts]
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


def _draw_scene(
    random: np.random.Generator,
    material: Material,
    config: ModelConfig,
    start_s: float,
    kind: str | None,
    form: Form | None,
) -> Scene:
    form = form or (FORMS[int(random.choice(len(FORMS), p=SHARES))] if kind is None else None)
    if kind is None and form is not None:
        kind = AMBIENCE if form == "ambience" else material.draw_kind(random, form == "struck")
    assert kind is not None
    if kind == AMBIENCE:
        return _ambience(random, material, start_s)
    if form is None:
        form = "struck" if kind in material.struck else "ambient"
    if form == "two":
        return _two(random, material, start_s, kind)
    if form == "struck" or (kind in material.struck and random.random() < STRUCK_AS_STRUCK):
        return _struck(random, material, start_s, kind)
    return _ambient(random, material, start_s, kind)


def _ambience(random: np.random.Generator, material: Material, start_s: float) -> Scene:
    level = np.float32(10 ** ((ROOM_DB + random.uniform(-6, 6)) / 20))
    recorded = material.recordings.get(AMBIENCE, [])
    if recorded and random.random() < 0.8:
        chosen, noise = recorded[int(random.integers(len(recorded)))], None
    else:
        chosen, noise = None, random.spawn(1)[0]

    def sound(start: int, end: int) -> Samples:
        if chosen is not None:
            part = stretch([chosen], end - start, material.rate_hz)
            return level * part / (part.std() + np.float32(1e-9))
        assert noise is not None
        return level * room_tone(end - start, material.rate_hz, noise)

    pictures = material.pictures.get(AMBIENCE, [])
    picture = _any(pictures, random) if pictures else _any(material.all_pictures, random)
    layers = [_view(picture, random), *_distractors(random, material, pictures)]
    shot = Shot(start_s, tuple(layers), wandering_light(random))
    return Scene((AMBIENCE,), bool(pictures), shot, sound)


def _ambient(random: np.random.Generator, material: Material, start_s: float, kind: str) -> Scene:
    pictures = material.pictures.get(kind, [])
    picture = _any(pictures or material.all_pictures, random)
    layers = [_view(picture, random), *_distractors(random, material, pictures)]
    shot = Shot(start_s, tuple(layers), wandering_light(random))
    return Scene((kind,), bool(pictures), shot, _stretch_of(random, material, kind))


def _struck(random: np.random.Generator, material: Material, start_s: float, kind: str) -> Scene:
    pictures = material.pictures.get(kind, [])
    thing, events_s, gains = _thing(random, pictures or material.all_pictures)
    behind = pictures if random.random() < 0.4 else material.pictures.get(AMBIENCE, [])
    backdrop = _view(_any(behind or pictures or material.all_pictures, random), random)
    layers = (backdrop, *_distractors(random, material, pictures), thing)
    shot = Shot(start_s, layers, wandering_light(random))
    sound = _strokes_of(random, material, kind, events_s, gains)
    return Scene((kind,), bool(pictures), shot, sound, events_s)


def _two(random: np.random.Generator, material: Material, start_s: float, kind: str) -> Scene:
    """One behind, of which a stretch is heard, and one in front that strikes, if such is known."""
    other = material.draw_kind(random, True)
    if other == kind:
        return _struck(random, material, start_s, kind)
    behind, front = material.pictures.get(kind, []), material.pictures.get(other, [])
    thing, events_s, gains = _thing(random, front or material.all_pictures)
    backdrop = _view(_any(behind or material.all_pictures, random), random)
    shot = Shot(start_s, (backdrop, thing), wandering_light(random))
    stretches = _stretch_of(random, material, kind)
    strokes = _strokes_of(random, material, other, events_s, gains)

    def sound(start: int, end: int) -> Samples:
        return np.float32(0.6) * stretches(start, end) + strokes(start, end)

    return Scene((kind, other), bool(behind and front), shot, sound, events_s)


def _thing(
    random: np.random.Generator, pictures: Sequence[Levels]
) -> tuple[Layer, tuple[float, ...], list[float]]:
    """A picture that moves as something of FoleyWorld does, when it strikes, and how hard."""
    name = str(random.choice(STRIKERS))
    look = int(random.integers(2**31))
    source = SOURCES[name][1](random, Place(float(random.random()), 1.0, 0.0, look=look))
    picture = _any(pictures, random)
    height = float(random.uniform(0.4, 0.75))
    place = float(random.uniform(-0.4, 0.4)), float(random.uniform(-0.85, -0.3)) + height, height
    gives = partial(jolt, events_s=source.events_s)
    pose = striking(picture, random, source.level, gives, place)
    contacts = getattr(source, "contacts", ())
    gains = [x.gain for x in contacts] or random.uniform(0.7, 1, len(source.events_s)).tolist()
    shape: Literal["disc", "box"] = "disc" if random.random() < 0.5 else "box"
    return Layer(picture, pose, shape), source.events_s, gains


def _view(picture: Levels, random: np.random.Generator) -> Layer:
    shake = float(random.choice([0.0, 0.0, 0.05, 0.15]))
    reach = float(random.choice([0.0, 0.2, 0.6]))
    return Layer(picture, wandering_view(picture, random, reach, shake))


def _distractors(
    random: np.random.Generator, material: Material, others: Sequence[Levels]
) -> list[Layer]:
    """Silent: of no kind, or of the scene's own."""
    pictures = material.pictures.get(AMBIENCE, []) or others
    if not pictures or random.random() >= DISTRACTED:
        return []
    picture = _any(pictures, random)
    height = float(random.uniform(0.1, 0.3))
    pose = crossing(random, height, aspect(picture))
    return [Layer(picture, pose, "disc" if random.random() < 0.5 else "box")]


def _any(pictures: Sequence[Levels], random: np.random.Generator) -> Levels:
    return pictures[int(random.integers(len(pictures)))]


def _stretch_of(
    random: np.random.Generator, material: Material, kind: str
) -> Callable[[int, int], Samples]:
    """One recording of the kind, or a few, one after the other."""
    known = material.recordings[kind]
    count = int(random.choice([1, 1, 2, 3]))
    parts = [known[i] for i in random.integers(len(known), size=count).tolist()]
    skip, own = float(random.random()), random.spawn(1)[0]

    def sound(start: int, end: int) -> Samples:
        length = end - start
        first = parts[0]
        offset = round(skip * max(0, len(first) - length))  # of a long one, any part
        return at_usual_level(
            stretch([first[offset:], *parts[1:]], length, material.rate_hz), material.rate_hz, own
        )

    return sound


def _strokes_of(
    random: np.random.Generator,
    material: Material,
    kind: str,
    events_s: Sequence[float],
    gains: Sequence[float],
) -> Callable[[int, int], Samples]:
    """Single sounds of one recording of the kind at the events."""
    shots = material.shots(kind, random)
    chosen = [shots[i] for i in random.integers(len(shots), size=len(events_s)).tolist()]
    own = random.spawn(1)[0]

    def sound(start: int, end: int) -> Samples:
        starts = [round(t * material.rate_hz) - start for t in events_s]
        within = [i for i, at in enumerate(starts) if 0 <= at < end - start]
        if not within:
            return np.zeros(end - start, np.float32)
        heard = played(
            [chosen[i] for i in within],
            [starts[i] for i in within],
            [gains[i] for i in within],
            end - start,
        )
        return at_usual_level(heard, material.rate_hz, own)

    return sound


def _audio(
    scenes: Sequence[Scene], bounds: Sequence[int], rate_hz: int, random: np.random.Generator
) -> Samples:
    """The scenes' sounds, each cut where its picture is, over a floor of noise [S]."""
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
