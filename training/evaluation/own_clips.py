"""Generation on clips of one's own: tokens and features from shards of `training.extract`.

The truth is the media's own sound where its folder is given, and the codec's reconstruction of the
clip's tokens is then a bound (the paper's tables 1 and 15); without the media that reconstruction
is the truth. Nobody knows the events of these clips, so onsets are those that are heard in the
truth. A clip that ends early is heard to its end.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.datasets.encoders import read_segment
from training.datasets.extraction import read_clips
from training.datasets.media_sets import Segment
from training.datasets.shards import ShardedClips
from training.evaluation.generation import (
    FLOOR,
    OTHER,
    HeardClip,
    from_true_coarse,
    generate,
    open_listener,
)
from training.evaluation.heard import Heard
from training.evaluation.held_out import one_thread_in_a_worker
from training.evaluation.measures import frechet_distance, kl_divergences
from training.evaluation.onsets import ONSET_MEASURES, onset_counts
from training.evaluation.reference import RIVALS, mean_of, none_drawn, ratio, rounded_or_none
from training.evaluation.spectra import correlation, distance_db
from training.evaluation.trial import Trial, open_model
from training.processes import in_parallel
from vab_rt.errors import DataError
from vab_rt.pipeline import Pipeline


class OwnClip(NamedTuple):
    """tokens [K, T], features [F, visual_dim], and what of which file they are of, if known."""

    tokens: NDArray[np.int32]
    features: NDArray[np.float32]
    length_s: float
    segment: Segment | None


class OwnJob(NamedTuple):
    """other: a clip whose truth is heard for the floor of FAD."""

    number: int
    clip: OwnClip
    other: OwnClip | None
    trial: Trial
    media: Path | None


def own_clips(shards: ShardedClips, rows: NDArray[np.intp], has_media: bool) -> list[OwnClip]:
    """The clips in these rows [N] of all shards. Raises DataError where the list of the media's
    clips is not beside the shards."""
    clips, origins = shards.in_memory().take(rows), shards.origins()
    segments = read_clips(Path(shards.location)) if has_media else []
    found = []
    for tokens, features, row in zip(clips.tokens, clips.features, rows, strict=True):
        key, notes = origins[row]
        segment = segments[int(key)] if has_media else None
        found.append(OwnClip(tokens, features, notes.end_s - notes.start_s, segment))
    return found


def heard_own(
    trial: Trial, clips: list[OwnClip], others: list[OwnClip], media: Path | None, workers: int
) -> Iterator[HeardClip]:
    """In any order; others: as many clips for the floor, or none."""
    jobs = (
        OwnJob(number, clip, others[number] if others else None, trial, media)
        for number, clip in enumerate(clips)
    )
    yield from in_parallel(hear_own, jobs, workers)


def hear_own(job: OwnJob) -> HeardClip:
    one_thread_in_a_worker()
    pipeline, listener = open_model(job.trial).pipeline, open_listener(job.trial)
    clip, options = job.clip, job.trial.options
    options = msgspec.structs.replace(options, seed=options.seed + job.number)
    features, tokens = clip.features[None], clip.tokens[None]
    begin = time.perf_counter()
    generated = generate(pipeline, features, options)
    generate_s = time.perf_counter() - begin
    audio = {
        "generated": generated,
        "ground_truth": true_sound(clip, pipeline, job.media),
        **dict(from_true_coarse(pipeline, features, tokens, options)),
    }
    if job.media is not None:
        audio["reconstruction"] = pipeline.render(tokens)[0]
    length = pipeline.config.samples_in(clip.length_s)
    sounds = {name: listener(sound[:length]) for name, sound in audio.items()}
    if job.other is not None:
        length = pipeline.config.samples_in(job.other.length_s)
        sounds[OTHER] = listener(true_sound(job.other, pipeline, job.media)[:length])
    return HeardClip(job.number, sounds, generate_s)


def true_sound(clip: OwnClip, pipeline: Pipeline, media: Path | None) -> NDArray[np.float32]:
    """[S]. Raises MediaError for a file that cannot be read."""
    if media is None or clip.segment is None:
        return pipeline.render(clip.tokens[None])[0]
    if not (media / clip.segment.path).is_file():
        raise DataError(
            f"{media / clip.segment.path} is not there, expected the media that the shards were "
            "made of; give --media the folder that training.extract was given"
        )
    return read_segment(media, clip.segment, pipeline.system.codec_config)[0]


def own_result(clips: list[HeardClip]) -> dict:
    """The measures of the generated sound, and under `bounds` those of each bound."""
    ordered = sorted(clips, key=lambda clip: clip.number)
    sounds = {name: [clip.sounds[name] for clip in ordered] for name in ordered[0].sounds}
    generated, true = sounds.pop("generated"), sounds.pop("ground_truth")
    others = sounds.pop(OTHER, None)
    result = measure_own(generated, true) | {"clips": len(true)}
    result["generate_s"] = round(statistics.median(clip.generate_s for clip in clips), 3)
    shuffled = measure_own(generated[-1:] + generated[:-1], true)
    bounds = {name: measure_own(heard, true) for name, heard in sounds.items()}
    bounds["shuffled"] = shuffled | {"fad": None}  # the same sounds
    if others is not None:
        bounds[FLOOR] = {"fad": fad(others, true)}
    return result | {"fad_floor": bounds.get(FLOOR, {}).get("fad"), "bounds": bounds}


def measure_own(heard: list[Heard], true: list[Heard]) -> dict:
    """What can be measured without knowing what is in a clip."""
    pairs = list(zip(heard, true, strict=True))
    compared, compared_true = (np.stack([h.compared for h in x]) for x in (heard, true))
    level = np.array([float(h.level_db - t.level_db) for h, t in pairs])
    nearest, chance = own_nearest(heard, true)
    return {
        "fad": fad(heard, true),
        **mean_of("kld", kl_divergences(compared_true, compared)),
        **onsets_of(heard, true),
        **mean_of("level_error_db", level),
        **mean_of("level_error_abs_db", np.abs(level)),
        **mean_of(
            "envelope_correlation", [correlation(h.envelope_db, t.envelope_db) for h, t in pairs]
        ),
        **mean_of("own_nearest", nearest),
        "own_nearest_chance": chance,
    }


def fad(heard: list[Heard], true: list[Heard]) -> float:
    vectors, vectors_true = (np.concatenate([h.vectors for h in x]) for x in (heard, true))
    return round(frechet_distance(vectors_true, vectors), 4)


def onsets_of(heard: list[Heard], true: list[Heard]) -> dict:
    """Against those that are heard in the truth, within 100 ms."""
    counts = onset_counts([h.onsets_s for h in heard], [t.onsets_s for t in true], 0.1)
    result: dict = {}
    for name, measure in ONSET_MEASURES:
        result |= ratio(f"{name}_100ms", measure, counts)
    return result


def own_nearest(heard: list[Heard], true: list[Heard]) -> tuple[NDArray[np.float64], float | None]:
    """As in `Reference`, among all clips [N]; and by chance."""
    bands = np.stack([t.bands for t in true])  # [N, BANDS]
    nearest = []
    for i, one in enumerate(heard):
        distances = distance_db(one.bands, bands)
        num_nearer = int((distances <= distances[i]).sum()) - 1
        nearest.append(none_drawn(num_nearer, len(true) - 1, RIVALS))
    return np.array(nearest), rounded_or_none(np.array([1 / (1 + min(RIVALS, len(true) - 1))]))
