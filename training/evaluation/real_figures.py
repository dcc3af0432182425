"""What was heard of clips of real pictures, in figures: overall, by kind, and of the bounds."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.datasets.sound_folders import Listed
from training.evaluation.evaluator import Arrays
from training.evaluation.intervals import mean_of, share
from training.evaluation.kind_probe import Probe, logs, shares_right, train_probe
from training.evaluation.reference import onset_figures
from training.evaluation.yamnet import divergence, heard_alike

Floats = NDArray[np.float64]

TRUE, CODEC, RETRIEVED = "ground_truth", "reconstruction", "retrieved"
MADE, UNCONDITIONAL, OTHER_CLIP = "generated", "unconditional", "shuffled"
SURE = 0.2
"""The probability of a kind from which on it counts as seen."""
ONSET_MS = 100
THREE_IN_FOUR = 0.75


class ScoredClip(NamedTuple):
    """A clip, as it was seen and heard.

    events_s: its strokes. arrays: seen_kind and seen_share, the likeliest kind; and of each sound
    scores/NAME [classes] and onsets/NAME; of some, spectrogram/NAME [bands, times] and picture.
    """

    number: int
    kind: str
    seen: str
    events_s: tuple[float, ...]
    arrays: Arrays

    def scores(self, sound: str) -> Floats:
        return self.arrays[f"scores/{sound}"].astype(np.float64)


class RealFigures(NamedTuple):
    """Clips in their order, kind by kind; recordings with their scores [N, classes]; pictures of
    the model's kinds; names of the classes."""

    clips: list[ScoredClip]
    recordings: list[Listed]
    scores: NDArray[np.float32]
    pictures: list[Listed]
    names: tuple[str, ...]


def real_result(figures: RealFigures) -> dict:
    """The measures of the generated sound, and under `bounds` those of each bound; without a model
    the bounds alone. probe: its figures on recordings that it was not trained on."""
    kinds = sorted({one.kind for one in figures.recordings if one.split == "train"} - {"other"})
    probe, of_probe = trained_probe(figures, kinds)
    sounds = sounds_of(figures.clips)
    bounds = {name: measure(figures, probe, name) for name in sounds if name != MADE}
    for name in ("heard_alike", "heard_alike_95", "kld", "kld_95"):
        bounds[TRUE].pop(name)  # equal by construction
    result = measure(figures, probe, MADE) if MADE in sounds else {}
    if MADE in sounds:
        bounds[OTHER_CLIP] = measure(figures, probe, MADE, moved=True)
        result["three_in_four_above_half"] = (
            result["kinds_above_half"] >= THREE_IN_FOUR * result["kinds"]
        )
    result["by_kind"] = kinds_of_data(figures, result.get("by_kind", {}))
    for name, bound in bounds.items():
        for kind, row in bound.pop("by_kind").items():
            result["by_kind"][kind][name] = row["right_kind"]
    return result | {
        "clips": len(figures.clips),
        "probe": of_probe,
        "bounds": bounds,
    }


def trained_probe(figures: RealFigures, kinds: Sequence[str]) -> tuple[Probe, dict]:
    def of_split(split: str) -> tuple[Floats, list[str]]:
        rows = [
            i
            for i, one in enumerate(figures.recordings)
            if one.split == split and one.kind in kinds
        ]
        chosen = [figures.recordings[i].kind for i in rows]
        return logs(figures.scores[rows].astype(np.float64)), chosen

    probe = train_probe(*of_split("train"))
    inputs, true = of_split("test")
    return probe, shares_right(probe.names(inputs), true)


def sounds_of(clips: Sequence[ScoredClip]) -> list[str]:
    names = (TRUE, CODEC, RETRIEVED, MADE, UNCONDITIONAL)
    return [name for name in names if f"scores/{name}" in clips[0].arrays]


def measure(figures: RealFigures, probe: Probe, sound: str, moved: bool = False) -> dict:
    """moved: each clip has the sound of one of another kind, half of all clips further on."""
    clips = figures.clips
    by = len(clips) // 2 if moved else 0
    others = clips[by:] + clips[:by]
    true = [clip.kind for clip in clips]
    scores = np.stack([clip.scores(sound) for clip in others])  # [N, classes]
    found = probe.names(logs(scores))
    pairs = [(clip.scores(TRUE), row) for clip, row in zip(clips, scores, strict=True)]
    kld = [divergence(a, b) for a, b in pairs]
    alike = [heard_alike(a, b, figures.names) for a, b in pairs]
    sure = [i for i, clip in enumerate(clips) if clip.arrays["seen_share"] > SURE]
    struck = [i for i, clip in enumerate(clips) if clip.events_s]
    return {
        **shares_right(found, true),
        **share("where_sure", [found[i] == true[i] for i in sure]),
        "sure_clips": len(sure),
        **share("heard_alike", alike),
        **mean_of("kld", kld),
        **onset_figures(
            [others[i].arrays[f"onsets/{sound}"] for i in struck],
            [np.array(clips[i].events_s) for i in struck],
            ONSET_MS,
        ),
        "struck_clips": len(struck),
    }


def kinds_of_data(figures: RealFigures, measured: dict) -> dict:
    """By kind, tested or not: what was measured, the recordings, pictures, and how it was seen."""
    recordings = {s: counted(figures.recordings, s) for s in ("train", "validation", "test")}
    pictures = {s: counted(figures.pictures, s) for s in ("train", "test")}
    seen = {clip.kind: clip.seen for clip in figures.clips}
    right = Counter(c.kind for c in figures.clips if c.arrays["seen_kind"] == c.kind)
    count = Counter(clip.kind for clip in figures.clips)
    found = {}
    for kind in sorted(set(recordings["train"]) | set(seen)):
        found[kind] = {
            **measured.get(kind, {}),
            "recordings": sum(recordings[split][kind] for split in recordings),
            "test_recordings": recordings["test"][kind],
            "pictures": sum(pictures[split][kind] for split in pictures),
        }
        if kind in seen:
            found[kind] |= {
                "seen_by": seen[kind],
                "seen_right": round(right[kind] / count[kind], 4),
            }
    return found


def counted(listed: Sequence[Listed], split: str) -> Counter[str]:
    return Counter(one.kind for one in listed if one.split == split and one.kind != "other")
