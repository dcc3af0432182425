"""`python -m bench v2a_mapper`: seconds a clip takes in each stage of a V2A-Mapper, on CPUs.

Every graph runs in turn with the torch module that it was exported from, on the same inputs, as
often as a clip takes it; a graph that differs is not timed. Without --checkpoint it is the recipe's
networks with random weights, which for v2a-mapper-audioldm takes 5 GB of memory and some minutes.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from bench.options import parser_of
from bench.report import PAUSE_S, console, in_turn, print_facts, print_table, summarise
from bench.roofline import Roofline, measure_roofline
from bench.runs import run
from bench.torch_loop import flops_of
from export.tolerances import TOLERANCES
from export.v2a_mapper.graphs import v2a_inputs, v2a_module
from export.verify import relative_error, run_torch
from training.v2a_mapper.checkpoint import (
    V2ACheckpoint,
    V2AHeader,
    read_v2a_checkpoint,
    write_v2a_checkpoint,
)
from training.v2a_mapper.config import V2ARecipe, read_v2a_recipe
from training.v2a_mapper.mapper import build_mapper
from training.v2a_mapper.parts import PictureEncoder, build_unet, build_vae, build_vocoder
from vab_rt.bundle import open_bundle
from vab_rt.engines import Engine
from vab_rt.engines.sessions import SessionEngine
from vab_rt.errors import OptionError
from vab_rt.options import GenerateOptions, Tuning, fill_in
from vab_rt.threads import num_physical_cores
from vab_rt.v2a_mapper.config import LatentOptions, V2AConfig
from vab_rt.v2a_mapper.contract import v2a_contract_of
from vab_rt.v2a_mapper.diffusion import cosine_alphas, embedding_levels

GUIDED = 2  # branches of classifier-free guidance


@dataclass(frozen=True)
class Stage:
    """What a stage of one clip takes. calls: of the graph, each with so many rows. ceiling_s: the
    least for the arithmetic of its matrix products and convolutions."""

    calls: int
    rows: int
    ours_s: float
    torch_s: float
    ceiling_s: float
    relative_error: float


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    if args.repeats < 1:
        raise OptionError(f"repeats is {args.repeats}, expected at least 1")
    recipe = None if args.checkpoint else read_v2a_recipe(args.config)
    if recipe is None:
        header = read_v2a_checkpoint(args.checkpoint).header
        config, own = header.config, header.options
    else:
        config, own = recipe.model, recipe.options
    chosen = chosen_options(config, own, args.steps)  # mistakes are reported first
    facts = print_facts()
    with tempfile.TemporaryDirectory() as folder:
        path = args.checkpoint or Path(folder, "ckpt.pt")
        if recipe is not None:
            write_random(path, recipe)
        out = Path(folder, "bundle")
        exported = run([sys.executable, "-m", "export.build_engines", path, "--out", out])
        console.print(f"exported in {exported.wall_s:.0f} s, {exported.peak_mb:.0f} MB at most")
        figures = measure_graphs(
            read_v2a_checkpoint(path), _engines(out, config), chosen, args.repeats
        )
    if args.json:
        print(json.dumps(figures | {"export_s": round(exported.wall_s, 1)} | facts))


def chosen_options(config: V2AConfig, own: Tuning, steps: int | None) -> LatentOptions:
    """own: what the model recommends. Raises OptionError for steps that it has no noise for."""
    recommended = fill_in(own, LatentOptions(), config.name)
    chosen = fill_in(GenerateOptions(steps=steps), recommended, config.name)
    if chosen.steps >= config.timesteps:
        raise OptionError(f"steps is {chosen.steps}, expected 1 to {config.timesteps - 1}")
    return chosen


def measure_graphs(
    checkpoint: V2ACheckpoint,
    engines: Iterator[tuple[str, Engine]],
    options: LatentOptions,
    repeats: int,
) -> dict[str, Any]:
    """Parity, ceiling and time, a graph at a time: all at once would take twice the memory."""
    roofline = measure_roofline()
    stages = {}
    for name, engine in engines:
        stages[name] = measure_stage(name, checkpoint, engine, options, repeats, roofline)
    print_stages(checkpoint.config, options, stages)
    return {
        "model": checkpoint.config.name,
        "steps": options.steps,
        "stages": {name: asdict(stage) for name, stage in stages.items()},
        "clip_s": {
            side: sum(getattr(stage, f"{side}_s") for stage in stages.values())
            for side in ("ours", "torch", "ceiling")
        },
    }


def measure_stage(
    name: str,
    checkpoint: V2ACheckpoint,
    engine: Engine,
    options: LatentOptions,
    repeats: int,
    roofline: Roofline,
) -> Stage:
    config = checkpoint.config
    calls, rows = calls_of_clip(config, options)[name]
    module = v2a_module(name, checkpoint, "fp32")
    inputs = v2a_inputs(v2a_contract_of(config)[name], config, rows)
    error = relative_error(run_torch(module, inputs), engine(**inputs))
    if not error <= TOLERANCES[name].relative:
        sys.exit(f"not timed: {name} differs from torch by {error:.1e} of its largest value")
    with torch.no_grad():
        flops = flops_of(module, *(torch.from_numpy(x) for x in inputs.values()))
    sides = {"ours": lambda: engine(**inputs), "torch": lambda: run_torch(module, inputs)}
    times_ms = summarise(in_turn(sides, repeats, pause_s=PAUSE_S))
    seconds = {side: each.median / 1e3 for side, each in times_ms.items()}
    return Stage(
        calls=calls,
        rows=rows,
        ours_s=round(calls * seconds["ours"], 4),
        torch_s=round(calls * seconds["torch"], 4),
        ceiling_s=round(calls * roofline.seconds(flops), 4),
        relative_error=error,
    )


def calls_of_clip(config: V2AConfig, options: LatentOptions) -> Mapping[str, tuple[int, int]]:
    """How often a clip calls each graph, and with how many rows."""
    alphas = cosine_alphas(config.mapper_timesteps)
    levels = embedding_levels(alphas, config.mapper_steps, config.mapper_eta)
    prior = (len(levels), 1 if config.mapper_guidance == 1 else GUIDED)
    return {
        "visual_encoder": (1, config.num_frames),
        "mapper": prior if config.mapper == "prior" else (1, 1),
        "unet": (options.steps, 1 if options.guidance == 1 else GUIDED),
        "vae_decoder": (1, 1),
        "vocoder": (1, 1),
    }


def write_random(path: Path, recipe: V2ARecipe) -> None:
    """A checkpoint of the recipe's networks, untrained."""
    config, networks = recipe.model, recipe.networks
    torch.manual_seed(0)
    modules = {
        "image_encoder": PictureEncoder(config),
        "mapper": build_mapper(config, networks.mapper),
        "unet": build_unet(networks.unet),
        "vae": build_vae(networks.vae),
        "vocoder": build_vocoder(networks.vocoder),
    }
    header = V2AHeader(
        config=config,
        networks=networks,
        options=recipe.options,
        provenance={"data": "none, random weights"},
        license=recipe.license,
    )
    null = F.normalize(torch.randn(config.audio_dim), dim=0)
    there = {name: module for name, module in modules.items() if module is not None}
    write_v2a_checkpoint(path, header, there, null)


