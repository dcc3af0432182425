"""What every bench does alike: say where it runs, time calls in turn, and print tables."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.machine import commit, machine, versions

BUSY = 0.3  # load average above which other work takes a share of the cores
PAUSE_S = 0.3  # until the threads of the side that has just run no longer spin

Call = Callable[[], object]
console = Console(highlight=False)


class Times(NamedTuple):
    """Statistics of the runs of one call, in the unit of its clock."""

    best: float
    median: float
    worst: float


class Target(NamedTuple):
    """A figure, and the most that it may be, or the least."""

    figure: str
    what: str
    limit: float
    is_least: bool = False

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.is_least else value <= self.limit


def facts() -> dict[str, Any]:
    """What figures depend on, for the JSON object."""
    return {"machine": machine(), "versions": versions(), "commit": commit()}


def print_facts() -> dict[str, Any]:
    """`facts`, printed."""
    found = facts()
    for each in (found["machine"], found["versions"]):
        console.print(", ".join(f"{name} {value}" for name, value in each.items()), markup=False)
    console.print(f"commit {found['commit']}")
    if found["machine"]["load_average"] > BUSY:
        console.print("the machine is busy: do not compare these figures")
    return found


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(str, row))
    console.print(table)


def print_figures(figures: Mapping[str, object]) -> None:
    print_table(("figure", "value"), figures.items())


def print_targets(
    targets: Iterable[Target], figures: Mapping[str, Any], absent: str = "not measured"
) -> None:
    """Each figure beside its target. absent: said of a figure that there is not."""
    rows = []
    for target in targets:
        value, words = figures.get(target.figure), "at least" if target.is_least else "at most"
        met = absent if value is None else "yes" if target.is_met(value) else "NO"
        rows.append((target.what, value, f"{words} {target.limit:g}", met))
    print_table(("figure", "measured", "target", "met"), rows)


def elapsed_ms(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def in_turn(
    calls: Mapping[str, Call],
    repeats: int,
    clock: Callable[[Call], float] = elapsed_ms,
    warm_ups: int = 0,
    pause_s: float = 0.0,
) -> dict[str, list[float]]:
    """What the clock says of each call, run alternately; the first `warm_ups` turns not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_ups + repeats):
        for name, call in calls.items():
            if pause_s:
                time.sleep(pause_s)
            elapsed = clock(call)
            if turn >= warm_ups:
                times[name].append(elapsed)
    return times


def summarise(times: Mapping[str, Sequence[float]]) -> dict[str, Times]:
    return {name: Times(min(each), median(each), max(each)) for name, each in times.items()}
