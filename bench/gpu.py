"""`python -m bench gpu`: each stage on a GPU beside its ceiling, the whole, and 1 to 16 clips.

Random weights at the size of the paper. Where there is no GPU it says so, prints what each stage
asks of one, and measures the same at the size of the shipped model on the CPU.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from bench.models import read_model
from bench.options import at_least_one, parser_of
from bench.peers import parity
from bench.peers.comparison import OURS_ON, build
from bench.peers.devices import PRECISIONS, Device, find_device
from bench.peers.figures import print_ceilings
from bench.peers.parallel import Parallel
from bench.report import Call, console, in_turn, print_facts, summarise
from bench.roofline import GUIDED, Roofline, Work, backbone_work
from training.model import VAB
from vab_rt.engines.device_loop import MAX_CLIPS, DeviceEngines
from vab_rt.errors import BackendError, OptionError
from vab_rt.options import TokenOptions
from vab_rt.seeing import as_frames
from vab_rt.systems.vab import Vab

OPTIONS = TokenOptions(seed=1)
NO_GPU = "not measured: no GPU"


class Plan(NamedTuple):
    """What is measured, and how often; by default that of the device's kind."""

    recipe: str
    repeats: int
    batches: tuple[int, ...]


PLANS = {
    "cuda": Plan("vab-encodec", 20, (1, 2, 4, 8, 16)),
    "cpu": Plan("default", 3, (1, 2)),  # where a batch is one clip after the other
}


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    facts = print_facts()
    device = find_device(options.precision)
    plan = Plan(*(a or b for a, b in zip(_asked(options), PLANS[device.kind], strict=True)))
    ours_on = options.device or device.kind
    if ours_on == "torch" and device.kind == "cpu":
        raise OptionError("--device torch needs a GPU that torch finds; leave it out here")
    figures: dict[str, Any] = {"gpu_reason": None}
    if device.kind == "cpu":
        asked = work_of_stages(PLANS["cuda"].recipe, options.precision, ours_on)
        print_work(PLANS["cuda"].recipe, options.precision, asked)
        console.print(f"{NO_GPU}; what follows is {plan.recipe} on the CPU")
        figures = {"gpu_reason": NO_GPU, "gpu_work": as_json(asked)}
    work = work_of_stages(plan.recipe, device.precision, ours_on)
    vab, system = build(plan.recipe, read_model(plan.recipe), device, ours_on)
    figures |= {"model": plan.recipe, "precision": device.precision, "work": as_json(work)}
    figures |= measure_stages(device, vab, system, work, plan)
    if options.json:
        print(json.dumps(figures | facts))


def measure_stages(
    device: Device, vab: VAB, system: Vab, work: dict[str, Work], plan: Plan
) -> dict[str, Any]:
    """Ceilings, parity, then time; each figure is printed as it comes."""
    roofline = device.roofline()
    print_ceilings(f"{device.name}, {device.precision}", roofline, work)
    found = {"device": device.name, "backend": system.engines.device}
    found["backbone_error"] = check(device, vab, system)
    for name, value in timed(device, system, work, roofline, plan):
        console.print(f"{name:>24}  {value}", markup=False)
        found[name] = value
    return found | {"roofline": vars(roofline)}


def timed(
    device: Device, system: Vab, work: dict[str, Work], roofline: Roofline, plan: Plan
) -> Iterator[tuple[str, Any]]:
    """Every figure by name, from the host to the host."""
    stages = {}
    for name, call in stage_calls(system).items():
        ms = median_ms(device, call, plan.repeats)
        stages[name] = compared(ms, roofline.least_ms(work[name]))
        yield name, stages[name]
    loop = stages["token_loop"]
    yield "loop_ms", loop["ms"]
    yield "ceiling_ms", loop["ceiling_ms"]
    yield "loop_over_ceiling", round(loop["ms"] / loop["ceiling_ms"], 2)
    yield "host_us_per_step", host_us_per_step(system)
    whole_ms = None
    frames, _, masked = inputs(system, 1)
    if len(stages) > 1:
        whole_ms = median_ms(device, lambda: generate(system, frames, masked), plan.repeats)
    yield "frames_to_waveform_ms", whole_ms and round(whole_ms, 3)
    yield "beside_the_loop_ms", whole_ms and round(whole_ms - loop["ms"], 3)
    yield "stages", stages
    yield "batches", dict(batches(device, system, work["token_loop"], roofline, plan))


def check(device: Device, vab: VAB, system: Vab) -> float:
    """The relative error of the backbone's logits against torch's in the same precision. Raises
    Differs."""
    way = Parallel(vab.to(device.kind, device.dtype), OPTIONS)
    _, features, _ = inputs(system, 1)
    error = parity.logits_error(way, torch.from_numpy(features), system.engines["backbone"])
    parity.require("logits (backbone)", error, parity.TOLERANCES[device.precision].logits)
    console.print(f"parity: logits are within {error:.1e} of PyTorch's")
    return error


