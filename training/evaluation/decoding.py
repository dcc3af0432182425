"""`python -m training.evaluate decoding`: which decoding options are worth their time.

Each setting decodes the same validation clips, from features of scenes as they are drawn, and is
compared clip by clip with the first, the reference. A setting is worse where the 95 % interval of
the mean difference of one of MEASURES, or of all together, lies below 0 (bootstrap over clips). The
fastest of those that are not worse is chosen. Features are kept: a run that was broken off, or
is given more settings or clips, goes on.
"""

import hashlib
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from training import foleyworld
from training.command import shown
from training.evaluation.decoding_settings import Setting, decode, read_setting
from training.evaluation.evaluator import EvalConfig, SoundFeatures, open_evaluator
from training.evaluation.held_out import scene_features
from training.evaluation.measures import Floats, agreement, bootstrap_mean, kl_divergences
from training.evaluation.models import open_in_world
from training.evaluation.onsets import onset_counts, onset_f1
from training.evaluation.reference import Reference
from training.processes import in_parallel
from training.saving import arrays_once
from vab_rt.bundle import open_bundle
from vab_rt.errors import OptionError
from vab_rt.pipeline import Pipeline
from vab_rt.systems.vab import Vab

MEASURES = {
    "onset_f1_100ms": 1,
    "onset_f1_50ms": 1,
    "class_agreement": 1,
    "kld": -1,
    "blow_own_db": -1,
    "blow_steadiness_db": -1,
    "own_nearest": 1,
    "envelope_correlation": 1,
    "level_error_abs_db": -1,
}
"""What clips are compared by, and whether more of it is better (1) or worse (-1)."""
OVERALL = "overall"
MIN_CLIPS = 8
"""That have a measure, for an interval of it."""
TIMED_STEPS = 7


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """A setting beside the reference.

    seconds: of the tokens of a clip. means: by measure, of those that clips have. gains: by those
    of MIN_CLIPS or more, and OVERALL, how much better than the reference (mean, low, high),
    negative where worse. worse: names of those whose whole interval is negative.
    """

    setting: str
    passes: int
    seconds: float
    means: dict[str, float]
    gains: dict[str, tuple[float, float, float]]
    worse: list[str]


class ClipJob(NamedTuple):
    """One clip in all settings. kept: the folder of its features."""

    number: int
    seed: int
    config: EvalConfig
    settings: list[Setting]
    kept: Path


TRUTH = "truth"


def evaluate_settings(job: ClipJob) -> tuple[int, dict[str, SoundFeatures]]:
    """The features of the true sound and in each setting, by name."""
    pipeline, evaluator = open_in_world(job.config).pipeline, open_evaluator(job.config)
    features: list[NDArray[np.float32]] = []  # rendered at the first need

    def sound(setting: Setting | None) -> NDArray[np.float32]:
        if setting is None:
            return foleyworld.make_scene(job.seed).audio()
        if not features:
            features.append(scene_features(pipeline, [job.seed]))
        seed = job.config.options_of(job.number).seed
        tokens = decode(pipeline_of(setting, job.config), features[0], setting, seed)
        return pipeline.render(tokens)[0]

    def evaluated(name: str, setting: Setting | None) -> SoundFeatures:
        path = job.kept / hashlib.sha256(name.encode()).hexdigest()[:16] / f"{job.seed}.npz"
        arrays = arrays_once(path, lambda: evaluator(sound(setting))._asdict())
        return SoundFeatures(**arrays)

    named = {TRUTH: None} | {setting.name: setting for setting in job.settings}
    return job.number, {name: evaluated(name, setting) for name, setting in named.items()}


def pipeline_of(setting: Setting, config: EvalConfig) -> Pipeline:
    """In the precision of a setting."""
    return open_in_world(replace(config, precision=setting.precision)).pipeline


def compare_settings(
    config: EvalConfig, texts: list[str], seeds: list[int], run: Path, workers: int = 1
) -> list[Compared]:
    """In the order of the settings. run: the folder that keeps features, of every model apart.

    Raises VabError for a model of another kind, or a setting that cannot be read.
    """
    pipeline = open_in_world(config).pipeline
    if type(pipeline.system) is not Vab:
        raise OptionError(
            f"model {pipeline.config.name} decodes in more than one stage or no tokens, expected a "
            "VAB of one stage"
        )
    settings = [read_setting(text, pipeline.system.defaults) for text in texts]
    kept = run / "decoding" / digest_of(config)
    jobs = (ClipJob(i, seed, config, settings, kept) for i, seed in enumerate(seeds))
    found = dict(shown("clips", in_parallel(evaluate_settings, jobs, workers), len(seeds)))
    by_name = {name: [found[i][name] for i in range(len(seeds))] for name in found[0]}
    reference = Reference([foleyworld.make_scene(s) for s in seeds], by_name.pop(TRUTH))
    step_s = seconds_of_steps(settings, config, seeds[0])
    base = measures_of(reference, by_name[settings[0].name])
    return [
        compare(s, measures_of(reference, by_name[s.name]), base, step_s[s.precision])
        for s in settings
    ]


