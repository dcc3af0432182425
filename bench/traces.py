"""Chrome traces: those of our own calls, and what onnxruntime writes of a graph's."""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
KERNEL = "_kernel_time"  # how onnxruntime ends the name of what a node computes


class Share(NamedTuple):
    """What one kind of operator takes of a graph, per run."""

    op: str
    count: int
    ms: float
    share: float


@dataclass
class Trace:
    """Events of this process, in the format of chrome://tracing and ui.perfetto.dev."""

    begin_s: float = field(default_factory=time.perf_counter)
    events: list[dict[str, Any]] = field(default_factory=list)

    def timed(self, name: str, call: Callable[P, T]) -> Callable[P, T]:
        """`call`, with an event for each time that it runs."""

        def traced(*args: P.args, **kwargs: P.kwargs) -> T:
            begin_s = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.add(name, begin_s, time.perf_counter())

        return traced

    def add(self, name: str, begin_s: float, end_s: float, row: int = 0) -> None:
        since, lasts = begin_s - self.begin_s, end_s - begin_s
        place = {"pid": 0, "tid": row, "ts": 1e6 * since, "dur": 1e6 * lasts}  # microseconds
        self.events.append({"name": name, "cat": "stage", "ph": "X"} | place)

    def seconds_of(self, name: str) -> float:
        return sum(event["dur"] for event in self.events if event["name"] == name) / 1e6

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps({"traceEvents": self.events, "displayTimeUnit": "ms"}))
        return path


def shares_of_graph(path: Path, warm_ups: int) -> tuple[float, list[Share]]:
    """Milliseconds of a run of the graph whose trace onnxruntime wrote, and what they are spent
    on, largest first; "between operators" is the rest.

    The first `warm_ups` runs do not count.
    """
    events = json.loads(path.read_text())
    runs = [event for event in events if event["name"] == "model_run"]
    runs = sorted(runs, key=lambda event: event["ts"])[warm_ups:]
    assert runs, f"{path} has {len(runs)} runs after {warm_ups} warm-ups, expected some"
    run_ms = sum(run["dur"] for run in runs) / 1e3 / len(runs)
    spent: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for event in events:
        if event["name"].endswith(KERNEL) and event["ts"] >= runs[0]["ts"]:
            op = event["args"]["op_name"]
            spent[op] += event["dur"] / 1e3 / len(runs)
            counts[op] += 1
    between_ms = max(0.0, run_ms - sum(spent.values()))
    shares = [Share(op, counts[op] // len(runs), ms, ms / run_ms) for op, ms in spent.items()]
    shares.append(Share("between operators", 0, between_ms, between_ms / run_ms))
    return run_ms, sorted(shares, key=lambda share: -share.ms)
