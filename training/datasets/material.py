"""What pairs are made of: the recordings and the pictures of a split, by kind."""

import sys
from collections.abc import Sequence

import msgspec
import numpy as np
from torch import Tensor

from training.datasets.moving_pictures import read_picture
from training.datasets.one_shots import Samples, are_struck, one_shots, trimmed
from training.datasets.sound_folders import Listed, Sounds, Split, kinds_of, of_split
from vab_rt.errors import DataError, MediaError

AMBIENCE = "ambience"
"""The last kind: quiet room tone, and pictures of whatever makes no known sound."""
ENOUGH = 8
"""Recordings of a kind from which on it is drawn as often as any other."""

Levels = tuple[Tensor, ...]


class Material(msgspec.Struct, frozen=True):
    """The material of a split. kinds: the model's, AMBIENCE last; recordings and pictures by kind,
    where there are any; struck: the kinds that are heard in single sounds."""

    kinds: tuple[str, ...]
    recordings: dict[str, list[Samples]]
    pictures: dict[str, list[Levels]]
    struck: frozenset[str]
    rate_hz: int
    cut: dict[tuple[str, int], list[Samples]] = {}

    @property
    def sounding(self) -> list[str]:
        """The kinds with recordings, without AMBIENCE."""
        return [kind for kind in self.kinds[:-1] if kind in self.recordings]

    @property
    def all_pictures(self) -> list[Levels]:
        return [picture for kind in sorted(self.pictures) for picture in self.pictures[kind]]

    def draw_kind(self, random: np.random.Generator, struck: bool) -> str:
        """One with recordings, the less often the fewer it has; one of the struck if there are
        any."""
        kinds = [kind for kind in self.sounding if not struck or kind in self.struck]
        kinds = kinds or self.sounding
        many = np.array([min(len(self.recordings[kind]), ENOUGH) for kind in kinds])
        weights = np.sqrt(many / ENOUGH)
        return kinds[int(random.choice(len(kinds), p=weights / weights.sum()))]

    def shots(self, kind: str, random: np.random.Generator) -> list[Samples]:
        """The single sounds of one of a kind's recordings."""
        number = int(random.integers(len(self.recordings[kind])))
        if (kind, number) not in self.cut:
            self.cut[kind, number] = one_shots(self.recordings[kind][number], self.rate_hz)
        return self.cut[kind, number]


def model_kinds(sounds: Sequence[Listed]) -> tuple[str, ...]:
    """Those with recordings to train on, sorted, and AMBIENCE. Raises DataError for none."""
    kinds = [kind for kind in kinds_of(of_split(sounds, "train")) if kind != AMBIENCE]
    if not kinds:
        raise DataError("no kind has a recording to train on, expected sounds in KIND/FILE")
    return (*kinds, AMBIENCE)


def gather(
    sounds: Sounds, pictures: Sequence[Listed], split: Split, kinds: tuple[str, ...], rate_hz: int
) -> Material:
    """The material of a split, with what is for training where a split has no sound or no picture
    at all; pictures of kinds that have no sound are AMBIENCE. Pictures that cannot be read are left
    out and named on stderr. Raises DataError where none can."""
    of_sounds = split if of_split(sounds.listed, split) else "train"
    recordings: dict[str, list[Samples]] = {}
    everything: dict[str, list[Samples]] = {}
    for one, samples in zip(sounds.listed, sounds.samples, strict=True):
        if one.kind not in kinds:
            continue
        everything.setdefault(one.kind, []).append(samples)
        if one.split == of_sounds:
            recordings.setdefault(one.kind, []).append(trimmed(samples, rate_hz))
    struck = frozenset(kind for kind, known in everything.items() if are_struck(known, rate_hz))
    return Material(
        kinds=kinds,
        recordings=recordings,
        pictures=_read_pictures(of_split(pictures, split) or of_split(pictures, "train"), kinds),
        struck=struck - {AMBIENCE},
        rate_hz=rate_hz,
    )


def _read_pictures(listed: Sequence[Listed], kinds: tuple[str, ...]) -> dict[str, list[Levels]]:
    pictures: dict[str, list[Levels]] = {}
    for one in listed:
        kind = one.kind if one.kind in kinds else AMBIENCE
        try:
            pictures.setdefault(kind, []).append(read_picture(one.path))
        except MediaError as error:
            print(f"left out: {error}", file=sys.stderr, flush=True)
    pictures = {kind: known for kind, known in pictures.items() if known}
    if not pictures:
        raise DataError("no picture can be read, expected some in KIND/FILE; add a few")
    return pictures
