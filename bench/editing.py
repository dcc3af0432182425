"""`python -m bench editing`: what a part of a sound made anew, several sounds, and a search of a
user's own files cost, beside one sound.

All in one process with the model loaded, in turn.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import vab_rt
from bench.generate import loop_clip, print_ceiling, render_clip
from bench.options import add_model, at_least_one, parser_of
from bench.report import (
    PAUSE_S,
    Call,
    Target,
    console,
    elapsed_ms,
    in_turn,
    print_facts,
    print_table,
    print_targets,
    summarise,
)
from bench.roofline import measure_roofline
from vab_rt.bundle import open_bundle
from vab_rt.candidates import require_score
from vab_rt.config import ClipConfig
from vab_rt.errors import DataError
from vab_rt.pipeline import Pipeline
from vab_rt.search import search
from vab_rt.steps import STAGES, windows_of
from vab_rt.stopwatch import Stopwatch

LONG = 6  # clips
PART = 0.2  # of a clip: 2 s of 10 s
NUM_CANDIDATES = 4
LONGEST_FILE_S = 4.0


TARGETS = (
    Target("regenerate_ratio", "a fifth of a clip / the clip", 1.0),
    Target("regenerate_long_ratio", "as much of 6 clips, in one window / a clip", 1.3),
    Target("candidates_ratio", "4 sounds / one, the model loaded before", 3.3),
    Target("candidates_with_load_ratio", "4 sounds / one, with the time it takes to load", 3.3),
    Target("search_s", "seconds to search the files, once indexed", 0.5),
    Target("search_seen_s", "the same of a clip that was seen before", 0.5),
    Target("right_of_2", "the score picks the right sound of 2", 0.95, is_least=True),
    Target("unshifted", "and the one that is not 0.2 s late, of impacts", 0.8, is_least=True),
)


@dataclass(frozen=True)
class Material:
    """A clip of one window, the same six times, what they sound like, and the file of an index of
    other sounds."""

    clip: vab_rt.Video
    sound: vab_rt.Audio
    long: vab_rt.Video
    long_sound: vab_rt.Audio
    index: Path
    index_s: float


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    of_score = {} if options.fit is None else read_fit(options.fit)
    pipeline = vab_rt.load(options.model, "cpu")
    facts = print_facts()
    print_ceiling(open_bundle(options.model), measure_roofline())
    with tempfile.TemporaryDirectory() as folder:
        material = make_material(pipeline, Path(folder), options.files)
        check_edits(pipeline, material)
        figures = measure(pipeline, material, options.runs) | of_score
    print_table(("figure", "value"), [(n, v) for n, v in figures.items() if n.endswith("_s")])
    print_targets(TARGETS, figures, absent="give --fit")
    if options.json:
        targets = {target.figure: target.limit for target in TARGETS}
        print(json.dumps(figures | {"files": options.files, "targets": targets} | facts))


def read_fit(path: Path) -> dict[str, float]:
    """What the score is worth, from what `training.evaluate fit` printed. Raises DataError."""
    try:
        found = json.loads(path.read_text().strip().rpartition("\n")[2])
        unshifted = found["shifted"]["0.2s"]["impact"]
        return {"right_of_2": found["best_of_2"], "unshifted": unshifted, "clips": found["clips"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error!r}), expected what `python -m training.evaluate fit "
            "--clips 500 --json` printed; run it again, with its output in this file"
        ) from error


def make_material(pipeline: Pipeline, folder: Path, num_files: int) -> Material:
    clip_s, path = pipeline.config.clip_s, render_clip(folder)
    loop_clip(path, folder / "long.mp4", LONG * clip_s)
    clip = vab_rt.Video(path, 0, clip_s)
    long = vab_rt.Video(folder / "long.mp4", 0, LONG * clip_s)
    sound, long_sound = (pipeline.generate(video, seed=1) for video in (clip, long))
    make_files(folder / "files", num_files, pipeline.config.sample_rate_hz)
    console.print(f"indexing {num_files} files, please wait")
    index = folder / "index.npz"
    index_s = elapsed_ms(lambda: list(pipeline.index_sounds(folder / "files", index))) / 1e3
    return Material(clip, sound, long, long_sound, index, index_s)


def make_files(folder: Path, count: int, rate_hz: int) -> None:
    """Blows and stretches of noise of 0.2 to 4 s, each of another pitch; always the same."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        at_s = np.arange(round(random.uniform(0.2, LONGEST_FILE_S) * rate_hz)) / rate_hz
        tone = np.sin(2 * np.pi * random.uniform(100, rate_hz / 4) * at_s)
        noise = random.standard_normal(len(at_s)) * random.uniform(0, 1)
        sound = 0.2 * (tone + noise) * np.exp(-at_s * random.choice([0.0, 8.0]))
        vab_rt.Audio(np.clip(sound, -1, 1).astype(np.float32), rate_hz).save(
            folder / f"{number:05d}.wav"
        )


