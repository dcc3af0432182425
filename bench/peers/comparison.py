"""`python -m bench peers`: our token loop beside the same VAB in torch, and beside FoleyGen.

Random weights, one clip, in turn in one process: at the size of the paper on a GPU, at that of the
shipped model on a CPU. Nothing is timed before every peer computes what it should.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

import vab_rt
from bench.models import read_model
from bench.options import at_least_one, parser_of
from bench.peers.contenders import (
    Contenders,
    check,
    check_compiled,
    num_graph_breaks,
    num_skipped_graphs,
)
from bench.peers.devices import PRECISIONS, Device, find_device
from bench.peers.figures import Peer, figures_of, print_ceilings, print_peers
from bench.report import PAUSE_S, console, print_facts
from bench.roofline import GUIDED, Work, autoregressive_work, backbone_work
from training.model import VAB
from vab_rt.config import ModelConfig
from vab_rt.engines import DEVICES
from vab_rt.errors import OptionError
from vab_rt.options import TokenOptions
from vab_rt.systems.vab import Vab

SIZES = {"full": "vab-encodec", "small": "default"}  # names of recipes
OURS_ON = (*DEVICES, "torch")
OPTIONS = TokenOptions(seed=1)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    facts = print_facts()
    device = find_device(options.precision)
    if options.device == "torch" and device.kind == "cpu":
        raise OptionError("--device torch needs a GPU that torch finds; leave it out here")
    if device.kind == "cpu":
        console.print("no GPU: every peer runs on the CPU")
    size = options.size or ("full" if device.kind == "cuda" else "small")
    figures = compare_peers(device, size, options.repeats, options.device or device.kind)
    if options.json:
        print(json.dumps(figures | facts))


def compare_peers(device: Device, size: str, repeats: int, ours_on: str) -> dict[str, Any]:
    """Ceilings, parity, then time."""
    config = model_of_size(size)
    vab, system = build(SIZES[size], config, device, ours_on)
    roofline, work = device.roofline(), work_of(config, device.number_bytes)
    print_ceilings(f"{device.name}, {device.precision}", roofline, work)
    contenders = Contenders(device, vab, system, OPTIONS)
    errors, columns = check(contenders)
    # What need not be compiled is shown before minutes are spent on what must be.
    warm_up(
        contenders, {n: p for n, p in contenders.peers(work).items() if not n.endswith("compiled")}
    )
    errors |= check_compiled(contenders, columns)
    warm_up(contenders, {n: p for n, p in contenders.peers(work).items() if n.endswith("compiled")})
    peers = contenders.peers(work)
    figures = figures_of(peers, time_in_turn(contenders, peers, repeats), roofline)
    print_peers(figures)
    facts = {"device": device.name, "precision": device.precision, "size": size}
    facts |= {"ours": system.engines.device, "steps": OPTIONS.steps}
    figures |= {"parity": errors, "failed": contenders.failed}
    figures |= {"graph_breaks": num_graph_breaks(), "skipped_graphs": None}
    if device.kind == "cuda":
        figures["skipped_graphs"] = num_skipped_graphs()
    return facts | figures | {"model": msgspec.to_builtins(config)}


def model_of_size(size: str) -> ModelConfig:
    """Whose sizes all peers share; as in the paper, it sees one frame a second."""
    return msgspec.structs.replace(read_model(SIZES[size]), visual_rate_hz=1.0)


def build(recipe: str, config: ModelConfig, device: Device, ours_on: str) -> tuple[VAB, Vab]:
    """The same random weights in torch, and as the runtime's system, with the codec of a recipe.

    ours_on "torch" exports nothing, and has no codec (`torch_backbone`). What the exporter and the
    video reader take is imported only where they are used.
    """
    if ours_on == "torch":
        from bench.peers.torch_backbone import around_torch, random_vab

        vab = random_vab(config).to(device.kind, device.dtype)
        return vab, around_torch(vab)
    check_installed(ours_on)
    from bench.torch_loop import TorchModel, export
    from training.configs import read_recipe

    model = TorchModel(config, read_recipe(recipe).codec)
    precision = "fp32" if device.precision == "fp32" else f"fp32,{device.precision}"
    with tempfile.TemporaryDirectory() as folder:
        pipeline = vab_rt.load(export(model, Path(folder), precision), ours_on)
    assert isinstance(pipeline.system, Vab), pipeline.system
    return model.vab, pipeline.system


def check_installed(device: str) -> None:
    """Raises BackendError for a device whose library is missing: exporting takes minutes."""
    if device == "cuda":
        from vab_rt.engines.cuda import check_provider

        check_provider()
    if device in ("tensorrt", "tensorrt-rtx"):
        from vab_rt.engines.tensorrt import import_api

        import_api(device)


def work_of(config: ModelConfig, number_bytes: int) -> dict[str, Work]:
    """What each way asks of the machine for one clip."""
    guided_step = backbone_work(config, GUIDED, number_bytes)
    return {
        "parallel": guided_step.times(OPTIONS.steps),
        "autoregressive": autoregressive_work(config, 1, number_bytes),
    }


def warm_up(contenders: Contenders, peers: dict[str, Peer]) -> None:
    """One clip of each, shown as it comes; one that fails is left out from then on."""
    for name, peer in peers.items():
        ms = elapsed_ms(contenders, name, peer, 0)
        if ms is not None:
            console.print(f"warm-up: {name} {ms:.1f} ms")


def time_in_turn(
    contenders: Contenders, peers: dict[str, Peer], repeats: int
) -> dict[str, list[float]]:
    """Milliseconds of every peer, alternately.

    Each turn is printed, so that a run that is cut short has shown what it measured.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(1, repeats + 1):
        for name in list(times):
            ms = elapsed_ms(contenders, name, peers[name], turn)
            if ms is None:
                del times[name]
            else:
                times[name].append(ms)
        last = ", ".join(f"{name} {each[-1]:.1f} ms" for name, each in times.items())
        console.print(f"turn {turn}: {last}")
    return times


def elapsed_ms(contenders: Contenders, name: str, peer: Peer, seed: int) -> float | None:
    """Milliseconds of one clip; None where the peer fails."""
    time.sleep(PAUSE_S)
    return contenders.attempt(name, lambda: contenders.device.elapsed_ms(lambda: peer.run(seed)))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("peers", __doc__)
    parser.add_argument(
        "--size", choices=[*SIZES], help="default: full on a GPU, small without one"
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="on a GPU; default fp16")
    parser.add_argument(
        "--device",
        choices=OURS_ON,
        help="of our side (default: cuda on a GPU, or else cpu); torch: our loop around torch's "
        "backbone, where there is no onnxruntime for GPUs",
    )
    parser.add_argument("--repeats", type=at_least_one, default=5, help="clips timed of each peer")
    return parser
