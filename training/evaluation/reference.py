"""The truth of scenes, and how near to it sounds are: every measure of generation.

Onsets and blows are those of lone impacts, envelopes those of other lone sources, spectra those of
all lone sources; two sources are asked of the scenes that have two. A figure is None where no clip
has what it is about. Each stands with its 95 % interval over clips under NAME_95.
"""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.evaluation.classifier import present_classes
from training.evaluation.evaluator import SoundFeatures
from training.evaluation.intervals import mean_of, means_of, ratio, share
from training.evaluation.measures import Floats, agreement, frechet_distance, kl_divergences
from training.evaluation.onsets import (
    ONSET_MEASURES,
    best_metronome,
    matches,
    metronome,
    onset_counts,
    onset_f1,
)
from training.evaluation.spectra import correlation, distance_db, semitones, steadiness_db
from training.foleyworld.holdouts import KINDS

RIVALS = 6
"""Own truth is to be the nearest of seven of its class: as hard for any number of clips."""
MATCHED_S = 0.1
TOLERANCES_MS = (100, 50)


class Reference:
    """The truth of scenes, the features of their true sound, and, for the floor of FAD, of the true
    sound of as many others. `measure` compares with it."""

    def __init__(
        self,
        scenes: list[foleyworld.Scene],
        true: list[SoundFeatures],
        others: list[SoundFeatures] | None = None,
    ) -> None:
        self.scenes, self.true, self.others = scenes, true, others
        self.present = present_classes(scenes)
        self.kinds = np.array([scene.classes[0] for scene in scenes])
        lone = [i for i, scene in enumerate(scenes) if len(scene.classes) == 1]
        impact = [foleyworld.FAMILIES[kind] == "impact" for kind in self.kinds]
        self.lone = np.array(lone, int)
        self.impacts = np.array([i for i in lone if impact[i]], int)
        self.textures = np.array([i for i in lone if not impact[i]], int)
        self.pairs = np.flatnonzero(self.present.sum(1) == 2)
        self.onsets = [np.array(scenes[i].truth.events[self.kinds[i]]) for i in self.impacts]

    def __len__(self) -> int:
        return len(self.true)

    def measure(self, sounds: list[SoundFeatures]) -> dict:
        """sounds: clip by clip of the sound for the same scene."""
        return {
            **self.kinds_of(sounds),
            **self.onsets_of([sounds[i].onsets_s for i in self.impacts]),
            **distances(sounds, self.true),
            **means_of(self.per_clip(sounds)),
            "own_nearest_chance": chance(self.lone_rivals),
            "envelope_by_class": self.by_class(self.per_clip(sounds)["envelope_correlation"]),
        }

    def held_out(self, sounds: list[SoundFeatures]) -> dict[str, dict]:
        """By what training never saw of a scene, size, tempo or combination: the measures of the
        scenes that have it."""
        found = {}
        for kind in KINDS:
            rows = [i for i, scene in enumerate(self.scenes) if kind in scene.held_out]
            if len(rows) > 1:
                scenes, true = ([x[i] for i in rows] for x in (self.scenes, self.true))
                part = Reference(scenes, true)
                found[kind] = {"clips": len(rows), "impact_clips": len(part.impacts)}
                found[kind] |= part.measure([sounds[i] for i in rows])
        return found

    def kinds_of(self, sounds: list[SoundFeatures]) -> dict:
        """The share whose kind is right. Of two sources either counts for class_agreement;
        both_sources wants both, each by the classifier's own yes (a probability of at least a
        half)."""
        logits = np.stack([s.logits for s in sounds])
        hits = agreement(logits, self.present)
        both = (logits[self.pairs] >= 0)[self.present[self.pairs]].reshape(-1, 2).all(1)
        return {
            **share("class_agreement", hits),
            **share("both_sources", both),
            "by_class": self.by_class(hits.astype(float)),
        }

    def by_class(self, values: Floats) -> dict[str, float]:
        """Means of what clips [N] have, without NaN, by their first class."""
        means = {}
        for kind in foleyworld.CLASSES:
            found = values[(self.kinds == kind) & ~np.isnan(values)]
            if len(found):
                means[kind] = round(float(found.mean()), 3)
        return means

    def onsets_of(self, found: Sequence[Floats]) -> dict:
        """F1, precision and recall of the onsets of the lone impacts' clips."""
        result: dict = {}
        for tolerance_ms in TOLERANCES_MS:
            result |= onset_figures(found, self.onsets, tolerance_ms)
        return result

    def metronomes(self) -> dict[str, dict]:
        """What a metronome scores that looks at nothing: at 0.2 s, and at the best of several
        rates, which is reported under period_s."""
        best_s = best_metronome(self.onsets, foleyworld.CLIP_S, MATCHED_S)
        return {
            name: self.onsets_of([metronome(period_s, foleyworld.CLIP_S)] * len(self.onsets))
            | {"period_s": period_s}
            for name, period_s in (("metronome", best_s), ("metronome_0.2s", 0.2))
        }

    @functools.cached_property
    def fad_floor(self) -> float | None:
        """The FAD of the true sound from that of as many other scenes; of these very clips it would
        be 0."""
        return None if self.others is None else fad(self.others, self.true)

    def per_clip(self, sounds: list[SoundFeatures]) -> dict[str, Floats]:
        """By measure [N], NaN where a clip has none: what two runs are compared by, clip by
        clip."""
        return {
            **level_errors(sounds, self.true),
            **self.blows_of(sounds),
            "blow_steadiness_db": self._spread(
                self.impacts, [steadiness_db(sounds[i].blow_bands) for i in self.impacts]
            ),
            "envelope_correlation": self._spread(
                self.textures,
                [
                    correlation(sounds[i].envelope_db, self.true[i].envelope_db)
                    for i in self.textures
                ],
            ),
            "own_nearest": own_nearest(sounds, self.true, self.lone_rivals),
        }

    def _spread(self, rows: NDArray[np.int64], values: Sequence[float]) -> Floats:
        """The values of these rows among all clips [N], NaN elsewhere."""
        spread = np.full(len(self), np.nan)
        spread[rows] = values
        return spread

    def blows_of(self, sounds: list[SoundFeatures]) -> dict[str, Floats]:
        """The errors of blows within MATCHED_S of a true one: what they differ by from it, and from
        the true blows of the other clips of the class; blow_margin_db is how much nearer their own
        is."""
        names = ("level_error_db", "level_error_abs_db", "own_db", "others_db", "pitch_semitones")
        found = {f"blow_{name}": np.full(len(self), np.nan) for name in names}
        for i in self.impacts:
            if len(matched := matches(sounds[i].onsets_s, self.true[i].onsets_s, MATCHED_S)):
                made, true = sounds[i].blows, self.true[i].blows
                a, b = matched.T
                level = made.levels_db[a] - true.levels_db[b]
                others = [
                    distance_db(made.bands[a][:, None], self.true[j].blow_bands[None]).mean()
                    for j in self.rivals(i)
                    if len(self.true[j].blow_bands)
                ]
                values = (
                    level.mean(),
                    np.abs(level).mean(),
                    distance_db(made.bands[a], true.bands[b]).mean(),
                    np.mean(others) if others else np.nan,
                    semitones(made.pitches_hz[a], true.pitches_hz[b]).mean(),
                )
                for array, value in zip(found.values(), values, strict=True):
                    array[i] = value
        margin = found["blow_others_db"] - found["blow_own_db"]
        return found | {"blow_margin_db": margin}

    def rivals(self, clip: int) -> NDArray[np.int64]:
        """The other clips with a lone source of the same class."""
        same = self.lone[self.kinds[self.lone] == self.kinds[clip]]
        return same[same != clip]

    @functools.cached_property
    def lone_rivals(self) -> list[NDArray[np.int64]]:
        """The rivals of each clip; none for one with two sources."""
        lone = set(self.lone.tolist())
        return [self.rivals(i) if i in lone else self.lone[:0] for i in range(len(self))]

    def in_class(self, sounds: list[SoundFeatures]) -> list[SoundFeatures]:
        """Each clip's sound given to the next clip of the same classes; that of the clip before to
        one that is alone of its classes."""
        moved = sounds[-1:] + sounds[:-1]
        for row in np.unique(self.present, axis=0):
            rows = np.flatnonzero((self.present == row).all(1))
            if len(rows) > 1:
                for i, j in zip(rows, np.roll(rows, 1), strict=True):
                    moved[i] = sounds[j]
        return moved

    def variety(self, first: list[SoundFeatures], second: list[SoundFeatures | None]) -> dict:
        """How far two sounds for one clip are apart, where there is a second: by spectrum, and by
        the onsets that they share; and how far the sounds of two clips of a class are."""
        again = [i for i in self.lone if second[i] is not None]
        other = self.in_class(first)
        company = [i for i in self.lone if len(self.rivals(i))]
        struck = [i for i in again if i in set(self.impacts.tolist())]
        found = [second[i].onsets_s for i in struck]
        counts = onset_counts(found, [first[i].onsets_s for i in struck], MATCHED_S)
        between = [distance_db(first[i].bands, other[i].bands) for i in company]
        return {
            **mean_of("variety_db", [distance_db(first[i].bands, second[i].bands) for i in again]),
            **mean_of("variety_of_clips_db", between),
            **ratio("variety_shared_onsets", onset_f1, counts),
        }


