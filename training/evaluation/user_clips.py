"""Generation on your own clips: tokens and features from shards of `training.extract`.

The truth is the media's own sound where its folder is given, and the codec's reconstruction of the
clip's tokens is then a bound (the paper's tables 1 and 15); without the media that reconstruction
is the truth. Nobody knows the events of these clips, so onsets are those that are found in the
truth. A clip that ends early is compared up to its end.
"""

import itertools
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.datasets.encoders import read_segment
from training.datasets.extraction import read_clips
from training.datasets.media_sets import Segment
from training.datasets.shards import ShardedClips
from training.evaluation.evaluator import (
    Arrays,
    ClipFeatures,
    EvalConfig,
    Sound,
    SoundFeatures,
    by_sound,
    evaluate_clips,
    open_evaluator,
)
from training.evaluation.generation import FLOOR, OTHER, from_true_coarse, median_generate_s
from training.evaluation.intervals import mean_of, means_of
from training.evaluation.models import generate, open_in_world
from training.evaluation.reference import (
    chance,
    distances,
    fad,
    level_errors,
    onset_figures,
    own_nearest,
)
from training.evaluation.retrieval import spread_over_classes
from training.evaluation.spectra import correlation, resampled
from vab_rt.errors import DataError
from vab_rt.pipeline import Pipeline


def evaluate_shards(
    config: EvalConfig, shards: ShardedClips, count: int, media: Path | None, workers: int = 1
) -> dict:
    """What `evaluate_generation` tells, of `count` clips of shards, as far as it can be measured
    without knowing what is in them; where there are twice as many, with the floor of FAD. Raises
    DataError for fewer than 2 clips and for media that are not there."""
    if len(shards) < 2:
        raise DataError(f"{shards.location} has {len(shards)} clips, expected at least 2")
    labels = shards.in_memory().labels
    rows = spread_over_classes(labels, min(count, len(shards)))
    rest = np.setdiff1d(np.arange(len(shards)), rows)[: len(rows)]
    clips = user_clips(shards, rows, media is not None)
    others = user_clips(shards, rest, media is not None) if len(rest) == len(rows) else [None]
    jobs = [UserJob(clip, other, media) for clip, other in zip(clips, itertools.cycle(others))]
    result = user_result(evaluate_clips(sounds_of_user_clip, jobs, config, workers))
    truth = "the codec's reconstruction" if media is None else "the media's sound"
    return result | {"embedding": open_evaluator(config).name, "truth": truth}


class UserClip(NamedTuple):
    """tokens [K, T], features [F, visual_dim], and what of which file they are of, if known."""

    tokens: NDArray[np.int32]
    features: NDArray[np.float32]
    length_s: float
    segment: Segment | None


class UserJob(NamedTuple):
    """other: a clip whose truth the floor of FAD is measured with."""

    clip: UserClip
    other: UserClip | None
    media: Path | None


def user_clips(shards: ShardedClips, rows: NDArray[np.intp], has_media: bool) -> list[UserClip]:
    """The clips in these rows [N] of all shards. Raises DataError where the list of the media's
    clips is not beside the shards."""
    clips, origins = shards.in_memory().take(rows), shards.origins()
    segments = read_clips(Path(shards.location)) if has_media else []
    found = []
    for tokens, features, row in zip(clips.tokens, clips.features, rows, strict=True):
        key, notes = origins[row]
        segment = segments[int(key)] if has_media else None
        found.append(UserClip(tokens, features, notes.end_s - notes.start_s, segment))
    return found


def sounds_of_user_clip(
    number: int, job: UserJob, config: EvalConfig
) -> tuple[dict[str, Sound], Arrays]:
    pipeline, options = open_in_world(config).pipeline, config.options_of(number)
    features, tokens = job.clip.features[None], job.clip.tokens[None]
    begin = time.perf_counter()
    generated = generate(pipeline, features, options)
    generate_s = time.perf_counter() - begin
    sounds = {
        "generated": generated,
        "ground_truth": true_sound(job.clip, pipeline, job.media),
        **dict(from_true_coarse(pipeline, features, tokens, options)),
    }
    if job.media is not None:
        sounds["reconstruction"] = pipeline.render(tokens)[0]
    length = samples_in(job.clip.length_s)
    sounds = {name: sound[:length] for name, sound in sounds.items()}
    if job.other is not None:
        length = samples_in(job.other.length_s)
        sounds[OTHER] = true_sound(job.other, pipeline, job.media)[:length]
    return sounds, {"generate_s": np.array(generate_s)}


def samples_in(length_s: float) -> int:
    return round(length_s * foleyworld.SAMPLE_RATE_HZ)


def true_sound(clip: UserClip, pipeline: Pipeline, media: Path | None) -> Sound:
    """[S] at FoleyWorld's rate. Raises MediaError for a file that cannot be read."""
    if media is None or clip.segment is None:
        return pipeline.render(clip.tokens[None])[0]
    if not (media / clip.segment.path).is_file():
        raise DataError(
            f"{media / clip.segment.path} is not there, expected the media that the shards were "
            "made of; give --media the folder that training.extract was given"
        )
    sound = read_segment(media, clip.segment, pipeline.system.codec_config)[0]
    return resampled(sound, pipeline.config.sample_rate_hz, foleyworld.SAMPLE_RATE_HZ)


def user_result(clips: list[ClipFeatures]) -> dict:
    """The measures of the generated sound, and under `bounds` those of each bound."""
    sounds = by_sound(clips)
    generated, true = sounds.pop("generated"), sounds.pop("ground_truth")
    others = sounds.pop(OTHER, None)
    result = measure_user(generated, true) | {"clips": len(true)}
    result["generate_s"] = median_generate_s(clips)
    shuffled = measure_user(generated[-1:] + generated[:-1], true)
    bounds = {name: measure_user(found, true) for name, found in sounds.items()}
    bounds["shuffled"] = shuffled | {"fad": None}  # the same sounds
    if others is not None:
        bounds[FLOOR] = {"fad": fad(others, true)}
    return result | {"fad_floor": bounds.get(FLOOR, {}).get("fad"), "bounds": bounds}


def measure_user(sounds: list[SoundFeatures], true: list[SoundFeatures]) -> dict:
    """What can be measured without knowing what is in a clip; onsets within 100 ms."""
    pairs = list(zip(sounds, true, strict=True))
    rivals = [np.delete(np.arange(len(true)), i) for i in range(len(true))]
    return {
        **distances(sounds, true),
        **onset_figures([s.onsets_s for s in sounds], [t.onsets_s for t in true], 100),
        **means_of(level_errors(sounds, true)),
        **mean_of(
            "envelope_correlation", [correlation(s.envelope_db, t.envelope_db) for s, t in pairs]
        ),
        **mean_of("own_nearest", own_nearest(sounds, true, rivals)),
        "own_nearest_chance": chance(rivals),
    }
