"""`python -m bench peers`: our token loop beside the same VAB in torch, and beside FoleyGen.

Random weights, one clip, in turn in one process: at the size of the paper on a GPU, at that of the
shipped model on a processor. Nothing is timed before every peer computes what it should.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import vab_rt
from bench.machine import commit, machine, versions
from bench.peers import parity
from bench.peers.autoregressive import Autoregressive
from bench.peers.devices import PRECISIONS, Device, find_device
from bench.peers.figures import Peer, console, print_ceilings, print_figures, summarise
from bench.peers.foleygen import FoleyGen
from bench.peers.parallel import Parallel
from bench.peers.torch_backbone import around_torch, random_vab
from bench.roofline import GUIDED, Work, autoregressive_work, backbone_work
from bench.torch_loop import PAUSE_S, TorchModel, export
from training.model import VAB
from training.recipes import Recipe, read_recipe
from vab_rt.config import ModelConfig, TokenOptions
from vab_rt.pipeline import Pipeline

SIZES = {"full": "vab-encodec", "small": "default"}  # names of recipes
BUSY = 0.3  # load average above which other work takes a share of the cores
OPTIONS = TokenOptions(seed=1)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    facts = {"machine": machine(), "versions": versions(), "commit": commit()}
    for fact in facts.values():
        console.print(str(fact))
    device = find_device(options.precision)
    if device.kind == "cpu":
        console.print("no GPU: every peer runs on the processor")
    size = options.size or ("full" if device.kind == "cuda" else "small")
    figures = measure(device, size, options.repeats, options.device or device.kind)
    if facts["machine"]["load_average"] > BUSY:
        console.print("the machine is busy: do not compare these figures")
    if options.json:
        print(json.dumps(figures | facts))


def measure(device: Device, size: str, repeats: int, ours_on: str) -> dict[str, Any]:
    """Ceilings, parity, then time."""
    recipe = recipe_of_size(size)
    vab, pipeline = build(recipe, device, ours_on)
    roofline, work = device.roofline(), work_of(recipe.model, device.number_bytes)
    print_ceilings(f"{device.name}, {device.precision}", roofline, work)
    sides = Sides(device, vab, pipeline)
    errors = check(sides)
    peers = sides.peers(work)
    figures = summarise(peers, time_in_turn(device, peers, repeats), roofline)
    print_figures(figures)
    facts = {"device": device.name, "precision": device.precision, "size": size}
    facts["ours"] = pipeline.device
    figures |= {"parity": errors, "graph_breaks": num_graph_breaks()}
    return facts | figures | {"model": msgspec.to_builtins(recipe.model)}


def recipe_of_size(size: str) -> Recipe:
    """The recipe whose sizes all peers share; as in the paper, it sees one frame a second."""
    recipe = read_recipe(SIZES[size])
    model = msgspec.structs.replace(recipe.model, visual_rate_hz=1.0)
    return msgspec.structs.replace(recipe, model=model)


def build(recipe: Recipe, device: Device, ours_on: str) -> tuple[VAB, Pipeline]:
    """The same random weights in torch, and exported for the runtime; ours_on "torch" exports
    nothing (`torch_backbone`)."""
    if ours_on == "torch":
        vab = random_vab(recipe.model).to(device.kind, device.dtype)
        return vab, around_torch(vab)
    model = TorchModel(recipe.model, recipe.codec)
    precision = "fp32" if device.precision == "fp32" else f"fp32,{device.precision}"
    with tempfile.TemporaryDirectory() as folder:
        return model.vab, vab_rt.load(export(model, Path(folder), precision), ours_on)


def work_of(config: ModelConfig, number_bytes: int) -> dict[str, Work]:
    """What each way asks of the machine for one clip."""
    guided_step = backbone_work(config, GUIDED, number_bytes)
    return {
        "parallel": guided_step.times(OPTIONS.steps),
        "autoregressive": autoregressive_work(config, 1, number_bytes),
    }


class Sides:
    """Our pipeline, and both models in torch, plain and compiled, on the features of one clip."""

    def __init__(self, device: Device, vab: VAB, pipeline: Pipeline) -> None:
        self.device, self.pipeline, c = device, pipeline, pipeline.config
        torch.manual_seed(0)
        foleygen = FoleyGen(c).eval().to(device.kind, device.dtype)
        vab = vab.to(device.kind, device.dtype)
        features = torch.randn(1, c.num_frames, c.visual_dim)
        self.features = torch.nn.functional.normalize(features, dim=-1)
        self.parallel = {
            "eager": Parallel(vab, OPTIONS),
            "compiled": Parallel(vab, OPTIONS, compile_step),
        }
        self.autoregressive = {
            "eager": Autoregressive(foleygen, OPTIONS),
            "compiled": Autoregressive(foleygen, OPTIONS, compile_step),
        }

    def ours(self, seed: int, options: TokenOptions = OPTIONS) -> parity.Steps:
        """Tokens [1, K, T] after each step that the runtime shows, on the host; a GPU shows one."""
        c = self.pipeline.config
        masked = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
        seeds = np.array([seed], np.uint64)
        steps = self.pipeline.system.decode_tokens(self.features.numpy(), masked, seeds, options)
        return [tokens for _, tokens in steps]

    def peers(self, work: dict[str, Work]) -> dict[str, Peer]:
        """Each from features on the host to tokens on the host."""

        def in_torch(way: Parallel | Autoregressive) -> Callable[[int], Tensor]:
            return lambda seed: way.tokens(self.features, seed).cpu()

        parallel, autoregressive = work["parallel"], work["autoregressive"]
        p, a = self.parallel, self.autoregressive
        return {
            "ours": Peer(f"vab-rt on {self.pipeline.device}", parallel, self.ours),
            "eager": Peer("the same VAB, torch", parallel, in_torch(p["eager"])),
            "compiled": Peer("the same VAB, torch.compile", parallel, in_torch(p["compiled"])),
            "autoregressive_eager": Peer("FoleyGen, torch", autoregressive, in_torch(a["eager"])),
            "autoregressive_compiled": Peer(
                "FoleyGen, torch.compile", autoregressive, in_torch(a["compiled"])
            ),
        }


def compile_step(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As torch is fastest at one shape: fused, and on a GPU in CUDA graphs."""
    return torch.compile(step, mode="reduce-overhead", dynamic=False)