def distances(sounds: list[SoundFeatures], true: list[SoundFeatures]) -> dict:
    """FAD of all, and the mean KLD of each clip's sound from its truth."""
    compared, compared_true = (np.stack([s.compared for s in x]) for x in (sounds, true))
    kld = kl_divergences(compared_true, compared)
    return {"fad": fad(sounds, true), **mean_of("kld", kld)}


def fad(sounds: list[SoundFeatures], true: list[SoundFeatures]) -> float:
    vectors, vectors_true = (np.concatenate([s.vectors for s in x]) for x in (sounds, true))
    return round(frechet_distance(vectors_true, vectors), 4)


def level_errors(sounds: list[SoundFeatures], true: list[SoundFeatures]) -> dict[str, Floats]:
    """By measure [N]."""
    level = np.array([s.level_db - t.level_db for s, t in zip(sounds, true, strict=True)])
    return {"level_error_db": level, "level_error_abs_db": np.abs(level)}


def onset_figures(found: Sequence[Floats], true: Sequence[Floats], tolerance_ms: int) -> dict:
    """F1, precision and recall of the onsets of all clips together."""
    counts, result = onset_counts(found, true, tolerance_ms / 1000), {}
    for name, measure in ONSET_MEASURES:
        result |= ratio(f"{name}_{tolerance_ms}ms", measure, counts)
    return result


def own_nearest(
    sounds: list[SoundFeatures], true: list[SoundFeatures], rivals: list[NDArray[np.int64]]
) -> Floats:
    """The probability [N] that a spectrum is nearer to its own truth than to those of RIVALS other
    clips, drawn from its rivals; NaN where it has none."""
    nearest = np.full(len(true), np.nan)
    for i, others in enumerate(rivals):
        if len(others):
            own = distance_db(sounds[i].bands, true[i].bands)
            found = distance_db(sounds[i].bands, np.stack([true[j].bands for j in others]))
            nearest[i] = none_drawn(int((found <= own).sum()), len(others), RIVALS)
    return nearest


def chance(rivals: list[NDArray[np.int64]]) -> float | None:
    """What `own_nearest` is by chance, on the average."""
    found = [1 / (1 + min(RIVALS, len(others))) for others in rivals if len(others)]
    return round(float(np.mean(found)), 4) if found else None


def none_drawn(num_nearer: int, count: int, drawn: int) -> float:
    """The probability that none of `num_nearer` among `count` is drawn, without replacement."""
    drawn = min(drawn, count)
    factors = [(count - num_nearer - i) / (count - i) for i in range(drawn)]
    return float(np.prod(np.maximum(factors, 0)))
