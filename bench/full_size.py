"""`python -m bench full_size`: the paper's systems, random weights, from checkpoint to a step.

A system is written, exported by the command, loaded by the runtime, compared with torch, and timed
against the arithmetic that a guided step needs; its TensorRT-RTX engines are built, which takes no
GPU. Takes minutes, 14 GB of memory and as much disk.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.options import at_least_one, parser_of
from bench.report import PAUSE_S, console, in_turn, print_facts, summarise
from bench.roofline import Roofline, backbone_flops, measure_roofline
from bench.runs import run
from bench.torch_loop import TorchModel
from export.tolerances import TOLERANCES
from export.verify import fixed_inputs, relative_error, run_torch
from training.codecs.codec import load_codebooks
from training.configs import read_recipe
from training.model import VAB
from vab_rt.bundle import Bundle, open_bundle
from vab_rt.contract import BACKBONES
from vab_rt.engines.device_loop import gpu_precision
from vab_rt.engines.sessions import open_graph
from vab_rt.engines.tensorrt import compile_graph, tensorrt_rtx
from vab_rt.errors import BackendError

SYSTEMS = {"vab-encodec": ("vab-encodec",), "vab-dac": ("vab-dac", "vab-dac-coarse2fine")}
"""Recipes of a system's models: one, or a coarse and a fine one."""


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("full_size", __doc__)
    parser.add_argument("--system", choices=SYSTEMS, default="vab-encodec")
    parser.add_argument(
        "--repeats", type=at_least_one, default=3, help="guided steps timed on each side"
    )
    parser.add_argument("--no-engines", action="store_true", help="without TensorRT-RTX's")
    options = parser.parse_args(arguments)
    facts = print_facts()
    engines = () if options.no_engines else None
    figures = measure_system(options.repeats, options.system, engines)
    if options.json:
        print(json.dumps(figures | facts))


def measure_system(
    repeats: int, system: str = "vab-encodec", engines: tuple[str, ...] | None = None
) -> dict[str, Any]:
    """Ceiling, parity, then time, one backbone after the other; the fine one's under its name.

    engines: graphs that TensorRT-RTX builds; None is all. Exits where logits differ from torch's.
    """
    roofline = measure_roofline()
    console.print(f"ceiling: {roofline.flops_per_s / 1e9:.0f} GFLOP/s in a matrix product")
    with tempfile.TemporaryDirectory() as folder:
        vabs, bundle, figures = export_random_models(Path(folder), SYSTEMS[system])
        names = tuple(bundle.needed_graphs) if engines is None else engines
        figures["engines"] = build_engines(bundle, names, Path(folder, "engines"))
        steps = {
            name: measure_step(name, vab, bundle, roofline, repeats) for name, vab in vabs.items()
        }
    if "fine_backbone" in steps:
        defaults, (coarse, fine) = bundle.manifest.defaults, steps.values()
        both_s = defaults.steps * coarse["ours_step_s"] + defaults.fine_steps * fine["ours_step_s"]
        console.print(f"{defaults.steps} + {defaults.fine_steps} steps: {both_s:.0f} s a clip")
        figures["steps_of_a_clip_s"] = round(both_s, 1)
    return figures | steps.pop("backbone") | steps


def measure_step(
    name: str, vab: VAB, bundle: Bundle, roofline: Roofline, repeats: int
) -> dict[str, float]:
    """A guided step of one of the bundle's backbones, against torch's and the least it can take.
    Without repeats it is compared and not timed."""
    config, flops = vab.config, backbone_flops(vab.config, batch=2)
    least_s = roofline.seconds(flops)
    console.print(
        f"a guided step of {config.name} is {flops / 1e9:.0f} GFLOP, at least {least_s:.2f} s"
    )
    begin = time.perf_counter()
    backbone = open_graph(bundle, name)  # with the others it would take 4 GB more
    figures = {"load_s": round(time.perf_counter() - begin, 2)}
    inputs, module = fixed_inputs(name, config, batch=2), of_contract(name, vab)
    error = relative_error(run_torch(module, inputs), backbone(**inputs))
    limit = TOLERANCES[name].relative
    if not error <= limit:
        sys.exit(f"not timed: logits differ by {error:.1e}, expected at most {limit:g}")
    console.print(f"parity: logits are within {error:.1e} of PyTorch's")
    sides = {"torch": lambda: run_torch(module, inputs), "ours": lambda: backbone(**inputs)}
    times = in_turn(sides, repeats, pause_s=PAUSE_S) if repeats else {}
    for side, times_ms in summarise(times).items():
        step_s = times_ms.median / 1e3
        figures[f"{side}_step_s"] = round(step_s, 3)
        console.print(
            f"{side}: {step_s:.2f} s a guided step, {least_s / step_s:.0%} of the ceiling"
        )
    return figures | {"relative_error": error, "ceiling_step_s": round(least_s, 3)}


def of_contract(name: str, vab: VAB) -> Callable[..., Tensor]:
    """The model with the inputs of its graph, in their order."""
    if name == "backbone":
        return vab
    return lambda coarse, tokens, *rest: vab(torch.cat([coarse, tokens], 1), *rest)


def export_random_models(
    folder: Path, recipes: tuple[str, ...]
) -> tuple[dict[str, VAB], Bundle, dict[str, Any]]:
    """The models in torch by graph, their bundle, and what exporting took."""
    models = random_models(recipes)
    paths = [model.save(folder / f"{model.config.name}.pt") for model in models]
    vabs = dict(zip(BACKBONES, [model.vab for model in models], strict=False))
    models.clear()  # the exporter needs the memory
    out, (first, *fine) = folder / "bundle", paths
    pair = ["--fine", *fine] if fine else []
    exported = run([sys.executable, "-m", "export.build_engines", first, *pair, "--out", out])
    bundle = open_bundle(out)
    sizes = {name: entry.size_bytes for name, entry in bundle.manifest.files.items()}
    figures = {"export_s": round(exported.wall_s, 1), "export_peak_mb": round(exported.peak_mb)}
    provenance = bundle.manifest.provenance.items()
    verified = {name: text for name, text in provenance if name.startswith("verified_")}
    console.print(f"exported: {figures}, {sizes}, {verified}")
    return vabs, bundle, figures | {"size_bytes": sizes, "verified": verified}


def random_models(recipes: tuple[str, ...]) -> list[TorchModel]:
    """In the order of the recipes; all have the codec and the image encoder of the last."""
    *others, last = (read_recipe(name) for name in recipes)
    models = [TorchModel(last.model, last.codec)]
    for recipe in others:
        model = TorchModel(recipe.model, recipe.codec)
        load_codebooks(model.codec, models[-1].codec.state_dict())
        model.vab.use_codebooks(model.codec.codebooks)
        model.visual_encoder = models[-1].visual_encoder
        models.insert(-1, model)
    return models


def build_engines(
    bundle: Bundle, names: tuple[str, ...], folder: Path
) -> dict[str, dict[str, float]] | None:
    """Seconds and bytes of TensorRT-RTX engines; None where the library is not installed."""
    try:
        library = tensorrt_rtx()
    except BackendError as error:
        console.print(f"engines: {error}")
        return None
    built = {}
    for name in names:
        compiled = compile_graph(bundle, name, gpu_precision(bundle, name), library, folder)
        built[name] = {
            "build_s": round(compiled.build_s or 0, 1),
            "size_bytes": len(compiled.engine),
        }
        console.print(f"{library.version} engine of {name}: {built[name]}")
    return built