def num_graph_breaks() -> int:
    """Places where torch.compile fell back to Python; a fair peer has none."""
    return sum(counters["graph_break"].values())


def check(sides: Sides) -> dict[str, float]:
    """Differences of every peer from its reference. Exits where one is too large."""
    limits, features = parity.TOLERANCES[sides.device.precision], sides.features
    parallel, (eager, compiled) = sides.parallel["eager"], sides.autoregressive.values()
    columns = torch.stack(list(eager.columns(features, OPTIONS.seed)), 2)  # [1, K, T + K]
    backbone = sides.pipeline.system.engines["backbone"]
    logits = {
        "backbone": parity.logits_error(parallel, features, backbone),
        "cache": parity.cached_error(eager, features, columns),
        "static_cache": parity.cached_error(compiled, features, columns),
    }
    tokens = {
        "steps": parity.share_unequal_steps(parallel, features, sides.ours),
        "columns": parity.share_unequal_columns(compiled, features, OPTIONS.seed, columns),
    }
    for name, error in logits.items():
        parity.require(f"logits ({name})", error, limits.logits)
    for name, share in tokens.items():
        parity.require(f"tokens ({name})", share, limits.tokens)
    found = logits | tokens
    console.print("parity: " + ", ".join(f"{name} {error:.1e}" for name, error in found.items()))
    return found


def time_in_turn(device: Device, peers: dict[str, Peer], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every peer, alternately; the first turn compiles and warms up."""
    times: dict[str, list[float]] = {name: [] for name in peers}
    for seed in range(repeats + 1):
        for name, peer in peers.items():
            time.sleep(PAUSE_S)
            elapsed_ms = device.elapsed_ms(lambda peer=peer, seed=seed: peer.run(seed))
            if seed > 0:
                times[name].append(elapsed_ms)
    return times


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench peers", description=__doc__)
    parser.add_argument("--size", choices=SIZES, help="default: full on a GPU, small without one")
    parser.add_argument("--precision", choices=PRECISIONS, help="on a GPU; default fp16")
    parser.add_argument(
        "--device",
        help="of our side (default: cuda on a GPU, or else cpu); torch: our loop around torch's "
        "backbone, where there is no onnxruntime for GPUs",
    )
    parser.add_argument("--repeats", type=int, default=5, help="clips timed of each peer")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    return parser
