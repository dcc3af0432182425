"""Speed and size of a bundle, as its user has them: the same measure for every system."""

import statistics
import tempfile
from pathlib import Path

from training import foleyworld
from training.evaluation.held_out import rendered_video
from vab_rt.bundle import open_bundle
from vab_rt.pipeline import load

RUNS = 3


def cost(bundle: str | None, seed: int = 0) -> dict:
    """The cost of one 10-s clip on the CPU, all cores: seconds by stage, the median of RUNS after
    one that warms up; their sum; and the megabytes of the graphs that generating takes."""
    pipeline, spent = load(bundle), []
    with tempfile.TemporaryDirectory() as folder:
        video = rendered_video(Path(folder), foleyworld.clip_seeds("test", seed, 1)[0])
        for _ in range(RUNS + 1):
            *_, last = pipeline.generate_steps(video)
            spent.append(last.timings_s)
    stages = {name: statistics.median(run[name] for run in spent[1:]) for name in spent[0]}
    return {
        "stages_s": {name: round(seconds, 3) for name, seconds in stages.items()},
        "seconds": round(sum(stages.values()), 3),
        "megabytes": round(size_bytes(bundle) / 1e6, 1),
    }


def size_bytes(bundle: str | None) -> int:
    opened = open_bundle(bundle)
    manifest = opened.manifest
    files = {manifest.graphs[name].file for name in manifest.needed_graphs}
    return sum(manifest.files[file].size_bytes for file in files)