def digest_of(config: EvalConfig) -> str:
    """A digest of all that the features of a setting depend on: the model, the world, the
    classifier."""
    files = open_bundle(config.bundle).manifest.files
    parts = [msgspec.json.encode(files, order="deterministic"), config.classifier.read_bytes()]
    parts.append(f"world {foleyworld.VERSION}, seed {config.options.seed}".encode())
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def seconds_of_steps(
    settings: list[Setting], config: EvalConfig, seed: int
) -> dict[str | None, list[float]]:
    """By precision, of a step without guidance and with it."""
    firsts = {s.precision: replace(settings[0], precision=s.precision) for s in settings}
    return {
        precision: [
            seconds_of_a_step(pipeline_of(one, config), seed, one) for one in one_step_each(first)
        ]
        for precision, first in firsts.items()
    }


def one_step_each(setting: Setting) -> list[Setting]:
    """Without guidance, and with it."""
    steps = [(1.0,), (max(setting.guidance[0], 1.5),)]
    temperature = setting.temperature[:1]
    return [replace(setting, guidance=guidance, temperature=temperature) for guidance in steps]


def seconds_of_a_step(pipeline: Pipeline, seed: int, setting: Setting) -> float:
    """The median of several, sampling included, on as many threads as the pipeline has."""
    features, times = scene_features(pipeline, [seed]), []
    for _ in range(TIMED_STEPS):
        begin = time.perf_counter()
        decode(pipeline, features, setting, 0)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measures_of(reference: Reference, sounds: list[SoundFeatures]) -> dict[str, Floats]:
    """By measure [N]; NaN where a clip has none."""
    per_clip = reference.per_clip(sounds)
    logits, true, compared = (
        np.stack([getattr(s, name) for s in group])
        for group, name in ((sounds, "logits"), (reference.true, "compared"), (sounds, "compared"))
    )
    found = {
        "class_agreement": agreement(logits, reference.present).astype(float),
        "kld": kl_divergences(true, compared),
        "onset_f1_100ms": onset_scores(reference, sounds, 0.1),
        "onset_f1_50ms": onset_scores(reference, sounds, 0.05),
        **per_clip,
    }
    return {name: found[name] for name in MEASURES}


def onset_scores(reference: Reference, sounds: list[SoundFeatures], tolerance_s: float) -> Floats:
    """F1 of each clip with one impact [N], of the others NaN."""
    scores = np.full(len(sounds), np.nan)
    for i, true in zip(reference.impacts, reference.onsets, strict=True):
        scores[i] = onset_f1(onset_counts([sounds[i].onsets_s], [true], tolerance_s))
    return scores


def compare(
    setting: Setting,
    found: dict[str, Floats],
    base: dict[str, Floats],
    step_s: list[float],
) -> Compared:
    """step_s: of a step without and with guidance."""
    gains = {name: sign * (found[name] - base[name]) for name, sign in MEASURES.items()}
    counts = {name: int((~np.isnan(gain)).sum()) for name, gain in gains.items()}
    enough = {name: gain for name, gain in gains.items() if counts[name] >= MIN_CLIPS}
    enough[OVERALL] = mean_over_measures({n: g for n, g in gains.items() if counts[n]}, base)
    intervals = {name: gain_of(gain) for name, gain in enough.items()}
    plain_s, guided_s = step_s
    unguided = len(setting.guidance) - setting.num_guided
    return Compared(
        setting=setting.name,
        passes=setting.passes,
        seconds=round(unguided * plain_s + setting.num_guided * guided_s, 3),
        means={n: round(float(np.nanmean(found[n])), 4) for n, count in counts.items() if count},
        gains=intervals,
        worse=[name for name, (_, _, high) in intervals.items() if high < 0],
    )


def mean_over_measures(gains: dict[str, Floats], base: dict[str, Floats]) -> Floats:
    """The mean of each clip [N], over the measures that it has, each in units of how far clips
    differ in it in the reference."""
    units = [gain / (np.nanstd(base[name]) or 1.0) for name, gain in gains.items()]
    return np.nanmean(np.stack(units), axis=0)


def gain_of(gain: Floats) -> tuple[float, float, float]:
    """Mean and 95 % interval over the clips [N] that are not NaN."""
    values = gain[~np.isnan(gain)]
    interval = bootstrap_mean(values, np.random.default_rng(0))
    return tuple(round(float(x), 4) for x in (values.mean(), *interval))


def chosen(compared: list[Compared]) -> Compared:
    """The fastest that is not worse than the first, which is itself one of them; of equals the
    better."""
    return min(
        (c for c in compared if not c.worse), key=lambda c: (c.seconds, -c.gains[OVERALL][0])
    )
