"""`python -m bench gpu`: each stage on a GPU beside its ceiling, the whole, and 1 to 16 clips.

Random weights at the size of the paper. Where there is no GPU it says so, and prints what each
stage asks of one.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.machine import commit, machine, versions
from bench.peers import parity
from bench.peers.comparison import build
from bench.peers.devices import PRECISIONS, Device, find_device
from bench.peers.figures import console, print_ceilings
from bench.peers.parallel import Parallel
from bench.roofline import Roofline, Work
from bench.stages import stage_work
from training.model import VAB
from training.recipes import read_recipe
from vab_rt.config import TokenOptions
from vab_rt.engines.device_engines import DeviceEngines
from vab_rt.pipeline import Pipeline

RECIPE = "vab-encodec"
BATCHES = (1, 2, 4, 8, 16)
OPTIONS = TokenOptions(seed=1)
NO_GPU = "not measured: no GPU"

Call = Callable[[], object]


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    facts = {"machine": machine(), "versions": versions(), "commit": commit()}
    for fact in facts.values():
        console.print(str(fact))
    recipe = read_recipe(options.recipe)
    work = stage_work(recipe, PRECISIONS[options.precision].itemsize, OPTIONS.steps)
    asked = {name: {"flops": w.flops, "size_bytes": w.size_bytes} for name, w in work.items()}
    figures: dict[str, Any] = {"model": recipe.model.name, "precision": options.precision}
    device = find_device(options.precision)
    if device.kind == "cuda":
        vab, pipeline = build(recipe, device, options.device)
        figures |= measure(device, vab, pipeline, work, options.repeats)
    else:
        print_work(recipe.model.name, options.precision, work)
        console.print(NO_GPU)
        figures |= {"device": None, "gpu_reason": NO_GPU}
    if options.json:
        print(json.dumps(figures | {"work": asked} | facts))


def measure(
    device: Device, vab: VAB, pipeline: Pipeline, work: dict[str, Work], repeats: int
) -> dict[str, Any]:
    """Ceilings, parity, then time; everything from the host to the host."""
    roofline = device.roofline()
    print_ceilings(f"{device.name}, {device.precision}", roofline, work)
    error = check(device, vab, pipeline)
    stages = {
        name: compared(median_ms(device, call, repeats), roofline.least_ms(work[name]))
        for name, call in stage_calls(pipeline).items()
    }
    whole_ms = median_ms(device, lambda: generate(pipeline, *inputs(pipeline, 1)), repeats)
    loop_ms = stages["token_loop"]["ms"]
    figures = {
        "device": device.name,
        "backend": pipeline.device,
        "backbone_error": error,
        "loop_ms": loop_ms,
        "ceiling_ms": stages["token_loop"]["ceiling_ms"],
        "loop_over_ceiling": round(loop_ms / stages["token_loop"]["ceiling_ms"], 2),
        "frames_to_waveform_ms": round(whole_ms, 3),
        "beside_the_loop_ms": round(whole_ms - loop_ms, 3),
        "host_us_per_step": host_us_per_step(pipeline),
        "stages": stages,
        "batches": dict(batches(device, pipeline, work["token_loop"], roofline, repeats)),
        "roofline": vars(roofline),
    }
    for name, value in figures.items():
        console.print(f"{name:>24}  {value}")
    return figures


def check(device: Device, vab: VAB, pipeline: Pipeline) -> float:
    """Of the backbone's logits against torch's in the same precision; exits where too large."""
    way = Parallel(vab.to(device.kind, device.dtype), OPTIONS)
    _, features, _ = inputs(pipeline, 1)
    error = parity.logits_error(
        way, torch.from_numpy(features), pipeline.system.engines["backbone"]
    )
    parity.require("logits (backbone)", error, parity.TOLERANCES[device.precision].logits)
    console.print(f"parity: logits are within {error:.1e} of PyTorch's")
    return error


def inputs(
    pipeline: Pipeline, clips: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Frames of one clip [F, size, size, 3]; features [B, F, visual_dim] and tokens [B, K, T]."""
    c, random = pipeline.config, np.random.default_rng(0)
    frames = random.integers(256, size=(c.num_frames, c.image_size, c.image_size, 3))
    features = random.standard_normal((clips, c.num_frames, c.visual_dim), np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    tokens = np.full((clips, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    return frames.astype(np.uint8), features, tokens


def stage_calls(pipeline: Pipeline) -> dict[str, Call]:
    """One clip through each stage alone."""
    frames, features, masked = inputs(pipeline, 1)
    tokens = decode(pipeline, features, masked)
    return {
        "visual_encoder": lambda: pipeline.system.visual_encoder(frames=frames),
        "token_loop": lambda: decode(pipeline, features, masked),
        "codec_decoder": lambda: pipeline.render(tokens),
    }


def decode(
    pipeline: Pipeline, features: npt.NDArray[np.float32], tokens: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Finished tokens [B, K, T]; clip b has the seed b."""
    seeds = np.arange(len(tokens), dtype=np.uint64)
    *_, (_, finished) = pipeline.system.decode_tokens(features, tokens, seeds, OPTIONS)
    return finished


def generate(
    pipeline: Pipeline,
    frames: npt.NDArray[np.uint8],
    features: npt.NDArray[np.float32],
    tokens: npt.NDArray[np.int32],
) -> npt.NDArray[np.float32]:
    """Sound [1, S] of one clip's frames, through all three stages."""
    seen = pipeline.system.visual_encoder(frames=frames).reshape(features.shape)
    return pipeline.render(decode(pipeline, seen, tokens))


def batches(
    device: Device, pipeline: Pipeline, loop: Work, roofline: Roofline, repeats: int
) -> Iterator[tuple[str, dict[str, float]]]:
    """Throughput of the token loop, and the share of a clip's tokens that it has alone, too."""
    _, features, masked = inputs(pipeline, max(BATCHES))
    alone = decode(pipeline, features[:1], masked[:1])
    for clips in BATCHES:
        some = features[:clips], masked[:clips]
        equal = float((decode(pipeline, *some)[0] == alone[0]).mean())
        loop_ms = median_ms(device, lambda some=some: decode(pipeline, *some), repeats)
        arithmetic_ms = 1e3 * clips * roofline.seconds(loop.flops)
        yield (
            str(clips),
            {
                "ms": round(loop_ms, 3),
                "clips_per_s": round(1e3 * clips / loop_ms, 2),
                "share_of_matmul_ceiling": round(arithmetic_ms / loop_ms, 3),
                "equal_tokens": equal,
            },
        )


def host_us_per_step(pipeline: Pipeline) -> float | None:
    """What launching a step of the last clip cost the host; None where no GPU decodes."""
    engines = pipeline.system.engines
    if not isinstance(engines, DeviceEngines):
        return None
    return round(1e6 * engines.loop_for("backbone", 1, True).launching_s / OPTIONS.steps, 2)


def median_ms(device: Device, call: Call, repeats: int) -> float:
    """The first call warms up."""
    call()
    return statistics.median(device.elapsed_ms(call) for _ in range(repeats))


def compared(ms: float, ceiling_ms: float) -> dict[str, float]:
    return {
        "ms": round(ms, 3),
        "ceiling_ms": round(ceiling_ms, 3),
        "share_of_ceiling": round(ceiling_ms / ms, 3),
    }


def print_work(model: str, precision: str, work: dict[str, Work]) -> None:
    for name, each in work.items():
        console.print(
            f"{model}, {precision}: {name} is {each.flops / 1e9:.1f} GFLOP and at least "
            f"{each.size_bytes / 1e6:.1f} MB of memory traffic a clip"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument("--recipe", default=RECIPE, help="whose model it is; random weights")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16")
    parser.add_argument("--device", default="cuda", help="of the runtime: cuda, tensorrt, ...")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each stage")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    return parser
