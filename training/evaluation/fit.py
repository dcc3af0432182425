"""How well the model's own score tells which sound fits a video, and finds it among others.

Held-out clips of FoleyWorld, as H.264 files, are seen by the runtime; the sounds are the true ones,
as the codec hears them. Chance is one in as many as there are to choose from, and one half between
a sound and the same one shifted (around: its end comes before its beginning).
"""

from collections.abc import Sequence
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.command import shown
from training.evaluation.evaluator import EvalConfig
from training.evaluation.held_out import video_frames, visual_features
from training.evaluation.intervals import mean_of, share
from training.evaluation.models import open_model
from training.evaluation.onsets import onset_counts, onset_f1, onset_times
from training.processes import in_order
from vab_rt.candidates import require_score
from vab_rt.pipeline import Pipeline
from vab_rt.search import TRIED_IN_TIME, at_any_time, in_time
from vab_rt.systems.vab import Said, Vab, mean_gains

SHIFTS_S = (0.1, 0.2, 0.5)
LATEST_S = 9.0
"""At most, and 1 s at least, of a sound that is not in time."""
RANKS = (1, 10)
AMONG = (2, 10)
TAKES = 4
TOLERANCE_S = 0.1


class FitJob(NamedTuple):
    seed: int
    with_takes: bool
    config: EvalConfig


class FitClip(NamedTuple):
    """features [F, visual_dim]; tokens [K, T] of the true sound, of it shifted by each of SHIFTS_S,
    and by some seconds [2 + shifts, K, T]; of takes their scores and onsets [TAKES, 3]."""

    features: NDArray[np.float32]
    tokens: NDArray[np.int16]
    take_scores: NDArray[np.float64]
    take_onsets: NDArray[np.int64]


class Ranked(NamedTuple):
    """What a search says of one clip: scores of all true sounds [N], of its own shifted [shifts];
    the place of its own among all in a search, in time and not."""

    scores: NDArray[np.float64]
    shifted: NDArray[np.float64]
    place: int
    late_place: int


def evaluate_fit(config: EvalConfig, seeds: Sequence[int], workers: int = 1) -> dict:
    """Shares of clips with their 95 % intervals. Raises OptionError for a model without a score."""
    require_score(open_model(config).pipeline.system)
    impacts = np.array([is_lone_impact(foleyworld.make_scene(seed)) for seed in seeds])
    wanted = np.flatnonzero(impacts)[: config.varied]
    jobs = (FitJob(seed, i in wanted, config) for i, seed in enumerate(seeds))
    clips = list(shown("clips seen", in_order(fit_clip, jobs, workers), len(seeds)))
    tokens = np.stack([clip.tokens for clip in clips])  # [N, 2 + shifts, K, T]
    pools = (tokens[:, 0], tokens[:, -1])
    ranking = ((i, clip, pools, config) for i, clip in enumerate(clips))
    ranked = list(shown("clips ranked", in_order(rank_clip, ranking, workers), len(seeds)))
    takes = [clip for clip in clips if len(clip.take_scores)]
    return {
        "clips": len(clips),
        "impact_clips": int(impacts.sum()),
        **among_others(np.stack([one.scores for one in ranked])),
        "shifted": {
            f"{shift_s:g}s": preferred(ranked, i, impacts) for i, shift_s in enumerate(SHIFTS_S)
        },
        "search_in_time": recalls([one.place for one in ranked]),
        "search_at_any_time": recalls([one.late_place for one in ranked]),
        "takes": of_takes(takes) if takes else {},
    }


def is_lone_impact(scene: foleyworld.Scene) -> bool:
    return len(scene.sources) == 1 and foleyworld.FAMILIES[scene.classes[0]] == "impact"


def fit_clip(job: FitJob) -> FitClip:
    model = open_model(job.config)
    config, true = model.pipeline.config, foleyworld.make_scene(job.seed).audio()
    frames = video_frames(job.seed, config, job.config.videos)
    features = visual_features(frames, model.pipeline)
    late_s = np.random.default_rng(job.seed).uniform(1, LATEST_S)
    sounds = [
        np.roll(true, round(shift_s * config.sample_rate_hz))
        for shift_s in (0.0, *SHIFTS_S, late_s)
    ]
    tokens = np.concatenate([model.encode(sound[None]) for sound in sounds]).astype(np.int16)
    scores, onsets = np.empty(0), np.empty((0, 3), np.int64)
    if job.with_takes:
        scores, onsets = takes_of(model.pipeline, features, job)
    return FitClip(features, tokens, scores, onsets)


