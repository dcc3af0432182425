"""What a search finds for real pictures that move: recordings of the kind that is seen, among all
that were held out, and the clip's own sound among those of all clips."""

from math import comb
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.command import shown
from training.datasets.material import gather
from training.datasets.sound_folders import list_pictures, list_sounds, of_split, read_sounds
from training.evaluation.evaluator import EvalConfig
from training.evaluation.fit import found_of, recalls
from training.evaluation.intervals import share
from training.evaluation.models import open_any_model
from training.evaluation.real_clips import RealClip, draw_clips, features_of, require_kinds
from training.processes import in_order
from vab_rt.candidates import require_score
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError
from vab_rt.seeing import kinds_seen
from vab_rt.sound_index import as_clip

FIRST = 10


class SeenClip(NamedTuple):
    """features [F, visual_dim], tokens [K, T] of its own sound, and the likeliest kind."""

    kind: str
    features: NDArray[np.float32]
    tokens: NDArray[np.int16]
    seen: str


def evaluate_kind_search(
    config: EvalConfig, sounds: Path, pictures: Path, per_kind: int, workers: int = 1
) -> dict:
    """Shares of clips with their 95 % intervals, and chance. Raises VabError."""
    pipeline = open_any_model(config).pipeline
    require_score(pipeline.system)
    facts = require_kinds(pipeline.config)
    known = read_sounds(of_split(list_sounds(sounds), "test"), facts.sample_rate_hz, workers)
    material = gather(known, list_pictures(pictures), "test", facts.kinds, facts.sample_rate_hz)
    drawn = [c for c in draw_clips(material, facts, per_kind) if c.seen == "picture"]
    if len(drawn) < 2:
        raise DataError(f"{len(drawn)} clips have a picture and a sound, expected at least 2")
    seen = in_order(see_clip, ((clip, config) for clip in drawn), workers)
    clips = list(shown("clips seen", seen, len(drawn)))
    encoded = in_order(encode_sound, ((samples, config) for samples in known.samples), workers)
    files = np.stack(list(shown("recordings heard", encoded, len(known))))
    own = np.stack([clip.tokens for clip in clips])
    jobs = ((clip, files, own, config) for clip in clips)
    found = list(shown("clips searched", in_order(search_clip, jobs, workers), len(clips)))
    kinds = np.array([one.kind for one in known.listed])
    hits = [kinds[rows[:FIRST]] == clip.kind for clip, (rows, _) in zip(clips, found, strict=True)]
    places = [
        int(np.flatnonzero(rows == i)[0]) + 1 if i in rows else len(clips) + 1
        for i, (_, rows) in enumerate(found)
    ]
    return {
        "clips": len(clips),
        "kinds": len({clip.kind for clip in clips}),
        "files": len(files),
        **share("seen_right", np.array([clip.seen == clip.kind for clip in clips])),
        **share("first_of_kind", np.array([hit[0] for hit in hits])),
        **share("ten_hold_kind", np.array([hit.any() for hit in hits])),
        **chances([int((kinds == clip.kind).sum()) for clip in clips], len(files)),
        "own_sound": recalls(places),
    }


def chances(of_kind: list[int], count: int) -> dict[str, float]:
    """The chances of a search that draws from `count` files, `of_kind` of which are right for each
    clip."""
    first = min(FIRST, count)
    none = [comb(count - n, first) / comb(count, first) for n in of_kind]
    return {
        "first_of_kind_chance": round(float(np.mean(of_kind)) / count, 4),
        "ten_hold_kind_chance": round(1 - float(np.mean(none)), 4),
    }


def see_clip(job: tuple[RealClip, EvalConfig]) -> SeenClip:
    clip, config = job
    model = open_any_model(config)
    facts = model.pipeline.config
    assert isinstance(facts, ModelConfig)
    features = features_of(clip, model.pipeline, None)
    seen = kinds_seen(features, facts)
    tokens = model.encode(clip.pair.audio[None])[0].astype(np.int16)
    return SeenClip(clip.kind, features, tokens, next(iter(seen)))


def encode_sound(job: tuple[NDArray[np.float32], EvalConfig]) -> NDArray[np.int16]:
    """Tokens [K, T] of a recording, as an index has them."""
    samples, config = job
    model = open_any_model(config)
    clip = as_clip(samples, require_score(model.pipeline.system).codec_config)
    assert clip is not None, "a recording is not silent"
    return model.encode(clip[None])[0].astype(np.int16)


def search_clip(
    job: tuple[SeenClip, NDArray[np.int16], NDArray[np.int16], EvalConfig],
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The files that are found, best first, and the own sounds of all clips."""
    clip, files, own, config = job
    system = require_score(open_any_model(config).pipeline.system)
    said = system.said(clip.features)
    return found_of(said, files, system), found_of(said, own, system)
