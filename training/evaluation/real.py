"""Whether the sound that is made for real pictures is of the right kind, and in time.

By YAMNet and a linear probe on it that has heard recordings of the training split alone, beside
the bounds of the same run: the true sound, what the codec leaves of it, a recording of the
likeliest kind, the sound made for another kind's clip, and the sound made without the video.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training.command import shown
from training.configs import read_recipe
from training.datasets.material import Material, gather, model_kinds
from training.datasets.sound_folders import (
    OTHER,
    Listed,
    list_pictures,
    list_sounds,
    of_split,
    read_sounds,
)
from training.efficientnet import load_efficientnet
from training.evaluation.evaluator import Arrays, EvalConfig, Sound
from training.evaluation.generation import without_video
from training.evaluation.models import generate, open_any_model
from training.evaluation.onsets import onset_times
from training.evaluation.real_clips import (
    MOST,
    ImageRows,
    RealClip,
    draw_clips,
    features_of,
    images_of,
    likeliest,
    read_rows,
    require_kinds,
    retrieved,
    seen_in_rows,
    table_shares,
)
from training.evaluation.real_figures import (
    CODEC,
    MADE,
    RETRIEVED,
    TRUE,
    UNCONDITIONAL,
    RealFigures,
    ScoredClip,
)
from training.evaluation.spectrograms import thumbnail
from training.evaluation.yamnet import RATE_HZ, at_16_khz, mean_scores, open_yamnet
from training.foleyworld.contact_sheets import spectrogram_db
from training.kinds import read_table
from training.processes import in_order, in_parallel
from training.reconstruction import load_codec, reconstruct
from training.saving import arrays_once
from training.stage import key_of
from vab_rt.bundle import MANIFEST, open_bundle
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError
from vab_rt.seeing import kinds_seen
from vab_rt.sounds import decode_sound

Shares = dict[str, float]
Row = NDArray[np.float32] | None


class Classifier(Protocol):
    """See `yamnet.Scores`; names: of the classes that it scores."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def __call__(self, sound: Sound) -> NDArray[np.float32]: ...


OpenClassifier = Callable[[str], Classifier]


class RealConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What is evaluated, and on what.

    classifier: yamnet:FILE. model: None measures the bounds alone, of clips as `recipe` has them.
    codec: its codec.pt, where there is no model. rows: a file of `ImageRows`. table: kinds of
    ImageNet's classes. clips: of each kind. kept: a folder to go on from; other models or options
    keep their own in it.
    """

    classifier: str
    sounds: Path
    pictures: Path
    model: EvalConfig | None = None
    recipe: str = "real"
    codec: Path | None = None
    rows: Path | None = None
    table: Path | None = None
    clips: int = 10
    kept: Path | None = None


class RealJob(msgspec.Struct, frozen=True):
    """One clip. row [image_dim] and logits [1, 1000] of what is seen instead of images, if it is;
    known: recordings to retrieve, by kind."""

    number: int
    clip: RealClip
    row: Row
    logits: Row
    config: RealConfig
    kinds: tuple[str, ...]
    known: dict[str, list[Listed]]
    open_classifier: OpenClassifier

    @property
    def is_drawn(self) -> bool:
        """Whether its sounds are kept to be drawn: the first of each kind."""
        return self.clip.seed % MOST == 0


class Given(NamedTuple):
    """A job for a picture of which there are only features; see RealJob."""

    rows: ImageRows | None
    table: dict[int, str]
    seen: NDArray[np.float32] | None


def evaluate_real(
    config: RealConfig, workers: int = 1, open_classifier: OpenClassifier = open_yamnet
) -> RealFigures:
    """open_classifier: of the config's classifier, once a process. Raises VabError for a model, a
    classifier or files that cannot be opened."""
    classifier, model = open_classifier(config.classifier), clip_config(config)
    sounds, pictures = list_sounds(config.sounds), list_pictures(config.pictures)
    kinds = model.kinds if config.model else model_kinds(sounds)
    given = given_rows(config)
    read = read_sounds(sounds, model.sample_rate_hz, workers)
    scores = recording_scores(config, read.listed, workers, open_classifier)
    material = gather(read, pictures, "test", kinds, model.sample_rate_hz)
    known = by_kind(of_split(read.listed, "train"), kinds)
    jobs = (
        RealJob(number, *rest, config, material.kinds, known, open_classifier)
        for number, rest in enumerate(clips_to_score(config, material, model, given))
    )
    count = config.clips * len(material.sounding)
    found = shown("clips evaluated", in_parallel(score_clip, jobs, workers), count)
    clips = sorted(found, key=lambda clip: clip.number)
    return RealFigures(
        clips, read.listed, scores, [p for p in pictures if p.kind in kinds], classifier.names
    )


def clip_config(config: RealConfig) -> ModelConfig:
    """The config of the model, or else of the recipe. Raises OptionError for a model that knows no
    kinds."""
    if config.model is None:
        return read_recipe(config.recipe).model
    return require_kinds(open_any_model(config.model).pipeline.config)


def given_rows(config: RealConfig) -> Given:
    rows = read_rows(config.rows) if config.rows else None
    table = read_table(config.table) if config.table else {}
    seen = None if rows is None or config.model is None else seen_in_rows(rows, config.model)
    return Given(rows, table, seen)


def by_kind(listed: Sequence[Listed], kinds: Sequence[str]) -> dict[str, list[Listed]]:
    found: dict[str, list[Listed]] = {}
    for one in listed:
        if one.kind in kinds and one.kind != OTHER:
            found.setdefault(one.kind, []).append(one)
    return found


def recording_scores(
    config: RealConfig, listed: Sequence[Listed], workers: int, open_classifier: OpenClassifier
) -> NDArray[np.float32]:
    """The mean scores [N, classes] of recordings."""

    def make() -> Arrays:
        score = functools.partial(score_recording, config.classifier, open_classifier)
        found = in_order(score, [one.path for one in listed], workers)
        return {"scores": np.stack(list(shown("recordings heard", found, len(listed))))}

    name = f"recordings-{key_of(classifier=config.classifier)}-{len(listed)}.npz"
    return arrays_once(config.kept and config.kept / name, make)["scores"]


def score_recording(
    classifier: str, open_classifier: OpenClassifier, path: Path
) -> NDArray[np.float32]:
    return mean_scores(open_classifier(classifier), decode_sound(path, RATE_HZ)).astype(np.float32)


def clips_to_score(
    config: RealConfig, material: Material, model: ModelConfig, given: Given
) -> Iterator[tuple[RealClip, Row, Row]]:
    """Each clip, and of what is seen instead of its images the feature and the logits."""
    for clip in draw_clips(material, model, config.clips, given.rows, given.table):
        if clip.row is None or given.rows is None:
            yield clip, None, None
        else:
            row = None if given.seen is None else given.seen[clip.row]
            yield clip, row, given.rows.logits[clip.row][None]


def score_clip(job: RealJob) -> ScoredClip:
    folder = job.config.kept and job.config.kept / key_of_clips(job.config)
    path = folder and folder / f"{job.clip.kind}-{job.clip.seed % MOST}.npz"
    arrays = arrays_once(path, lambda: arrays_of_clip(job))
    pair = job.clip.pair
    return ScoredClip(job.number, job.clip.kind, job.clip.seen, pair.events_s, arrays)


@functools.lru_cache(maxsize=1)
def key_of_clips(config: RealConfig) -> str:
    """Another one for another model or classifier, other options, or other files of what is seen;
    recordings and pictures are taken to stay."""
    model, seen = config.model, {"rows": config.rows, "table": config.table}
    if model is None:
        made_by = {"recipe": config.recipe, "codec": config.codec}
    else:
        weights = model.checkpoint or open_bundle(model.bundle).folder / MANIFEST
        made_by = {"weights": weights, "options": model.options, "precision": model.precision}
    return key_of(classifier=config.classifier, **seen, **made_by)


def arrays_of_clip(job: RealJob) -> Arrays:
    """See `ScoredClip`."""
    classifier = job.open_classifier(job.config.classifier)
    rate_hz = clip_config(job.config).sample_rate_hz
    sounds, shares = sounds_of_clip(job)
    first = likeliest(shares, job.known)
    arrays: Arrays = {"seen_kind": np.array(first), "seen_share": np.array(shares[first])}
    for name, sound in sounds.items():
        heard = at_16_khz(sound, rate_hz)
        arrays[f"scores/{name}"] = mean_scores(classifier, heard).astype(np.float32)
        arrays[f"onsets/{name}"] = onset_times(heard, RATE_HZ)
        if job.is_drawn:
            arrays[f"spectrogram/{name}"] = spectrogram_db(heard).astype(np.float16)
    if job.is_drawn:
        shown_images = images_of(job.clip)
        images = shown_images if len(shown_images) else job.clip.pair.frames
        arrays["picture"] = thumbnail(images[0])
    return arrays


def sounds_of_clip(job: RealJob) -> tuple[dict[str, Sound], Shares]:
    """By name, and the probabilities of kinds that are seen."""
    config, clip = job.config, job.clip
    model = clip_config(config)
    sounds: dict[str, Sound] = {TRUE: clip.pair.audio}
    if config.model is None:
        shares = shares_without_model(job, model)
        if config.codec is not None:
            codec = open_codec(config.recipe, config.codec)
            sounds[CODEC] = reconstruct(codec, clip.pair.audio[None])[0]
    else:
        opened, options = open_any_model(config.model), config.model.options_of(clip.seed)
        pipeline = opened.pipeline
        features = features_of(clip, pipeline, job.row)
        shares = kinds_seen(features, model)
        sounds[CODEC] = pipeline.render(opened.encode(clip.pair.audio[None]))[0]
        sounds[MADE] = generate(pipeline, features[None], options)
        blind = options.but(guidance=1.0)
        sounds[UNCONDITIONAL] = generate(without_video(pipeline), features[None], blind)
    random = np.random.default_rng((clip.seed, 6))
    sounds[RETRIEVED] = retrieved(job.known[likeliest(shares, job.known)], model, random)
    return sounds, shares


def shares_without_model(job: RealJob, model: ModelConfig) -> Shares:
    """By EfficientNet-Lite0 and the table; of a name that alone is there, the name."""
    if job.clip.seen == "name":
        return {job.clip.kind: 1.0}
    logits = job.logits
    if logits is None:
        with torch.inference_mode():
            found, _ = open_recogniser(model)(torch.from_numpy(images_of(job.clip)))
        logits = found.numpy()
    table = open_table(job.config.table)
    return dict(zip(job.kinds, table_shares(logits, table, job.kinds).tolist(), strict=True))


open_recogniser = functools.lru_cache(maxsize=1)(load_efficientnet)
"""One for all clips of a process, as are the next two."""


@functools.lru_cache(maxsize=1)
def open_table(path: Path | None) -> dict[int, str]:
    if path is None:
        raise OptionError("without a model the kind is seen by a table, expected --table FILE.csv")
    return read_table(path)


@functools.lru_cache(maxsize=1)
def open_codec(recipe: str, path: Path) -> torch.nn.Module:
    chosen = read_recipe(recipe)
    return load_codec(path, chosen.model, chosen.codec)