def takes_of(
    pipeline: Pipeline, features: NDArray[np.float32], job: FitJob
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores [TAKES] and onset counts [TAKES, 3] of sounds by as many seeds."""
    system, config = require_score(pipeline.system), pipeline.config
    options = system.options(job.config.options)
    start = np.full(
        (TAKES, system.codec_config.num_codebooks, system.codec_config.num_token_steps),
        system.config.mask_id,
        np.int32,
    )
    seeds = np.arange(TAKES, dtype=np.uint64)
    *_, (_, tokens) = system.decode_tokens(np.stack([features] * TAKES), start, seeds, options)
    scene = foleyworld.make_scene(job.seed)
    true = np.array(scene.truth.events[scene.classes[0]])
    found = [onset_times(sound, config.sample_rate_hz) for sound in pipeline.render(tokens)]
    counts = onset_counts(found, [true] * TAKES, TOLERANCE_S)
    return mean_gains(system.said(features).gains, tokens), counts


def rank_clip(
    job: tuple[int, FitClip, tuple[NDArray[np.int16], NDArray[np.int16]], EvalConfig],
) -> Ranked:
    """Clip i among all true sounds [N, K, T], and among all that are not in time [N, K, T]."""
    own, clip, (true, late), config = job
    system = require_score(open_model(config).pipeline.system)
    said = system.said(clip.features)
    return Ranked(
        mean_gains(said.gains, true),
        mean_gains(said.gains, clip.tokens[1:-1]),
        place_of(own, said, true, system),
        place_of(own, said, late, system),
    )


def place_of(own: int, said: Said, tokens: NDArray[np.int16], system: Vab) -> int:
    """The rank of the sound of that number among tokens [N, K, T] in a search, 1 is the first; N +
    1 where it is not found."""
    found = found_of(said, tokens, system)
    return int(np.flatnonzero(found == own)[0]) + 1 if own in found else len(tokens) + 1


def found_of(said: Said, tokens: NDArray[np.int16], system: Vab) -> NDArray[np.intp]:
    """The rows of tokens [N, K, T] that a search finds, best first."""
    rows = np.argsort(-at_any_time(said, tokens), kind="stable")[:TRIED_IN_TIME]
    scores, _ = in_time(said.gains, tokens[rows], system.config)
    return rows[np.argsort(-scores, kind="stable")]


def among_others(scores: NDArray[np.float64]) -> dict:
    """The shares of clips whose own sound is the best of 2, 10 and all, of scores [N, N] of clips
    and sounds; the others of a few are any."""
    count = len(scores)
    better = (scores >= np.diagonal(scores)[:, None]).sum(1) - 1  # [N], equals count
    result: dict = {}
    for among in (*(n for n in AMONG if n < count), count):
        chances = [comb(count - 1 - n, among - 1) / comb(count - 1, among - 1) for n in better]
        result |= mean_of(f"best_of_{among}", chances)
    return result


def preferred(ranked: Sequence[Ranked], shift: int, impacts: NDArray[np.bool_]) -> dict:
    own = np.array([one.scores[i] for i, one in enumerate(ranked)])
    wins = own > np.array([one.shifted[shift] for one in ranked])
    return share("all", wins) | (share("impact", wins[impacts]) if impacts.any() else {})


def recalls(places: Sequence[int]) -> dict:
    found = np.array(places)
    return {name: x for rank in RANKS for name, x in share(f"r{rank}", found <= rank).items()}


def of_takes(clips: Sequence[FitClip]) -> dict:
    """Onset F1 within 100 ms of the take with the best score, of the first, and of the one that is
    best by the truth."""
    counts = np.stack([clip.take_onsets for clip in clips])  # [N, TAKES, 3]
    rows = np.arange(len(clips))
    best = np.stack([clip.take_scores for clip in clips]).argmax(1)
    f1 = 2 * counts[..., 0] / np.maximum(1, counts[..., 1] + counts[..., 2])
    return {
        "clips": len(clips),
        "onset_f1_best_score": round(onset_f1(counts[rows, best]), 4),
        "onset_f1_first": round(onset_f1(counts[:, 0]), 4),
        "onset_f1_best_by_truth": round(onset_f1(counts[rows, f1.argmax(1)]), 4),
        **mean_of("gain", f1[rows, best] - f1[:, 0]),
    }
