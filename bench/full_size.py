"""`python -m bench full_size`: the paper's vab-encodec, random weights, from checkpoint to a step.

It is written, exported by the command, loaded by the runtime, compared with torch, and timed
against the arithmetic that a guided step needs; its TensorRT-RTX engines are built, which takes no
GPU. Takes minutes, 14 GB of memory and as much disk.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.generate import console, print_facts
from bench.machine import commit, machine, versions
from bench.roofline import backbone_flops, measure_roofline
from bench.runs import run
from bench.torch_loop import PAUSE_S, TorchModel
from export.verify import fixed_inputs, relative_error, run_torch
from training.model import VAB
from training.recipes import read_recipe
from vab_rt.bundle import Bundle, open_bundle
from vab_rt.contract import contract_of
from vab_rt.engines import Engine
from vab_rt.engines.compiled import compile_bundle
from vab_rt.engines.cpu import SessionEngine, num_physical_cores
from vab_rt.engines.tensorrt_rtx import import_library
from vab_rt.errors import BackendError

RECIPE = "vab-encodec"
MAX_RELATIVE_ERROR = 1e-3


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench full_size", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="guided steps timed on each side")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    options = parser.parse_args(arguments)
    facts = {"machine": machine(), "versions": versions(), "commit": commit()}
    print_facts(facts)
    figures = measure(options.repeats)
    if options.json:
        print(json.dumps(figures | facts))


def measure(repeats: int) -> dict[str, Any]:
    """Ceiling, parity, then time. Exits where logits differ from torch's."""
    config = read_recipe(RECIPE).model
    roofline, flops = measure_roofline(), backbone_flops(config, batch=2)
    least_s = roofline.seconds(flops)
    console.print(
        f"ceiling: {roofline.flops_per_s / 1e9:.0f} GFLOP/s in a matrix product; a guided step of "
        f"{config.name} is {flops / 1e9:.0f} GFLOP, at least {least_s:.2f} s"
    )
    with tempfile.TemporaryDirectory() as folder:
        vab, bundle, figures = export_random_model(Path(folder))
        figures["engines"] = build_engines(bundle, Path(folder, "engines"))
        begin = time.perf_counter()
        backbone = open_backbone(bundle)
        figures["load_s"] = round(time.perf_counter() - begin, 2)
    inputs = fixed_inputs("backbone", config, batch=2)
    error = relative_error(run_torch(vab, inputs), backbone(**inputs))
    if not error <= MAX_RELATIVE_ERROR:
        sys.exit(f"not timed: logits differ by {error:.1e}, expected {MAX_RELATIVE_ERROR:g}")
    console.print(f"parity: logits are within {error:.1e} of PyTorch's")
    sides = {"torch": lambda: run_torch(vab, inputs), "ours": lambda: backbone(**inputs)}
    for name, step_s in in_turn(sides, repeats).items():
        figures[f"{name}_step_s"] = round(step_s, 3)
        console.print(
            f"{name}: {step_s:.2f} s a guided step, {least_s / step_s:.0%} of the ceiling"
        )
    return figures | {"relative_error": error, "ceiling_step_s": round(least_s, 3)}


def export_random_model(folder: Path) -> tuple[VAB, Bundle, dict[str, Any]]:
    """The model in torch, its bundle, and what exporting took."""
    recipe = read_recipe(RECIPE)
    model = TorchModel(recipe.model, recipe.codec)
    checkpoint, out = model.save(folder / "ckpt.pt"), folder / "bundle"
    vab = model.vab
    del model  # the exporter needs the memory
    exported = run([sys.executable, "-m", "export.build_engines", checkpoint, "--out", out])
    bundle = open_bundle(out)
    sizes = {name: entry.size_bytes for name, entry in bundle.manifest.files.items()}
    figures = {"export_s": round(exported.wall_s, 1), "export_peak_mb": round(exported.peak_mb)}
    provenance = bundle.manifest.provenance.items()
    verified = {name: text for name, text in provenance if name.startswith("verified_")}
    console.print(f"exported: {figures}, {sizes}, {verified}")
    return vab, bundle, figures | {"size_bytes": sizes, "verified": verified}


def build_engines(bundle: Bundle, folder: Path) -> dict[str, dict[str, float]] | None:
    """Seconds and bytes of every TensorRT-RTX engine; None where the library is not installed."""
    try:
        library = import_library()
    except BackendError as error:
        console.print(f"engines: {error}")
        return None
    built = {}
    for name, compiled in compile_bundle(bundle, library, folder):
        built[name] = {
            "build_s": round(compiled.build_s or 0, 1),
            "size_bytes": len(compiled.engine),
        }
        console.print(f"{library.version} engine of {name}: {built[name]}")
    return built


def open_backbone(bundle: Bundle) -> Engine:
    """The runtime's own engine, without the other graphs: with them it would take 4 GB more."""
    contract = contract_of(bundle.config)["backbone"]
    graph = bundle.read_graph("backbone")
    return SessionEngine("backbone", graph, contract, num_physical_cores(), str(bundle.folder))


def in_turn(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median seconds of each side, run alternately."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, call in sides.items():
            time.sleep(PAUSE_S)
            begin = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}
