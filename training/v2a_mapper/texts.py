"""What a scene sounds like, in words: the texts that the tiny CLAP is trained on."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from training import foleyworld
from training.foleyworld import Scene
from vab_rt.errors import DataError

ALL_DETAILS = ("size_word", "material", "distance_word")
SURVEYED = 2000
PAD, START = 0, 1
LONGEST = 24


def sound_text(scene: Scene, details: Sequence[str] = ALL_DETAILS) -> str:
    """Such as "the sound of a large glass ball, near"; only what can be heard is told."""
    texts = []
    for source in scene.sources:
        place = {"size_word": source.place.size_word, "distance_word": source.place.distance_word}
        texts.append(_source_text(source.kind, place | source.attributes(), details))
    return " and ".join(texts)


def class_text(kind: str) -> str:
    """The same of which nothing but the class is known."""
    return _source_text(kind, {}, ())


def _source_text(kind: str, attributes: dict, details: Sequence[str]) -> str:
    known = {name: str(attributes[name]) for name in details if name in attributes}
    before = [known[name] for name in ("size_word", "material") if name in known]
    after = [known["distance_word"]] if "distance_word" in known else []
    return " ".join(["the sound of a", *before, kind, *after])


@functools.lru_cache(maxsize=1)
def vocabulary() -> tuple[str, ...]:
    """Every word of the texts, in order; ids begin after PAD and START."""
    seeds = foleyworld.clip_seeds("train", 0, SURVEYED)
    texts = [sound_text(foleyworld.make_scene(seed)) for seed in seeds]
    texts += [class_text(kind) for kind in foleyworld.CLASSES]
    return tuple(sorted({word for text in texts for word in text.split()}))


def tokenise(texts: Sequence[str]) -> Tensor:
    """Ids int64 [B, LONGEST] of texts, each after START; of "" nothing else. Raises DataError."""
    ids = torch.full((len(texts), LONGEST), PAD)
    ids[:, 0] = START
    places = {word: i for i, word in enumerate(vocabulary(), start=START + 1)}
    for row, text in zip(ids, texts, strict=True):
        words = text.split()
        unknown = [word for word in words if word not in places]
        if unknown or len(words) >= LONGEST:
            what = f"has the unknown word {unknown[0]!r}" if unknown else f"has {len(words)} words"
            raise DataError(
                f"text {text!r} {what}, expected fewer than {LONGEST} of: {', '.join(places)}"
            )
        row[1 : len(words) + 1] = torch.tensor([places[word] for word in words])
    return ids
