"""`python -m bench pareto`: how good the sound is against the seconds that its tokens take.

Every setting of the decoding, clip by clip beside the first, as `training.evaluate decoding` has
it; the time that arithmetic alone would take; and the same tokens by PyTorch, eager and compiled,
and FoleyGen's loop, whose times are of one run in turn with ours (`bench peers`), as ratios of the
first setting. What was made of a clip is kept in --run: quality may be measured on a busy machine,
and time afterwards on an idle one.
"""

import argparse
import io
import json
import math
from pathlib import Path
from typing import Any

import msgspec

from bench.options import add_model, at_least_one, parser_of
from bench.peers.comparison import compare_peers
from bench.peers.devices import find_device
from bench.report import console, print_facts, print_table
from bench.roofline import Roofline, backbone_flops
from training import foleyworld
from training.evaluation.decoding import OVERALL, Compared, compare_settings
from training.evaluation.decoding_report import TITLES
from training.evaluation.decoding_settings import read_setting
from training.evaluation.evaluator import EvalConfig
from training.saving import write_whole
from vab_rt.bundle import open_bundle
from vab_rt.contract import VabManifest

SETTINGS = (
    "steps=16 guidance=1.5 temperature=0.6",
    "steps=8 guidance=1.5 temperature=0.6",
    "steps=16 guidance=1 temperature=0.2",
    "steps=8 guidance=1 temperature=0.2",
    "steps=4 guidance=1 temperature=0.2",
    "steps=4 guidance=1 temperature=0.2 precision=int8",
    "steps=2 guidance=1 temperature=0.2",
    "steps=1 guidance=1 temperature=0.2",
)
"""The first is the reference."""
PEERS = {
    "over_eager": "PyTorch, eager",
    "over_compiled": "PyTorch, compiled",
    "parallel_over_autoregressive_eager": "FoleyGen's loop, eager",
}
"""Figures of `bench peers`, and what they are called here."""
OF_OTHER_TOKENS = "FoleyGen"
SHOWN = ("onset_f1_100ms", "class_agreement", OVERALL)


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    facts = print_facts()
    config = EvalConfig(bundle=options.model)
    seeds = foleyworld.clip_seeds("validation", 0, options.clips)
    compared = compare_settings(config, options.settings, seeds, options.run, options.workers)
    device = find_device()
    peers = compare_peers(device, "small", options.repeats, "cpu")
    least_s = ceilings(compared, config, device.roofline())
    others_s = peer_seconds(compared[0].seconds, peers)
    figures = {"clips": len(seeds), "settings": msgspec.to_builtins(compared)}
    figures |= {"ceiling_s": least_s, "peers_s": others_s}
    print_all(compared, least_s, others_s)
    if options.plot is not None:
        write_whole(options.plot, picture(compared, least_s, others_s, steps_of(compared, config)))
        console.print(f"plot: {options.plot}")
    if options.json:
        print(json.dumps(figures | facts))


def ceilings(compared: list[Compared], config: EvalConfig, roofline: Roofline) -> dict[str, float]:
    """The seconds of each setting's matrix products alone, by its name; of float32 alone."""
    pass_s = roofline.seconds(backbone_flops(open_bundle(config.bundle).config, batch=1))
    in_float32 = [c for c in compared if "precision=int8" not in c.setting]
    return {c.setting: round(c.passes * pass_s, 4) for c in in_float32}


def peer_seconds(reference_s: float, peers: dict[str, Any]) -> dict[str, float]:
    """Seconds of the tokens of the first setting, by what made them; one that failed is left
    out."""
    ratios = {what: peers.get(name) for name, what in PEERS.items()}
    return {what: round(x * reference_s, 3) for what, x in ratios.items() if x is not None}


def print_all(
    compared: list[Compared], least_s: dict[str, float], others_s: dict[str, float]
) -> None:
    columns = ("setting", "passes", "tokens, s", "ceiling, s", *(title(name) for name in SHOWN))
    rows: list[tuple[object, ...]] = []
    for c in compared:
        mean, low, high = c.gains[OVERALL]
        measured = [f"{c.means.get(name, math.nan):.2f}" for name in SHOWN[:-1]]
        overall = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
        least = f"{least_s[c.setting]:.2f}" if c.setting in least_s else ""
        times = f"{c.seconds:.2f}", least
        rows.append((c.setting, c.passes, *times, *measured, overall))
    rows += [(what, "", f"{seconds:.2f}") for what, seconds in others_s.items()]
    print_table(columns, [(*row, *[""] * (len(columns) - len(row))) for row in rows])


def title(name: str) -> str:
    return TITLES.get(name, "gain over the first, all measures").removesuffix(", %")


def picture(
    compared: list[Compared],
    least_s: dict[str, float],
    others_s: dict[str, float],
    steps: dict[str, int],
) -> bytes:
    """PNG: each of SHOWN against seconds, on a logarithmic axis."""
    from matplotlib.figure import Figure  # no pyplot: it looks for a display

    figure = Figure(figsize=(4.6 * len(SHOWN), 4.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        for c in compared:
            y, low, high = point(c, name)
            if c.setting in least_s:
                axes.plot([least_s[c.setting], c.seconds], [y, y], color="grey", linewidth=0.8)
                axes.plot(least_s[c.setting], y, "|", color="grey")
            axes.plot([c.seconds] * 2, [low, high], color="C0", alpha=0.4)
            axes.plot(c.seconds, y, "o" if c.passes == steps[c.setting] else "s", color="C0")
            label = f"{steps[c.setting]}{'' if c.setting in least_s else ' int8'}"
            above = 4 if c.setting in least_s else -12  # those in int8 lie beside the same in fp32
            axes.annotate(label, (c.seconds, y), xytext=(4, above), textcoords="offset points")
        for number, (what, seconds) in enumerate(others_s.items(), start=1):
            if what.startswith(OF_OTHER_TOKENS):
                axes.axvline(seconds, color=f"C{number}", linestyle=":", label=what)
            else:
                y = point(compared[0], name)[0]
                axes.plot(seconds, y, "D", color=f"C{number}", label=what)
        axes.set(title=title(name), xlabel="tokens of a 10-s clip, s", xscale="log")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle(
        "Steps of ours (circles; squares: guided), each with the seconds of its arithmetic alone",
        fontsize="medium",
    )
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def point(c: Compared, name: str) -> tuple[float, float, float]:
    """The mean of a measure, and the interval of its difference from the first around it."""
    mean, low, high = c.gains.get(name, (0.0, 0.0, 0.0))
    if name == OVERALL:
        return mean, low, high
    value = c.means.get(name, math.nan)
    return value, value + low - mean, value + high - mean


def steps_of(compared: list[Compared], config: EvalConfig) -> dict[str, int]:
    """Of each setting, by its name; what it leaves out is the model's own."""
    manifest = open_bundle(config.bundle).manifest
    assert isinstance(manifest, VabManifest), manifest.kind
    return {c.setting: len(read_setting(c.setting, manifest.defaults).guidance) for c in compared}


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("pareto", __doc__)
    add_model(parser)
    parser.add_argument("--clips", type=at_least_one, default=200, help="of FoleyWorld, held out")
    parser.add_argument(
        "--settings", nargs="+", default=SETTINGS, help="the first is compared with"
    )
    parser.add_argument("--run", type=Path, default=Path("runs/pareto"), help="what is kept")
    parser.add_argument("--workers", type=at_least_one, default=1)
    parser.add_argument("--repeats", type=at_least_one, default=3, help="turns of the peers")
    parser.add_argument("--plot", type=Path, help="a PNG")
    return parser
