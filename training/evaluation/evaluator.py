"""The evaluator: what any measure needs of a sound, and the one loop that generates and measures.

Whoever evaluates brings a function that makes the sounds of one clip. Each sound becomes its
`SoundFeatures`, clips are spread over processes, and what is done may be kept in a folder.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.command import shown
from training.evaluation.classifier import KEPT, AudioClassifier, classify, load_classifier, softmax
from training.evaluation.embeddings import (
    OWN,
    ClassifierEmbedding,
    Embedded,
    Embedding,
    open_embedding,
)
from training.evaluation.onsets import onset_times
from training.evaluation.spectra import Blows, blows_at, envelope_db, level_db, mean_bands
from training.processes import in_parallel
from training.saving import arrays_once
from vab_rt.options import GenerateOptions

Floats = NDArray[np.float64]
Sound = NDArray[np.float32]
Arrays = dict[str, NDArray[Any]]
Clip = TypeVar("Clip")


class EvalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is evaluated, a checkpoint or else a bundle (None: the shipped one), and how.

    classifier: the file of its weights. embeddings: see `open_embedding` and `Evaluator`. videos:
    a folder to keep rendered videos in. kept: a folder for the features of this very evaluation, to
    go on from. device: of a checkpoint, as torch names it. varied: how many of the first clips are
    generated again with other seeds. unconditional: also without the video. precision: of a
    bundle, as `vab_rt.load` has it.
    """

    classifier: Path = KEPT
    bundle: str | None = None
    checkpoint: Path | None = None
    embeddings: tuple[str, ...] = (OWN,)
    options: GenerateOptions = GenerateOptions()
    videos: Path | None = None
    kept: Path | None = None
    device: str = "cpu"
    varied: int = 60
    unconditional: bool = False
    precision: str | None = None

    def options_of(self, number: int) -> GenerateOptions:
        """Clip `number` has a seed of its own."""
        return msgspec.structs.replace(self.options, seed=self.options.seed + number)


class SoundFeatures(NamedTuple):
    """logits [classes] of the classifier; for distances, vectors [M, D] and probabilities [C] of
    the embedding; the level in dB, the spectrum [BANDS], the envelope [100] in dB; and of each of n
    onsets its time in s and its blow, see `Blows`."""

    logits: Floats
    vectors: Floats
    compared: Floats
    level_db: Floats
    bands: Floats
    envelope_db: Floats
    onsets_s: Floats
    blow_bands: Floats
    blow_levels_db: Floats
    blow_pitches_hz: Floats

    @property
    def blows(self) -> Blows:
        return Blows(self.blow_bands, self.blow_levels_db, self.blow_pitches_hz)


class ClipFeatures(NamedTuple):
    """A clip's place among all, the features of each of its sounds, and what else was made."""

    number: int
    sounds: dict[str, SoundFeatures]
    arrays: Arrays = {}  # noqa: RUF012 - nobody changes it


class Evaluator:
    """The classifier, and the embeddings that distances are measured with: FAD by the first, KLD by
    the first that has classes, else by the classifier."""

    def __init__(self, classifier: AudioClassifier, embeddings: Sequence[Embedding] = ()) -> None:
        self.classifier, self.own = classifier, ClassifierEmbedding(classifier)
        chosen = [self.own if isinstance(e, ClassifierEmbedding) else e for e in embeddings]
        self.vectors, *others = chosen or [self.own]
        self.classes = next((e for e in (self.vectors, *others) if e.has_classes), self.own)

    @property
    def name(self) -> str:
        """What FAD and KLD are measured with."""
        if self.classes is self.vectors:
            return self.vectors.name
        return f"{self.vectors.name}; KLD: {self.classes.name}"

    def __call__(self, audio: Sound) -> SoundFeatures:
        logits, vectors = classify(self.classifier, audio[None])
        own = Embedded(vectors, softmax(logits[0]))
        embedded = own if self.vectors is self.own else self.vectors(audio)
        named = {self.own: own, self.vectors: embedded}.get(self.classes) or self.classes(audio)
        onsets_s = onset_times(audio, foleyworld.SAMPLE_RATE_HZ)
        return SoundFeatures(
            logits[0],
            embedded.vectors,
            named.probabilities,
            np.array(level_db(audio)),
            mean_bands(audio),
            envelope_db(audio),
            onsets_s,
            *blows_at(audio, onsets_s),
        )


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_evaluator(config: EvalConfig) -> Evaluator:
    """Raises VabError for a classifier or an embedding that cannot be opened."""
    classifier = load_classifier(config.classifier)
    return Evaluator(classifier, tuple(open_embedding(e, classifier) for e in config.embeddings))


Generate = Callable[[int, Clip, EvalConfig], tuple[dict[str, Sound], Arrays]]
"""A clip's number and itself -> its sounds by name, and more arrays that are kept."""


def evaluate_clips(
    generate: Generate[Clip], clips: Sequence[Clip], config: EvalConfig, workers: int = 1
) -> list[ClipFeatures]:
    """The features of all sounds of every clip, in their order.

    Where the config keeps them, a clip is the tuple of numbers that its file is named by. Raises
    VabError for a model, classifier or embedding that cannot be opened.
    """
    jobs = ((generate, number, clip, config) for number, clip in enumerate(clips))
    found = shown("clips evaluated", in_parallel(evaluate_clip, jobs, workers), len(clips))
    return sorted(found, key=lambda clip: clip.number)


def evaluate_clip(job: tuple[Generate[Clip], int, Clip, EvalConfig]) -> ClipFeatures:
    generate, number, clip, config = job

    def arrays_of_clip() -> Arrays:
        sounds, arrays = generate(number, clip, config)
        evaluator = open_evaluator(config)
        return arrays | {
            f"sounds/{name}/{feature}": array
            for name, sound in sounds.items()
            for feature, array in evaluator(sound)._asdict().items()
        }

    name = config.kept and "-".join(map(str, (number, *clip)))
    path = config.kept and config.kept / f"{name}.npz"
    return clip_features(number, arrays_once(path, arrays_of_clip))


def clip_features(number: int, arrays: Arrays) -> ClipFeatures:
    """The features in the arrays that `evaluate_clip` keeps."""
    sounds: dict[str, Arrays] = {}
    for key in [key for key in arrays if key.startswith("sounds/")]:
        _, name, feature = key.split("/")
        sounds.setdefault(name, {})[feature] = arrays.pop(key)
    return ClipFeatures(number, {n: SoundFeatures(**f) for n, f in sounds.items()}, arrays)


def by_sound(clips: list[ClipFeatures]) -> dict[str, list[SoundFeatures | None]]:
    """The features of all clips for each sound of the first; None where a clip has it not."""
    return {name: [clip.sounds.get(name) for clip in clips] for name in clips[0].sounds}
