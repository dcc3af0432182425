"""What `bench peers` prints: every peer's ceilings, and then its time beside them."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.roofline import Roofline, Work

console = Console(highlight=False)


@dataclass(frozen=True)
class Peer:
    """One way to the tokens of a clip: what it is, what it asks of the machine, and itself."""

    what: str
    work: Work
    run: Callable[[int], object]
    """seed -> one clip's tokens, on the host"""


def summarise(
    peers: dict[str, Peer], times_ms: dict[str, list[float]], roofline: Roofline
) -> dict[str, Any]:
    """Medians beside their ceilings, and how many times ours each of the others takes: None of
    those that were left out."""
    medians = {name: statistics.median(each) for name, each in times_ms.items()}
    ceilings = {name: roofline.least_ms(peers[name].work) for name in medians}
    over = {name: round(ms / medians["ours"], 2) for name, ms in medians.items()}
    return {
        "loop_ms": round(medians["ours"], 3),
        "ceiling_ms": round(ceilings["ours"], 3),
        "parallel_over_autoregressive_eager": over.get("autoregressive_eager"),
        "parallel_over_autoregressive_compiled": over.get("autoregressive_compiled"),
        "over_eager": over.get("eager"),
        "over_compiled": over.get("compiled"),
        "peers": {
            name: {
                "what": peers[name].what,
                "ms": round(ms, 3),
                "worst_ms": round(max(times_ms[name]), 3),
                "ceiling_ms": round(ceilings[name], 3),
                "share_of_ceiling": round(ceilings[name] / ms, 3),
                "gflop": round(peers[name].work.flops / 1e9, 1),
                "gb": round(peers[name].work.size_bytes / 1e9, 3),
            }
            for name, ms in medians.items()
        },
        "roofline": vars(roofline),
    }


def print_ceilings(what: str, roofline: Roofline, work: dict[str, Work]) -> None:
    """Both ceilings of each: of its arithmetic, and of its memory traffic; the larger counts."""
    console.print(
        f"ceiling of {what}: {roofline.flops_per_s / 1e12:.3g} TFLOP/s in a matrix product, "
        f"{roofline.bytes_per_s / 1e9:.3g} GB/s in a copy"
    )
    table = Table("", "GFLOP", "GB", "arithmetic, ms", "memory, ms", "ceiling, ms")
    for name, each in work.items():
        table.add_row(
            name,
            f"{each.flops / 1e9:.1f}",
            f"{each.size_bytes / 1e9:.3f}",
            f"{1e3 * roofline.seconds(each.flops):.3f}",
            f"{1e3 * roofline.seconds(0, each.size_bytes):.3f}",
            f"{roofline.least_ms(each):.3f}",
        )
    console.print(table)


def print_figures(figures: dict[str, Any]) -> None:
    table = Table("peer", "what", "ms", "share of its ceiling", "times ours")
    for name, peer in figures["peers"].items():
        times = f"{peer['ms'] / figures['loop_ms']:.2f}"
        share = f"{peer['share_of_ceiling']:.0%}"
        table.add_row(name, peer["what"], f"{peer['ms']:.1f}", share, times)
    console.print(table)
