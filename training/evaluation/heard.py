"""What is heard of one sound: all that any measure needs of it, and nothing of the sound itself."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.evaluation.classifier import AudioClassifier, listen, softmax
from training.evaluation.embeddings import ClassifierEmbedding, Embedded, Embedding
from training.evaluation.onsets import onset_times
from training.evaluation.spectra import Blows, blows_at, envelope_db, level_db, mean_bands

Floats = NDArray[np.float64]


class Heard(NamedTuple):
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


class Listener:
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

    def __call__(self, audio: NDArray[np.float32]) -> Heard:
        logits, vectors = listen(self.classifier, audio[None])
        own = Embedded(vectors, softmax(logits[0]))
        embedded = own if self.vectors is self.own else self.vectors(audio)
        named = {self.own: own, self.vectors: embedded}.get(self.classes) or self.classes(audio)
        onsets_s = onset_times(audio, foleyworld.SAMPLE_RATE_HZ)
        return Heard(
            logits[0],
            embedded.vectors,
            named.probabilities,
            np.array(level_db(audio)),
            mean_bands(audio),
            envelope_db(audio),
            onsets_s,
            *blows_at(audio, onsets_s),
        )