def part_of_clip(config: ClipConfig) -> tuple[float, float]:
    """Seconds in its middle."""
    return config.clip_s * (1 - PART) / 2, config.clip_s * (1 + PART) / 2


def part_of_long(config: ClipConfig) -> tuple[float, float]:
    """Seconds in the middle of the third window, which no other has."""
    begin, end = part_of_clip(config)
    before_s = 2 * (config.num_hops - config.num_overlap_hops) / config.hop_rate_hz
    return before_s + begin, before_s + end


def check_edits(pipeline: Pipeline, material: Material) -> None:
    """Nothing is timed unless what was not asked for stays, and the first of four sounds is the
    one that is made alone."""
    c, old = pipeline.config, material.sound
    part = part_of_clip(c)
    new = pipeline.regenerate(material.clip, old, *part, seed=2)
    begin, end = (c.samples_in(at_s) for at_s in part)
    begin, end = begin - c.hop_samples, end + c.hop_samples
    is_kept = np.array_equal(new.samples[:begin], old.samples[:begin])
    is_kept &= np.array_equal(new.samples[end:], old.samples[end:])
    if not is_kept or np.array_equal(new.samples[begin:end], old.samples[begin:end]):
        sys.exit("not timed: more or less than the part was made anew")
    takes = pipeline.candidates(material.clip, seed=1, num_candidates=NUM_CANDIDATES)
    if not any(np.array_equal(take.samples, old.samples) for take in takes):
        sys.exit("not timed: none of the candidates is the sound that their seed makes alone")
    console.print("parity: a part made anew leaves the rest; a candidate is what its seed makes")


def measure(pipeline: Pipeline, material: Material, num_runs: int) -> dict[str, Any]:
    """Medians in seconds, and their ratios."""
    times = summarise(in_turn(calls(pipeline, material), num_runs, warm_ups=1, pause_s=PAUSE_S))
    seconds = {name: time.median / 1e3 for name, time in times.items()}
    figures = seconds | ratios(seconds, pipeline.load_s)
    figures |= {"load_s": pipeline.load_s, "index_s": material.index_s}
    return {name: round(value, 4) for name, value in figures.items()} | {"runs": num_runs}


def calls(pipeline: Pipeline, m: Material) -> dict[str, Call]:
    part, long_part = part_of_clip(pipeline.config), part_of_long(pipeline.config)
    windows = list(windows_of(m.clip, pipeline.system, Stopwatch(*STAGES)))

    def search_seen() -> None:
        *_, checked = pipeline.index_sounds(m.index)
        search(windows, checked.index, require_score(pipeline.system), 10)

    return {
        "generate_s": lambda: pipeline.generate(m.clip, seed=1),
        "regenerate_s": lambda: pipeline.regenerate(m.clip, m.sound, *part, seed=2),
        "regenerate_long_s": lambda: pipeline.regenerate(m.long, m.long_sound, *long_part, seed=2),
        "candidates_s": lambda: pipeline.candidates(m.clip, seed=1, num_candidates=NUM_CANDIDATES),
        "search_s": lambda: pipeline.search(m.clip, m.index),
        "search_seen_s": search_seen,
    }


def ratios(seconds: Mapping[str, float], load_s: float) -> dict[str, float]:
    one = seconds["generate_s"]
    return {
        "regenerate_ratio": seconds["regenerate_s"] / one,
        "regenerate_long_ratio": seconds["regenerate_long_s"] / one,
        "candidates_ratio": seconds["candidates_s"] / one,
        "candidates_with_load_ratio": (load_s + seconds["candidates_s"]) / (load_s + one),
    }


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("editing", __doc__)
    add_model(parser)
    parser.add_argument("--runs", type=at_least_one, default=5, help="turns of all that is timed")
    parser.add_argument("--files", type=at_least_one, default=1000, help="sounds to search")
    parser.add_argument(
        "--fit",
        type=Path,
        metavar="FILE",
        help="what `python -m training.evaluate fit --clips 500 --json` printed: hours",
    )
    return parser
