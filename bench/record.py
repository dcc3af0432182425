"""`python -m bench record`: every figure that this machine can give, within so many minutes.

Each part is a process of its own, which leaves those after it some time. One that fails or takes
too long costs its own figures and no others. What each prints lies in the folder as it comes, and
`record.json` there is whole after every part, so that nothing is lost where the run is cut short.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bench.options import at_least_one, parser_of
from bench.report import console, print_facts
from bench.runs import make_folder
from vab_rt.engines.gpu import FoundGpu, find_driver
from vab_rt.engines.tensorrt import runs_rtx
from vab_rt.errors import BackendError

ROOT = Path(__file__).parent.parent
KERNEL_TESTS = ("tests/gpu/test_sampling_cuda.py", "tests/gpu/test_device_loop_cuda.py")
LAST_LINES = 5  # of a part, beside its figures
GRACE_S = 5.0  # for a part that is told to stop


class Part(NamedTuple):
    """A command of this checkout, `python -m WORDS`; reserve_s is kept for it, however long those
    before it take."""

    name: str
    words: tuple[str, ...]
    reserve_s: float


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    facts = print_facts()
    make_folder(options.out)
    record: dict[str, Any] = {"parts": {}} | facts
    chosen = parts(first_gpu(), has_cuda_provider())
    for name, found in run_parts(chosen, options.out, 60.0 * options.minutes):
        record["parts"][name] = found
        (options.out / "record.json").write_text(json.dumps(record, indent=1))
        last = found["last_lines"][-1:] if found["figures"] is None else []
        line = f"{name}: {found['outcome']}, {found['seconds']:.0f} s"
        console.print(line, *last, markup=False, soft_wrap=True)
    console.print(f"record: {options.out}", markup=False, soft_wrap=True)
    if options.json:
        print(json.dumps(record))


def parts(gpu: FoundGpu | None, has_provider: bool) -> list[Part]:
    """What a machine can measure, the surest and most useful first.

    has_provider: whether onnxruntime runs on the GPU; without, our loop goes around torch's
    backbone. Without a GPU the commands say so themselves, and measure on the CPU.
    """
    around_torch = gpu is not None and not has_provider
    on = ("--device", "torch") if around_torch else ()
    clips = ("--batches", "1,8,16") if around_torch else ()  # torch compiles for each
    peers = ("bench", "peers", "--json", *on)
    found = [
        Part("doctor", ("vab_rt", "doctor"), 10),
        Part("tests", ("pytest", "-q", "--noconftest", *KERNEL_TESTS), 60),
        Part("peers", peers, 240),
        Part("gpu", ("bench", "gpu", "--json", *on, *clips), 120),
        Part("sampling", ("bench", "sampling", "--json", "--runs", "30"), 60),
        Part("installed", ("bench", "installed", "--json"), 5),
        Part("peers_bf16", (*peers, "--precision", "bf16"), 0),
    ]
    if find_spec("av"):  # it reads a video
        found.append(Part("profile", ("bench", "profile", "--json"), 0))
    found += [
        Part(f"gpu_{device}", ("bench", "gpu", "--json", "--device", device), 0)
        for device in compilers_for(gpu)
    ]
    return [part for part in found if gpu or part.name not in ("tests", "peers_bf16")]


def compilers_for(gpu: FoundGpu | None) -> list[str]:
    """The TensorRTs that are installed here and run on that GPU."""
    if gpu is None:
        return []
    found = ["tensorrt"] if find_spec("tensorrt") else []
    has_rtx = runs_rtx(tuple(map(int, gpu.capability.split("."))))
    return [*found, "tensorrt-rtx"] if has_rtx and find_spec("tensorrt_rtx") else found


def first_gpu() -> FoundGpu | None:
    driver = find_driver()
    return driver.gpus[0] if driver and driver.gpus else None


def has_cuda_provider() -> bool:
    try:
        from vab_rt.engines import sessions
    except BackendError:  # onnxruntime is missing
        return False
    return sessions.has_cuda_provider()


def run_parts(
    chosen: list[Part], folder: Path, seconds: float
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and outcome of each part, in turn, until the seconds are over."""
    end = time.monotonic() + seconds
    for index, part in enumerate(chosen):
        reserved = sum(each.reserve_s for each in chosen[index + 1 :])
        limit_s = max(part.reserve_s, end - time.monotonic() - reserved)
        limit_s = min(limit_s, end - time.monotonic())
        yield part.name, run_part(part, folder / f"{part.name}.log", limit_s)


def run_part(part: Part, log: Path, limit_s: float) -> dict[str, Any]:
    """How a part ended, its figures where its last line is JSON, and what it printed last."""
    begin = time.monotonic()
    outcome = run_logged(part.words, log, limit_s) if limit_s > 0 else "not started: no time left"
    lines = log.read_text(errors="replace").splitlines() if limit_s > 0 else []
    figures = figures_of(lines) if outcome == "done" else None
    return {
        "command": "python -m " + " ".join(part.words),
        "outcome": outcome,
        "seconds": round(time.monotonic() - begin, 1),
        "figures": figures,
        "last_lines": (lines if figures is None else lines[:-1])[-LAST_LINES:],
    }


def run_logged(words: tuple[str, ...], log: Path, limit_s: float) -> str:
    """Runs a module to its end or that of its time, and says which it was."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "160"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, env=environment, stdout=file,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"out of time after {limit_s:.0f} s"
        finally:
            stop(process)
    return "done" if status == 0 else f"failed, exit {status}"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a part and what it has started and left, such as the workers of torch's compiler."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):  # nothing is left of it
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def figures_of(lines: list[str]) -> dict[str, Any] | None:
    """The JSON object in the last line, if it is one."""
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("record", __doc__)
    parser.add_argument("--minutes", type=at_least_one, default=30, help="for all (default: 30)")
    parser.add_argument("--out", type=Path, default=Path("build/record"), help="folder of the logs")
    return parser
