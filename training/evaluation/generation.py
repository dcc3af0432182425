"""How well sound follows the video, between its bounds.

Held-out clips of FoleyWorld, as H.264 files, go through the runtime's video reader and pipeline,
with the graphs of a bundle or the torch modules of a checkpoint. Every measure stands beside its
bounds, of the same run: the true sound; the codec's reconstruction of it; the sound made for
another clip, and for another of the same class; a metronome and silence; and the floor, the true
scene sounded once more with other noise, which nobody who sees it could tell from the true sound.
FAD's floor is that of as many other true clips. A system of two stages also goes on from the true
coarse tokens (the paper's table 15).
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator

import msgspec
import numpy as np
from numpy.typing import NDArray

from training import foleyworld
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
from training.evaluation.held_out import video_frames, visual_features
from training.evaluation.models import generate, open_in_world
from training.evaluation.reference import Reference
from vab_rt.contract import BACKBONES
from vab_rt.engines import Engine
from vab_rt.options import GenerateOptions
from vab_rt.pipeline import Pipeline
from vab_rt.systems.vab import CoarseToFine

FINE_STEPS = (24, 36)
"""The steps of the second stage alone, as in table 15."""
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


def evaluate_generation(config: EvalConfig, seeds: list[int], workers: int = 1) -> dict:
    """Every measure of `Reference` with its interval, and those of each bound under `bounds`."""
    open_in_world(config)  # mistakes are reported before any work
    evaluator = open_evaluator(config)
    clips = evaluate_clips(sounds_of_scene, scene_pairs(seeds), config, workers)
    silence = evaluator(np.zeros(foleyworld.NUM_SAMPLES, np.float32))
    result = generation_result(seeds, clips, silence)
    for measured in (result, *result["bounds"].values()):
        measured["embedding"] = evaluator.name
    return result


def scene_pairs(seeds: list[int]) -> list[tuple[int, int]]:
    """Each clip's seed, and that of another whose true sound FAD's floor is measured with."""
    return [(seed, seed + len(seeds)) for seed in seeds]


def sounds_of_scene(
    number: int, seeds: tuple[int, int], config: EvalConfig
) -> tuple[dict[str, Sound], Arrays]:
    """generated, ground_truth, reconstruction, FLOOR, OTHER and, of the first, AGAIN (generated
    with another seed); unconditional where it is asked for; and what a system has beside these."""
    model, (seed, other) = open_in_world(config), seeds
    pipeline, scene = model.pipeline, foleyworld.make_scene(seed)
    true, options = scene.audio(), config.options_of(number)
    frames = video_frames(seed, pipeline.config, config.videos)
    features = visual_features(frames, pipeline)[None]
    begin = time.perf_counter()
    generated = generate(pipeline, features, options)
    generate_s = time.perf_counter() - begin
    codes = model.encode(true[None])  # [1, K, T]
    sounds = {
        "generated": generated,
        "ground_truth": true,
        "reconstruction": pipeline.render(codes)[0],
        FLOOR: scene.audio(RETAKE),
        OTHER: foleyworld.make_scene(other).audio(),
        **dict(from_true_coarse(pipeline, features, codes, options)),
    }
    if number < config.varied:
        again = msgspec.structs.replace(options, seed=options.seed + AGAIN_SEED)
        sounds[AGAIN] = generate(pipeline, features, again)
    if config.unconditional:
        unguided = msgspec.structs.replace(options, guidance=1.0)
        sounds["unconditional"] = generate(without_video(pipeline), features, unguided)
    return sounds, {"generate_s": np.array(generate_s)}


def from_true_coarse(
    pipeline: Pipeline,
    features: NDArray[np.float32],
    codes: NDArray[np.int32],
    options: GenerateOptions,
) -> Iterator[tuple[str, Sound]]:
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


def without_video(pipeline: Pipeline) -> Pipeline:
    """The same pipeline with both branches of guidance blind; guidance 1 then runs one of them."""
    system = pipeline.system

    def blinded(backbone: Engine) -> Engine:
        return lambda **inputs: backbone(**inputs | {"conditional": 0 * inputs["conditional"]})

    graphs = {name: graph for name, graph in system.engines.graphs.items() if name in BACKBONES}
    blind = system.engines.with_graphs(**{name: blinded(g) for name, g in graphs.items()})
    return type(pipeline)(dataclasses.replace(system, engines=blind))


def generation_result(seeds: list[int], clips: list[ClipFeatures], silence: SoundFeatures) -> dict:
    """The measures of the generated sound, and under `bounds` those of each bound.

    generate_s: the median of what a clip took from features to sound. Every figure over clips has
    its 95 % interval under NAME_95.
    """
    scenes, sounds = [foleyworld.make_scene(seed) for seed in seeds], by_sound(clips)
    generated, true, others = (sounds.pop(name) for name in ("generated", "ground_truth", OTHER))
    reference = Reference(scenes, true, others)
    result = reference.measure(generated)
    if AGAIN in sounds:
        result |= reference.variety(generated, sounds.pop(AGAIN))
    result |= counts_of(reference) | {"generate_s": median_generate_s(clips)}
    if held_out := reference.held_out(generated):
        result["by_held_out"] = held_out
    bounds = bounds_of(reference, sounds, generated, silence)
    return result | {"fad_floor": reference.fad_floor, "bounds": bounds}


def median_generate_s(clips: list[ClipFeatures]) -> float:
    return round(float(statistics.median(clip.arrays["generate_s"] for clip in clips)), 3)


def counts_of(reference: Reference) -> dict[str, int]:
    names = {"impact": reference.impacts, "texture": reference.textures, "pair": reference.pairs}
    found = {f"{name}_clips": len(rows) for name, rows in names.items()}
    return {"clips": len(reference)} | found


def bounds_of(
    reference: Reference,
    sounds: dict[str, list[SoundFeatures]],
    generated: list[SoundFeatures],
    silence: SoundFeatures,
) -> dict[str, dict]:
    """By bound, what is measured of it; what is equal by construction is left out."""
    bounds = {
        "ground_truth": reference.true,
        **sounds,
        "shuffled": generated[-1:] + generated[:-1],
        "shuffled_in_class": reference.in_class(generated),
        "silence": [silence] * len(reference),
    }
    measured = {name: reference.measure(s) | {"clips": len(s)} for name, s in bounds.items()}
    for name, empty in EMPTY.items():
        for key in empty:
            measured[name].pop(key, None)
            measured[name].pop(f"{key}_95", None)
    if FLOOR in measured:
        measured[FLOOR] |= {"fad": reference.fad_floor}
        measured[FLOOR] |= reference.variety(reference.true, sounds[FLOOR])
    return measured | reference.metronomes()
