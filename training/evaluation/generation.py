"""How well sound follows the picture, between its bounds.

Held-out clips of FoleyWorld, as H.264 files, go through the runtime's video reader and pipeline,
with the graphs of a bundle or the torch modules of a checkpoint. Every measure stands beside four
bounds of the same run: the true sound, the codec's reconstruction of it, the sound made for another
clip, and the model with the picture taken away. A system of two stages also goes on from the true
coarse tokens (the paper's table 15).
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.evaluation.embeddings import Embedding, Judge, open_embedding
from training.evaluation.held_out import film, one_thread_in_a_worker
from training.evaluation.judge import load_classifier, present_classes
from training.evaluation.measures import (
    agreement,
    bootstrap,
    frechet_distance,
    kl_divergence,
    onset_counts,
    onset_f1,
    onset_times,
    wilson,
)
from training.evaluation.trial import Trial, open_model
from training.processes import in_parallel
from training.saving import arrays_once
from vab_rt.config import GenerateOptions
from vab_rt.contract import BACKBONES
from vab_rt.engines import Engine
from vab_rt.pipeline import Pipeline
from vab_rt.systems.vab import CoarseToFine
from vab_rt.windows import Window

SOUNDS = ("generated", "ground_truth", "reconstruction", "unconditional")
FINE_STEPS = (24, 36)
"""Of the second stage alone, as in table 15."""


class Heard(NamedTuple):
    """Of the sound of one clip: the judge's probabilities [classes]; for distances, embeddings
    [M, D] and probabilities [C]; onset times in s."""

    classes: NDArray[np.float64]
    vectors: NDArray[np.float64]
    compared: NDArray[np.float64]
    onsets_s: NDArray[np.float64]


class HeardClip(NamedTuple):
    """A clip's place among the seeds, what was heard of each of SOUNDS and of what a system has
    beside these, and how long generating took."""

    number: int
    sounds: dict[str, Heard]
    generate_s: float = 0.0


class Listener:
    """The judge, and the embedding that distances are measured with."""

    def __init__(self, judge: Judge, embedding: Embedding) -> None:
        self.judge, self.embedding = judge, embedding

    @property
    def name(self) -> str:
        """What FAD and KLD are measured with."""
        name = self.embedding.name
        return name if self.embedding.has_classes else f"{name}; KLD: {self.judge.name}"

    def __call__(self, audio: NDArray[np.float32]) -> Heard:
        judged = self.judge(audio)
        embedded = judged if self.embedding is self.judge else self.embedding(audio)
        compared = embedded.probabilities
        return Heard(
            classes=judged.probabilities,
            vectors=embedded.vectors,
            compared=judged.probabilities if compared is None else compared,
            onsets_s=onset_times(audio, foleyworld.SAMPLE_RATE_HZ),
        )


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_listener(trial: Trial) -> Listener:
    classifier = load_classifier(trial.judge)
    judge = Judge(classifier)
    if trial.embedding == "judge":
        return Listener(judge, judge)
    return Listener(judge, open_embedding(trial.embedding, classifier))


def heard_clips(trial: Trial, seeds: list[int], workers: int) -> Iterator[HeardClip]:
    """Make and hear all sounds of these clips, in any order; clip i has the seed options.seed + i.

    Raises VabError for a model, judge or embedding that cannot be opened.
    """
    jobs = ((number, seed, trial) for number, seed in enumerate(seeds))
    yield from in_parallel(hear_once, jobs, workers)


def hear_once(job: tuple[int, int, Trial]) -> HeardClip:
    """What `trial.heard` has of this clip, or else is given now."""
    number, seed, trial = job
    path = None if trial.heard is None else trial.heard / f"{number}-{seed}.npz"
    return unflattened(number, arrays_once(path, lambda: flattened(hear_clip(job))))


def flattened(clip: HeardClip) -> dict[str, NDArray[np.float64]]:
    """SOUND/MEASURE of each sound, and generate_s."""
    measures = {
        f"{sound}/{name}": array
        for sound, heard in clip.sounds.items()
        for name, array in heard._asdict().items()
    }
    return measures | {"generate_s": np.array(clip.generate_s)}


def unflattened(number: int, arrays: dict[str, NDArray[np.float64]]) -> HeardClip:
    generate_s = float(arrays.pop("generate_s"))
    sounds = dict.fromkeys(name.partition("/")[0] for name in arrays)
    heard = {
        sound: Heard(**{name: arrays[f"{sound}/{name}"] for name in Heard._fields})
        for sound in sounds
    }
    return HeardClip(number, heard, generate_s)


def hear_clip(job: tuple[int, int, Trial]) -> HeardClip:
    number, seed, trial = job
    one_thread_in_a_worker()
    model, listener = open_model(trial), open_listener(trial)
    pipeline, true = model.pipeline, foleyworld.make_scene(seed).audio()
    frames = film(seed, pipeline.config, trial.films)
    features = np.stack(list(pipeline.system.see(iter(frames))))[None]  # [1, F, visual_dim]
    options = msgspec.structs.replace(trial.options, seed=trial.options.seed + number)
    unguided = msgspec.structs.replace(options, guidance=1.0)
    begin = time.perf_counter()
    generated = generate(pipeline, features, options)
    generate_s = time.perf_counter() - begin
    codes = model.encode(true[None])  # [1, K, T]
    audio = {
        "generated": generated,
        "ground_truth": true,
        "reconstruction": pipeline.render(codes)[0],
        "unconditional": generate(without_picture(pipeline), features, unguided),
        **dict(from_true_coarse(pipeline, features, codes, options)),
    }
    sounds = {name: listener(sound) for name, sound in audio.items()}
    return HeardClip(number, sounds, generate_s)


def generate(
    pipeline: Pipeline, features: NDArray[np.float32], options: GenerateOptions
) -> NDArray[np.float32]:
    """Sound [S] for the features of one clip [1, F, visual_dim]."""
    whole = Window(
        0, features[0], len(features[0]), slice(0, pipeline.config.num_samples), is_last=True
    )
    *_, (_, finished) = pipeline.system.decode(whole, None, options)
    return pipeline.render(finished)[0]


def from_true_coarse(
    pipeline: Pipeline,
    features: NDArray[np.float32],
    codes: NDArray[np.int32],
    options: GenerateOptions,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and sound [S] of the second stage alone, given the true coarse ones of codes [1, K, T].

    Nothing of a system of one stage.
    """
    system = pipeline.system
    if not isinstance(system, CoarseToFine):
        return
    coarse, fine = np.split(codes, [system.config.num_codebooks], axis=1)
    masked, seeds = np.full_like(fine, system.config.mask_id), np.array([options.seed], np.uint64)
    for steps in FINE_STEPS:
        chosen = msgspec.structs.replace(options, fine_steps=steps)
        *_, (_, whole) = system.decode_fine(features, coarse, masked, seeds, chosen)
        yield f"coarse_to_fine_{steps}", pipeline.render(whole)[0]


