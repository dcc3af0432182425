"""`python -m bench generate`: what a user of `vab-rt generate` waits for, and the ceiling of it.

The runtime is measured as installed (.venv-demo, which make keeps fresh), each run a new process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from bench.options import add_model, at_least_one, parser_of
from bench.report import console, print_facts, print_figures, print_table, summarise
from bench.roofline import Roofline, backbone_flops, measure_roofline
from bench.runs import Run, run
from vab_rt.bundle import Bundle, open_bundle
from vab_rt.errors import OptionError

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / ".venv-demo"
STAGES = ("load", "decode_video", "visual", "tokens", "codec", "write")
MINUTE_S, HOUR_S = 60, 3600
TIME_IMPORT = (
    "import time; begin = time.perf_counter(); import {}; print(time.perf_counter() - begin)"
)


@dataclass(frozen=True)
class Command:
    """What is measured: the installed command on one clip with one bundle."""

    clip: Path
    model: str | None
    folder: Path

    def generate(self, name: str, clip: Path | None = None) -> Run:
        command = [RUNTIME / "bin/vab-rt", "generate", clip or self.clip, self.folder / name]
        chosen = [] if self.model is None else ["--model", self.model]
        return run([*command, *chosen, "--seed", "1", "--json", "--quiet", "--force"])


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    subprocess.run(["make", "-C", ROOT, ".venv-demo/installed"], check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        command = Command(render_clip(Path(folder)), options.model, Path(folder))
        figures = measure_command(command, options.runs, options.hour)
    if options.json:
        print(json.dumps(figures))


def measure_command(command: Command, num_runs: int, hour: bool) -> dict[str, Any]:
    """Ceiling, parity, then time; printed as it comes."""
    bundle = open_bundle(command.model)
    if bundle.manifest.kind != "vab":
        raise OptionError(
            f"model {bundle.config.name} is a {bundle.manifest.kind}, expected a vab, whose work "
            "is known here; measure it with: python -m bench v2a_mapper"
        )
    facts = print_facts()
    roofline = measure_roofline()
    print_ceiling(bundle, roofline)
    check_same_bytes(command)
    peer = measure_torch(command, num_runs)
    runs = [command.generate("timed.wav") for _ in range(num_runs)]
    figures = figures_of(runs) | measure_installation() | ratios(peer)
    least_s = ceilings(bundle, roofline, peer["flops"])
    print_stages(figures["stage_s"], least_s)
    figures["ceiling_s"] = {stage: round(seconds, 4) for stage, seconds in least_s.items()}
    figures |= {"runs": num_runs, "steps": bundle.manifest.defaults.steps}
    figures["minute_s"] = measure_minute(command, num_runs)
    figures["one_hour"] = measure_hour(command, figures["peak_rss_mb"]) if hour else None
    print_figures({n: v for n, v in figures.items() if n not in ("stage_s", "ceiling_s")})
    return figures | {"roofline": vars(roofline), "torch": peer} | facts


def render_clip(folder: Path) -> Path:
    """A silent clip of FoleyWorld: 10 s, H.264, 480x270 at 25 fps; always the same."""
    command = [sys.executable, "-m", "training.foleyworld", "render", "--out", str(folder)]
    command += ["--clips", "1", "--kind", "hammer", "--silent"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.mp4"))


def check_same_bytes(command: Command) -> None:
    """One seed, two processes, equal files; nothing is timed otherwise."""
    for name in ("first.wav", "second.wav"):
        command.generate(name)
    if (command.folder / "first.wav").read_bytes() != (command.folder / "second.wav").read_bytes():
        sys.exit("not timed: the same seed gave two different files")
    console.print("parity: the same seed gave the same bytes twice")


def measure_torch(command: Command, repeats: int) -> dict[str, Any]:
    """Both sides in one process, in turn; it stops there when their logits differ."""
    words = [sys.executable, "-m", "bench.torch_loop", command.clip, "--repeats", str(repeats)]
    peer = run(words if command.model is None else [*words, "--model", command.model]).json()
    console.print(f"parity: logits are within {peer['relative_error']:.1e} of PyTorch's")
    return peer


def ratios(peer: dict[str, Any]) -> dict[str, float]:
    """PyTorch over ours. The whole: video file to samples, models loaded; and tokens alone."""
    return {
        "ratio_to_torch": round(peer["torch_s"] / peer["ours_s"], 3),
        "ratio_to_torch_tokens": round(peer["torch_tokens_s"] / peer["ours_tokens_s"], 3),
    }


def figures_of(runs: list[Run]) -> dict[str, Any]:
    timings = [run.json()["timings_s"] | {"wall": run.wall_s} for run in runs]
    times = summarise({s: [t[s] for t in timings] for s in (*STAGES, "wall")})
    stage_s = {stage: round(times[stage].median, 4) for stage in STAGES}
    return {
        "wall_s": round(times["wall"].median, 3),
        "wall_s_worst": round(times["wall"].worst, 3),
        "cpu_s": round(statistics.median(run.cpu_s for run in runs), 3),
        "load_s": stage_s["load"],
        "peak_rss_mb": round(max(run.peak_mb for run in runs), 1),
        "stage_s": stage_s,
    }


def measure_installation() -> dict[str, float]:
    """Imports are lazy, so that what `load` needs is measured beside `import vab_rt` itself."""
    python = RUNTIME / "bin/python"
    modules = {"import_s": "vab_rt", "import_pipeline_s": "vab_rt.pipeline"}
    seconds = {
        name: statistics.median(
            float(run([python, "-c", TIME_IMPORT.format(module)]).last_line) for _ in range(5)
        )
        for name, module in modules.items()
    }
    (packages,) = RUNTIME.glob("lib/python3.*/site-packages")
    sizes = {entry.name: size_bytes_of(entry) for entry in packages.iterdir()}
    came_with_python = sum(sizes.get(name, 0) for name in ("pip", "setuptools", "pkg_resources"))
    return {name: round(s, 4) for name, s in seconds.items()} | {
        "install_mb": round(sum(sizes.values()) / 1e6, 1),
        "install_mb_without_pip": round((sum(sizes.values()) - came_with_python) / 1e6, 1),
    }


def size_bytes_of(entry: Path) -> int:
    """The size of a file, or of all files in a folder."""
    if not entry.is_dir():
        return entry.lstat().st_size
    return sum(path.lstat().st_size for path in entry.rglob("*") if not path.is_dir())


def measure_minute(command: Command, num_runs: int) -> float:
    """The whole command on a video of 60 s."""
    long = command.folder / "minute.mp4"
    loop_clip(command.clip, long, MINUTE_S)
    walls_s = [command.generate("minute.wav", long).wall_s for _ in range(num_runs)]
    return round(statistics.median(walls_s), 3)


def measure_hour(command: Command, short_peak_mb: float) -> dict[str, float]:
    long = command.folder / "hour.mp4"
    length_s = loop_clip(command.clip, long, HOUR_S)
    console.print(f"one hour: {length_s:.0f} s of video, please wait")
    found = command.generate("hour.wav", long)
    return {
        "duration_s": found.json()["duration_s"],
        "wall_s": round(found.wall_s, 1),
        "peak_rss_mb": round(found.peak_mb, 1),
        "above_short_mb": round(found.peak_mb - short_peak_mb, 1),
    }


def loop_clip(clip: Path, out: Path, length_s: float) -> float:
    """The packets of a clip again and again, until `length_s`; returns the length in seconds."""
    with av.open(str(clip)) as source, av.open(str(out), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        length = stream.duration  # in stream.time_base
        num_turns = -(-Fraction(length_s) // (length * stream.time_base))
        for turn in range(int(num_turns)):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                packet.pts, packet.dts = packet.pts + turn * length, packet.dts + turn * length
                packet.stream = copy
                target.mux(packet)
        return float(num_turns * length * stream.time_base)


def ceilings(bundle: Bundle, roofline: Roofline, flops: dict[str, int]) -> dict[str, float]:
    """The least seconds of each stage that does arithmetic, and of reading the bundle."""
    size_bytes = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    branches = len(bundle.manifest.model.branches(bundle.manifest.defaults.guidance))
    step_s = roofline.seconds(backbone_flops(bundle.config, batch=branches))
    return {
        "load": roofline.seconds(0, size_bytes),
        "visual": roofline.seconds(flops["visual"]),
        "tokens": bundle.manifest.defaults.steps * step_s,
        "codec": roofline.seconds(flops["codec"]),
    }


def print_ceiling(bundle: Bundle, roofline: Roofline) -> None:
    flops = backbone_flops(bundle.config, batch=2)
    console.print(
        f"ceiling: {roofline.flops_per_s / 1e9:.0f} GFLOP/s in a matrix product, "
        f"{roofline.bytes_per_s / 1e9:.1f} GB/s in a copy; a guided step of {bundle.config.name} "
        f"is {flops / 1e9:.2f} GFLOP, at least {roofline.seconds(flops):.4f} s"
    )


def print_stages(stage_s: dict[str, float], least_s: dict[str, float]) -> None:
    rows = []
    for stage, seconds in stage_s.items():
        least = least_s.get(stage)
        beside = ("", "") if least is None else (f"{least:.4f}", f"{least / seconds:.0%}")
        rows.append((stage, f"{seconds:.3f}", *beside))
    print_table(("stage", "seconds", "ceiling", "share of it"), rows)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("generate", __doc__)
    add_model(parser)
    parser.add_argument("--runs", type=at_least_one, default=5, help="fresh processes timed")
    parser.add_argument("--hour", action="store_true", help="also a one-hour video; takes minutes")
    return parser
