"""What one camera sees of real pictures, and the recordings that are heard with it.

A scene is ambient (a picture under a camera, and a stretch of recordings), struck (a picture that
strikes, and single sounds at its strokes), both at once, or nothing that is known, with quiet room
tone.
"""

from collections.abc import Callable, Iterator, Sequence
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
from training.datasets.one_shots import Samples, at_usual_level, played, room_tone, stretch
from training.foleyworld.scenes import SOURCES
from training.foleyworld.stage import Place, jolt

Form = Literal["ambient", "struck", "two", "ambience"]
FORMS: tuple[Form, ...] = get_args(Form)
SHARES = (0.37, 0.4, 0.11, 0.12)
STRUCK_AS_STRUCK = 0.75
DISTRACTED = 0.35
ROOM_DB = -45.0
UNKNOWN = 0.15
"""The share of views of what makes no known sound."""
STRIKERS = ("ball", "drum", "hammer", "knock", "footsteps")


class Scene(msgspec.Struct, frozen=True):
    """What one camera sees, from start_s on; seen: whether that is what sounds."""

    kinds: tuple[str, ...]
    seen: bool
    shot: Shot
    sound: Callable[[int, int], Samples]
    """From one sample of the clip to another."""
    events_s: tuple[float, ...] = ()


def draw_scene(
    random: np.random.Generator,
    material: Material,
    start_s: float,
    kind: str | None,
    form: Form | None,
) -> Scene:
    """The scene from start_s on, of this kind and form where they are given."""
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


def draw_views(
    count: int, material: Material, size: int
) -> Iterator[tuple[NDArray[np.uint8], str]]:
    """RGB images [size, size, 3] of scenes of kinds that have pictures, each with its kind: such as
    a model meets, where a thing fills the frame or is small before another; always the same."""
    known = sorted(material.pictures.keys() - {AMBIENCE})
    has_ambience = AMBIENCE in material.pictures
    for seed in range(count):
        random = np.random.default_rng((seed, 7))
        kind, form = AMBIENCE, None
        if known and not (has_ambience and random.random() < UNKNOWN):
            kind = known[int(random.integers(len(known)))]
            form = "struck" if random.random() < 0.5 else "ambient"
        scene = draw_scene(random, material, 0.0, kind, form)
        (image,) = film([scene.shot], random.uniform(0, 10, 1), size)
        yield (image if random.random() < 0.5 else image[:, ::-1].copy()), kind


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