def without_picture(pipeline: Pipeline) -> Pipeline:
    """The same pipeline with both branches of guidance blind; guidance 1 then runs one of them."""
    system = pipeline.system

    def blinded(backbone: Engine) -> Engine:
        return lambda **inputs: backbone(**inputs | {"conditional": 0 * inputs["conditional"]})

    graphs = {name: graph for name, graph in system.engines.graphs.items() if name in BACKBONES}
    blind = system.engines.with_graphs(**{name: blinded(g) for name, g in graphs.items()})
    return Pipeline(dataclasses.replace(system, engines=blind))


class Reference:
    """The truth of scenes and what is heard of their true sound; `measure` compares with it."""

    def __init__(self, scenes: list[foleyworld.Scene], true: list[Heard]) -> None:
        self.true, self.present = true, present_classes(scenes)
        self.kinds = np.array([scene.classes[0] for scene in scenes])
        self.impacts = [
            i
            for i, scene in enumerate(scenes)
            if len(scene.classes) == 1 and foleyworld.FAMILIES[scene.classes[0]] == "impact"
        ]
        self.onsets = [np.array(scenes[i].truth.events[self.kinds[i]]) for i in self.impacts]

    def measure(self, heard: list[Heard]) -> dict:
        """heard: clip by clip of the sound for the same scene. Onsets of lone impacts only."""
        hits = agreement(np.stack([h.classes for h in heard]), self.present)
        vectors, true = (np.concatenate([h.vectors for h in x]) for x in (heard, self.true))
        compared, compared_true = (np.stack([h.compared for h in x]) for x in (heard, self.true))
        return {
            "class_agreement": round(float(hits.mean()), 4),
            "class_agreement_95": rounded(wilson(int(hits.sum()), len(hits))),
            **self._onsets("onset_f1_100ms", heard, 0.1),
            **self._onsets("onset_f1_50ms", heard, 0.05),
            "fad": round(frechet_distance(true, vectors), 4),
            "kld": round(kl_divergence(compared_true, compared), 4),
            "by_class": {
                kind: round(float(hits[self.kinds == kind].mean()), 3)
                for kind in foleyworld.CLASSES
                if (self.kinds == kind).any()
            },
        }

    def _onsets(self, name: str, heard: list[Heard], tolerance_s: float) -> dict:
        if not self.impacts:
            return {name: None, f"{name}_95": None}
        found = [heard[i].onsets_s for i in self.impacts]
        counts = onset_counts(found, self.onsets, tolerance_s)
        interval = bootstrap(onset_f1, counts, np.random.default_rng(0))
        return {name: round(onset_f1(counts), 4), f"{name}_95": rounded(interval)}


def generation_result(seeds: list[int], clips: list[HeardClip]) -> dict:
    """The measures of the generated sound, and under `bounds` those of each bound.

    generate_s: the median of what a clip took from features to sound. Every share and F1 has its
    95 % interval under NAME_95.
    """
    scenes = [foleyworld.make_scene(seed) for seed in seeds]
    ordered = sorted(clips, key=lambda clip: clip.number)
    sounds = {name: [clip.sounds[name] for clip in ordered] for name in ordered[0].sounds}
    generated = sounds["generated"]
    bounds = {
        "ground_truth": sounds["ground_truth"],
        "reconstruction": sounds["reconstruction"],
        "shuffled": generated[-1:] + generated[:-1],
        "unconditional": sounds["unconditional"],
        **{name: heard for name, heard in sounds.items() if name not in SOUNDS},
    }
    reference = Reference(scenes, sounds["ground_truth"])
    result = reference.measure(generated)
    result |= {"clips": len(scenes), "impact_clips": len(reference.impacts)}
    result["generate_s"] = round(statistics.median(clip.generate_s for clip in clips), 3)
    measured = {name: reference.measure(h) | {"clips": len(h)} for name, h in bounds.items()}
    return result | {"bounds": measured}


def rounded(interval: tuple[float, float]) -> list[float]:
    return [round(x, 4) for x in interval]
