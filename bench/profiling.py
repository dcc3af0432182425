"""`python -m bench profile`: where the time goes, as a chrome trace of each stage and a table.

The whole runs first, as users run it; then each graph alone, with onnxruntime's own profiler,
which slows it a little. Open the files in ui.perfetto.dev. Needs no torch.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

import vab_rt
from bench.options import add_model, at_least_one, parser_of
from bench.report import console, facts, print_table
from bench.runs import make_folder
from bench.traces import Share, Trace, shares_of_graph
from vab_rt.bundle import Bundle, open_bundle
from vab_rt.contract import BACKBONES
from vab_rt.errors import VabError
from vab_rt.options import TokenOptions
from vab_rt.pipeline import Pipeline
from vab_rt.seeing import FRAMES_PER_BATCH

EXAMPLES = Path(__file__).parent.parent / "examples"
ROWS = {
    "visual_encoder": FRAMES_PER_BATCH,
    "motion_encoder": 1,
    **dict.fromkeys(BACKBONES, 2),
    "codec_decoder": 1,
}
WARM_UPS = 2
ERRORS_ONLY = 3
OPTIONS = TokenOptions(seed=1)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    figures = profile(options)
    if options.json:
        print(json.dumps(figures | facts()))


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Writes the traces to options.out; returns what is in the tables."""
    make_folder(options.out)
    pipeline = vab_rt.load(options.model, options.device, threads=options.threads)
    clip = options.clip or example()
    stages_s = profile_stages(pipeline, clip, options.out / "stages.json")
    print_stages(stages_s, pipeline.device)
    figures: dict[str, Any] = {"device": pipeline.device, "stages_s": stages_s, "graphs": {}}
    if pipeline.device != "cpu":
        console.print(f"on {pipeline.device} the stages alone are traced; for its kernels:")
        console.print("  nsys profile vab-rt generate CLIP OUT.wav --device " + pipeline.device)
        return figures
    bundle = open_bundle(options.model)
    for name in bundle.needed_graphs:
        trace = profile_graph(bundle, name, options.out, options.runs, options.threads)
        run_ms, shares = shares_of_graph(trace, WARM_UPS)
        print_graph(name, run_ms, shares[: options.top])
        figures["graphs"][name] = {"ms": run_ms, "ops": [s._asdict() for s in shares]}
    console.print(f"traces: {', '.join(sorted(str(p) for p in options.out.glob('*.json')))}")
    return figures


def example() -> Path:
    """The first sample clip. Raises VabError where there is none."""
    clips = sorted(EXAMPLES.glob("*.mp4"))
    if not clips:
        raise VabError(f"{EXAMPLES} holds no clip, expected an .mp4; name one with --clip")
    return clips[0]


def profile_stages(pipeline: Pipeline, clip: Path, out: Path) -> dict[str, float]:
    """Seconds of each stage of one clip, after another that warms up; the trace is in `out`.

    Row 0 holds calls of the engines, row 1 the decoding steps.
    """
    pipeline.generate(clip, OPTIONS)
    trace = Trace()
    traced = Pipeline(trace_engines(pipeline.system, trace))
    begin_s = last_s = time.perf_counter()
    for step in traced.generate_steps(clip, OPTIONS):
        now_s = time.perf_counter()
        trace.add(f"window {step.window}, step {step.step}", last_s, now_s, row=1)
        last_s = now_s
    trace.write(out)
    sampling = {"of which sample_step": trace.seconds_of("sample_step")}
    return step.timings_s | sampling | {"whole": last_s - begin_s}


def trace_engines(system: Any, trace: Trace) -> Any:
    """The same system, each call of its engines an event of the trace."""
    engines = system.engines
    graphs = {name: trace.timed(name, graph) for name, graph in engines.graphs.items()}
    sample_step = trace.timed("sample_step", engines.sample_step)
    traced = dataclasses.replace(engines, graphs=graphs, sample_step=sample_step)
    return dataclasses.replace(system, engines=traced)


def profile_graph(
    bundle: Bundle, name: str, folder: Path, runs: int, threads: int | None = None
) -> Path:
    """The trace that onnxruntime writes of some runs of a graph, in the folder."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / name)
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        bundle.read_graph(name), options, providers=["CPUExecutionProvider"]
    )
    feeds = inputs_of(name, bundle)
    for _ in range(WARM_UPS + runs):
        session.run(None, feeds)
    written = Path(session.end_profiling())
    return written.replace(folder / f"{name}.json")


def inputs_of(name: str, bundle: Bundle) -> dict[str, npt.NDArray[Any]]:
    """Random inputs of a graph, as many rows as the runtime gives it in one call for a clip."""
    random = np.random.default_rng(0)
    inputs: dict[str, npt.NDArray[Any]] = {}
    for tensor in bundle.contracts[name].inputs:
        shape = tuple(ROWS[name] if isinstance(size, str) else size for size in tensor.shape)
        limit = 256 if tensor.dtype == "uint8" else bundle.config.codebook_size
        if tensor.dtype == "float32":
            inputs[tensor.name] = random.random(shape, np.float32)
        else:
            inputs[tensor.name] = random.integers(limit, size=shape).astype(tensor.dtype)
    return inputs


def print_stages(stages_s: dict[str, float], device: str) -> None:
    whole = stages_s["whole"]
    rows = [(name, f"{s:.4f}", f"{s / whole:.1%}") for name, s in stages_s.items()]
    print_table((f"stage, on {device}", "seconds", "share"), rows)


def print_graph(name: str, run_ms: float, shares: list[Share]) -> None:
    rows = [(op, count or "", f"{ms:.3f}", f"{share:.1%}") for op, count, ms, share in shares]
    print_table((f"{name}, {run_ms:.2f} ms a run", "nodes", "ms", "share"), rows)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("profile", __doc__)
    add_model(parser)
    parser.add_argument("--clip", type=Path, help="a video (default: a sample of examples/)")
    parser.add_argument(
        "--out", type=Path, default=Path("build/profile"), help="folder of the traces"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="default: one per physical core")
    parser.add_argument("--runs", type=at_least_one, default=10, help="of each graph")
    parser.add_argument("--top", type=at_least_one, default=8, help="operators shown of each graph")
    return parser
