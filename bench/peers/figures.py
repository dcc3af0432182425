"""What `bench peers` prints: every peer's ceilings, and then its time beside them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.report import console, print_table, summarise
from bench.roofline import Roofline, Work


@dataclass(frozen=True)
class Peer:
    """One way to the tokens of a clip: what it is, what it asks of the machine, and itself."""

    what: str
    work: Work
    run: Callable[[int], object]
    """seed -> one clip's tokens, on the host"""


def figures_of(
    peers: dict[str, Peer], times_ms: dict[str, list[float]], roofline: Roofline
) -> dict[str, Any]:
    """Medians beside their ceilings, and how many times ours each of the others takes: None of
    those that were left out."""
    times = summarise(times_ms)
    ceilings = {name: roofline.least_ms(peers[name].work) for name in times}
    ours_ms = times["ours"].median
    over = {name: round(each.median / ours_ms, 2) for name, each in times.items()}
    return {
        "loop_ms": round(ours_ms, 3),
        "ceiling_ms": round(ceilings["ours"], 3),
        "parallel_over_autoregressive_eager": over.get("autoregressive_eager"),
        "parallel_over_autoregressive_compiled": over.get("autoregressive_compiled"),
        "over_eager": over.get("eager"),
        "over_compiled": over.get("compiled"),
        "peers": {
            name: {
                "what": peers[name].what,
                "ms": round(each.median, 3),
                "worst_ms": round(each.worst, 3),
                "ceiling_ms": round(ceilings[name], 3),
                "share_of_ceiling": round(ceilings[name] / each.median, 3),
                "gflop": round(peers[name].work.flops / 1e9, 1),
                "gb": round(peers[name].work.size_bytes / 1e9, 3),
            }
            for name, each in times.items()
        },
        "roofline": vars(roofline),
    }


def print_ceilings(what: str, roofline: Roofline, work: dict[str, Work]) -> None:
    """Both ceilings of each: of its arithmetic, and of its memory traffic; the larger counts."""
    console.print(
        f"ceiling of {what}: {roofline.flops_per_s / 1e12:.3g} TFLOP/s in a matrix product, "
        f"{roofline.bytes_per_s / 1e9:.3g} GB/s in a copy"
    )
    rows = []
    for name, w in work.items():
        arithmetic_ms, memory_ms = (
            roofline.least_ms(Work(w.flops, 0)),
            roofline.least_ms(Work(0, w.size_bytes)),
        )
        each_ms = (f"{ms:.3f}" for ms in (arithmetic_ms, memory_ms, roofline.least_ms(w)))
        rows.append((name, f"{w.flops / 1e9:.1f}", f"{w.size_bytes / 1e9:.3f}", *each_ms))
    print_table(("", "GFLOP", "GB", "arithmetic, ms", "memory, ms", "ceiling, ms"), rows)


def print_peers(figures: dict[str, Any]) -> None:
    rows = [
        (
            name,
            p["what"],
            f"{p['ms']:.1f}",
            f"{p['share_of_ceiling']:.0%}",
            f"{p['ms'] / figures['loop_ms']:.2f}",
        )
        for name, p in figures["peers"].items()
    ]
    print_table(("peer", "what", "ms", "share of its ceiling", "times ours"), rows)
