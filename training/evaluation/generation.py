"""How well sound follows the picture, between its bounds.

Held-out clips of FoleyWorld, as H.264 files, go through the runtime's video reader and pipeline,
with the graphs of a bundle or the torch modules of a checkpoint. Every measure stands beside its
bounds, of the same run: the true sound; the codec's reconstruction of it; the sound made for
another clip, and for another of the same class; a metronome and silence; and the floor, the true
scene sounded once more with other noise, which nobody who sees it could tell from the true sound.
FAD's floor is that of as many other true clips. A system of two stages also goes on from the true
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
from training.evaluation.classifier import load_classifier
from training.evaluation.embeddings import open_embedding
from training.evaluation.heard import Heard, Listener
from training.evaluation.held_out import film, one_thread_in_a_worker, seen
from training.evaluation.reference import Reference
from training.evaluation.trial import Trial, open_model
from training.processes import in_parallel
from training.saving import arrays_once
from vab_rt.config import GenerateOptions
from vab_rt.contract import BACKBONES
from vab_rt.engines import Engine
from vab_rt.pipeline import Pipeline
from vab_rt.systems.vab import CoarseToFine
from vab_rt.windows import Window

FINE_STEPS = (24, 36)
"""Of the second stage alone, as in table 15."""
FLOOR, OTHER, AGAIN = "floor", "other_truth", "again"
RETAKE = 2
AGAIN_SEED = 1 << 32
"""What the second sound for a clip adds to its seed: a seed that no clip has of its own."""
EMPTY = {
    "ground_truth": (
        *("fad", "kld", "level_error_db", "level_error_abs_db", "blow_level_error_db"),
        *("blow_level_error_abs_db", "blow_own_db", "blow_margin_db", "blow_pitch_semitones"),
        *("envelope_correlation", "envelope_by_class", "own_nearest"),
    ),
    "shuffled": ("fad", "blow_steadiness_db"),
    "shuffled_in_class": ("fad", "blow_steadiness_db", "level_error_db"),
}
"""What is equal by construction: true sound against itself, and sounds that only change places."""


class HeardClip(NamedTuple):
    """A clip's place among the seeds, what was heard of each of its sounds, and how long generating
    took.

    Sounds: generated, ground_truth, reconstruction, FLOOR, OTHER (the true sound of another seed)
    and, of some, AGAIN (generated with another seed); unconditional where the trial wants it; and
    what a system has beside these.
    """

    number: int
    sounds: dict[str, Heard]
    generate_s: float = 0.0


@functools.lru_cache(maxsize=1)  # one for all clips of a process
def open_listener(trial: Trial) -> Listener:
    """Raises VabError for a classifier or an embedding that cannot be opened."""
    classifier = load_classifier(trial.classifier)
    return Listener(classifier, tuple(open_embedding(e, classifier) for e in trial.embeddings))


def heard_clips(trial: Trial, seeds: list[int], workers: int) -> Iterator[HeardClip]:
    """Make and hear all sounds of these clips, in any order; clip i has the seed options.seed + i.

    Raises VabError for a model, classifier or embedding that cannot be opened.
    """
    jobs = ((number, seed, seed + len(seeds), trial) for number, seed in enumerate(seeds))
    yield from in_parallel(hear_once, jobs, workers)


def hear_once(job: tuple[int, int, int, Trial]) -> HeardClip:
    """What `trial.heard` has of this clip, or else is given now."""
    number, seed, other, trial = job
    path = None if trial.heard is None else trial.heard / f"{number}-{seed}-{other}.npz"
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


def hear_clip(job: tuple[int, int, int, Trial]) -> HeardClip:
    number, seed, other, trial = job
    one_thread_in_a_worker()
    model, listener = open_model(trial), open_listener(trial)
    pipeline, scene = model.pipeline, foleyworld.make_scene(seed)
    true = scene.audio()
    features = seen(film(seed, pipeline.config, trial.films), pipeline)[None]
    options = msgspec.structs.replace(trial.options, seed=trial.options.seed + number)
    begin = time.perf_counter()
    generated = generate(pipeline, features, options)
    generate_s = time.perf_counter() - begin
    codes = model.encode(true[None])  # [1, K, T]
    audio = {
        "generated": generated,
        "ground_truth": true,
        "reconstruction": pipeline.render(codes)[0],
        FLOOR: scene.audio(RETAKE),
        OTHER: foleyworld.make_scene(other).audio(),
        **dict(from_true_coarse(pipeline, features, codes, options)),
    }
    if number < trial.varied:
        again = msgspec.structs.replace(options, seed=options.seed + AGAIN_SEED)
        audio[AGAIN] = generate(pipeline, features, again)
    if trial.unconditional:
        unguided = msgspec.structs.replace(options, guidance=1.0)
        audio["unconditional"] = generate(without_picture(pipeline), features, unguided)
    sounds = {name: listener(sound) for name, sound in audio.items()}
    return HeardClip(number, sounds, generate_s)


def generate(
    pipeline: Pipeline, features: NDArray[np.float32], options: GenerateOptions
) -> NDArray[np.float32]:
    """Sound [S] for the features of one clip [1, F, visual_dim]."""
    system = pipeline.system
    whole = Window(
        0, features[0], len(features[0]), slice(0, pipeline.config.num_samples), is_last=True
    )
    *_, (_, finished) = system.decode(whole, None, system.options(options))
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
        chosen = system.options(options.but(fine_steps=steps))
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


def generation_result(seeds: list[int], clips: list[HeardClip], silence: Heard) -> dict:
    """The measures of the generated sound, and under `bounds` those of each bound.

    generate_s: the median of what a clip took from features to sound. Every figure over clips has
    its 95 % interval under NAME_95.
    """
    scenes = [foleyworld.make_scene(seed) for seed in seeds]
    ordered = sorted(clips, key=lambda clip: clip.number)
    sounds = {name: [c.sounds.get(name) for c in ordered] for name in ordered[0].sounds}
    generated, true, others = (sounds.pop(name) for name in ("generated", "ground_truth", OTHER))
    reference = Reference(scenes, true, others)
    result = reference.measure(generated)
    if AGAIN in sounds:
        result |= reference.variety(generated, sounds.pop(AGAIN))
    result |= counts_of(reference)
    result["generate_s"] = round(statistics.median(clip.generate_s for clip in clips), 3)
    if held_out := reference.held_out(generated):
        result["by_held_out"] = held_out
    bounds = bounds_of(reference, sounds, generated, silence)
    return result | {"fad_floor": reference.fad_floor, "bounds": bounds}


def counts_of(reference: Reference) -> dict[str, int]:
    names = {"impact": reference.impacts, "texture": reference.textures, "pair": reference.pairs}
    found = {f"{name}_clips": len(rows) for name, rows in names.items()}
    return {"clips": len(reference)} | found


def bounds_of(
    reference: Reference, sounds: dict[str, list[Heard]], generated: list[Heard], silence: Heard
) -> dict[str, dict]:
    """By bound, what is measured of it; what is equal by construction is left out."""
    heard = {
        "ground_truth": reference.true,
        **sounds,
        "shuffled": generated[-1:] + generated[:-1],
        "shuffled_in_class": reference.in_class(generated),
        "silence": [silence] * len(reference),
    }
    measured = {name: reference.measure(h) | {"clips": len(h)} for name, h in heard.items()}
    for name, empty in EMPTY.items():
        for key in empty:
            measured[name].pop(key, None)
            measured[name].pop(f"{key}_95", None)
    if FLOOR in measured:
        measured[FLOOR] |= {"fad": reference.fad_floor}
        measured[FLOOR] |= reference.variety(reference.true, sounds[FLOOR])
    return measured | reference.metronomes()