def inputs(
    system: Vab, clips: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Frames of one clip [F, size, size, 3]; features [B, F, visual_dim] and tokens [B, K, T]."""
    c, random = system.config, np.random.default_rng(0)
    frames = random.integers(256, size=(c.num_frames, c.image_size, c.image_size, 3))
    features = random.standard_normal((clips, c.num_frames, c.visual_dim), np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    tokens = np.full((clips, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
    return frames.astype(np.uint8), features, tokens


def stage_calls(system: Vab) -> dict[str, Call]:
    """One clip through each stage alone, of those that the system has."""
    frames, features, masked = inputs(system, 1)
    tokens = decode(system, features, masked)
    calls: dict[str, Call] = {
        "visual_encoder": lambda: see(system, frames),
        "token_loop": lambda: decode(system, features, masked),
        "codec_decoder": lambda: system.render(tokens),
    }
    return {n: c for n, c in calls.items() if n == "token_loop" or n in system.engines.graphs}


def see(system: Vab, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Features [1, F, visual_dim] of one clip."""
    return np.stack(list(system.see(as_frames(frames))))[None]


def decode(
    system: Vab, features: npt.NDArray[np.float32], tokens: npt.NDArray[np.int32]
) -> npt.NDArray[np.int32]:
    """Finished tokens [B, K, T]; clip b has the seed b."""
    seeds = np.arange(len(tokens), dtype=np.uint64)
    *_, (_, finished) = system.decode_tokens(features, tokens, seeds, OPTIONS)
    return finished


def generate(
    system: Vab, frames: npt.NDArray[np.uint8], tokens: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Sound [1, S] of one clip's frames, through all three stages."""
    return system.render(decode(system, see(system, frames), tokens))


def batches(
    device: Device, system: Vab, loop: Work, roofline: Roofline, plan: Plan
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Throughput of the token loop, and the share of a clip's tokens that it has alone, too.

    What does not fit in memory ends it: it is named, and so is why.
    """
    _, features, masked = inputs(system, max(plan.batches))
    alone = decode(system, features[:1], masked[:1])
    for clips in plan.batches:
        some = features[:clips], masked[:clips]
        try:
            equal = float((decode(system, *some)[0] == alone[0]).mean())
            loop_ms = median_ms(device, lambda some=some: decode(system, *some), plan.repeats)
        except BackendError as error:
            yield str(clips), {"failed": str(error)}
            return
        arithmetic_ms = 1e3 * clips * roofline.seconds(loop.flops)
        found = {
            "ms": round(loop_ms, 3),
            "clips_per_s": round(1e3 * clips / loop_ms, 2),
            "share_of_matmul_ceiling": round(arithmetic_ms / loop_ms, 3),
            "equal_tokens": equal,
        }
        console.print(f"{f'{clips} clips':>24}  {found}", markup=False)
        yield str(clips), found


def host_us_per_step(system: Vab) -> float | None:
    """What launching a step of the last clip cost the host; None where no GPU decodes."""
    if not isinstance(system.engines, DeviceEngines):
        return None
    loop = system.engines.loop_for("backbone", 1, system.config.branches(OPTIONS.guidance))
    return round(1e6 * loop.launching_s / OPTIONS.steps, 2)


def median_ms(device: Device, call: Call, repeats: int) -> float:
    """The first call warms up."""
    times = in_turn({"call": call}, repeats, device.elapsed_ms, warm_ups=1)
    return summarise(times)["call"].median


def compared(ms: float, ceiling_ms: float) -> dict[str, float]:
    return {
        "ms": round(ms, 3),
        "ceiling_ms": round(ceiling_ms, 3),
        "share_of_ceiling": round(ceiling_ms / ms, 3),
    }


def work_of_stages(recipe: str, precision: str, ours_on: str) -> dict[str, Work]:
    """The work of one clip, by stage; around torch's backbone there is the loop alone."""
    number_bytes = PRECISIONS[precision].itemsize
    if ours_on == "torch":
        step = backbone_work(read_model(recipe), GUIDED, number_bytes)
        return {"token_loop": step.times(OPTIONS.steps)}
    from bench.stages import stage_work  # takes the libraries of the codec and the image encoder
    from training.configs import read_recipe

    return stage_work(read_recipe(recipe), number_bytes, OPTIONS.steps)


def print_work(model: str, precision: str, work: dict[str, Work]) -> None:
    for name, each in work.items():
        console.print(
            f"{model}, {precision}: {name} is {each.flops / 1e9:.1f} GFLOP and at least "
            f"{each.size_bytes / 1e6:.1f} MB of memory traffic a clip"
        )


def as_json(work: dict[str, Work]) -> dict[str, dict[str, float]]:
    return {name: {"flops": w.flops, "size_bytes": w.size_bytes} for name, w in work.items()}


def _asked(options: argparse.Namespace) -> tuple[str | None, int | None, tuple[int, ...] | None]:
    return options.recipe, options.repeats, options.batches


def _batches(text: str) -> tuple[int, ...]:
    sizes = tuple(map(at_least_one, text.split(",")))
    if max(sizes) > MAX_CLIPS:
        raise argparse.ArgumentTypeError(f"{text!r}, expected at most {MAX_CLIPS} clips at a time")
    return sizes


def _parser() -> argparse.ArgumentParser:
    gpu, cpu = PLANS["cuda"], PLANS["cpu"]
    parser = parser_of("gpu", __doc__)
    parser.add_argument(
        "--recipe", help=f"whose model it is (default: {gpu.recipe}; without a GPU {cpu.recipe})"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp16", help="on a GPU")
    parser.add_argument(
        "--device",
        choices=OURS_ON,
        help="of the runtime (default: cuda; without a GPU cpu); torch: the loop around torch's "
        "backbone, where there is no onnxruntime for GPUs",
    )
    parser.add_argument(
        "--repeats",
        type=at_least_one,
        help=f"runs of each stage (default: {gpu.repeats}; without a GPU {cpu.repeats})",
    )
    parser.add_argument(
        "--batches",
        type=_batches,
        help="clips at a time, such as 1,8,16 (default: on a GPU 1,2,4,8,16)",
    )
    return parser