def _engines(folder: Path, config: V2AConfig) -> Iterator[tuple[str, Engine]]:
    """The runtime's own, one in memory at a time."""
    bundle = open_bundle(folder)
    for name, contract in v2a_contract_of(config).items():
        graph = bundle.read_graph(name)
        yield name, SessionEngine(name, graph, contract, num_physical_cores(), str(folder))


def print_stages(config: V2AConfig, options: LatentOptions, stages: dict[str, Stage]) -> None:
    console.print(
        f"{config.name}: a clip of {config.clip_s:g} s, {options.steps} steps, guidance "
        f"{options.guidance:g}"
    )
    rows: list[tuple[object, ...]] = []
    for name, s in stages.items():
        share = f"{s.ceiling_s / s.ours_s:.0%}" if s.ours_s else ""
        seconds = (f"{x:.3f}" for x in (s.ours_s, s.torch_s, s.ceiling_s))
        rows.append((name, s.calls, s.rows, *seconds, share, f"{s.relative_error:.1e}"))
    keys = ("ours_s", "torch_s", "ceiling_s")
    sums = (f"{sum(getattr(s, key) for s in stages.values()):.3f}" for key in keys)
    columns = ("stage", "calls", "rows", "ours s", "torch s", "ceiling s", "share", "parity")
    print_table(columns, [*rows, ("a clip", "", "", *sums, "", "")])


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("v2a_mapper", __doc__)
    parser.add_argument("--config", default="v2a-mapper-audioldm", help="a recipe")
    parser.add_argument("--checkpoint", type=Path, help="trained weights, instead of random ones")
    parser.add_argument("--steps", type=int, help="of the latents (default: the model's own)")
    parser.add_argument("--repeats", type=int, default=3, help="runs timed on each side")
    return parser
