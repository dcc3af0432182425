"""`python -m bench serve`: many clients of one server at once, each with a video of its own.

First one client alone, in turn with the same work in this process; then all of them.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

import vab_rt
from bench.generate import render_clip
from bench.options import add_model, at_least_one, parser_of
from bench.report import (
    PAUSE_S,
    Target,
    console,
    in_turn,
    print_facts,
    print_figures,
    print_targets,
)
from training.evaluation.measures import bootstrap
from vab_rt.pipeline import Pipeline

PATIENCE_S = 600


TARGETS = (
    Target("lost", "sounds that were asked for and never came", 0),
    Target("crossed", "sounds with other bytes than the same seed gives in this process", 0),
    Target("overhead", "of the server over this process, one client, share of the time", 0.05),
    Target("first_event_ms", "until the first event, all clients at once, median", 100),
    Target("memory_growth_mb", "memory of its processes, from half the time to the end", 50),
)


@dataclass
class Seen:
    """What clients saw."""

    num_made: int = 0
    num_lost: int = 0
    num_crossed: int = 0
    first_event_s: list[float] = field(default_factory=list)
    sound_s: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Client:
    """One connection to a server."""

    def __init__(self, address: str) -> None:
        host = address.removeprefix("http://")
        self._connection = http.client.HTTPConnection(host, timeout=PATIENCE_S)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        self._connection.request(method, path, body)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def sound(self, video: bytes, query: str) -> tuple[bytes | None, float]:
        """Its file, None where it failed; and seconds until its first event."""
        self._connection.close()  # a server ends those that were idle for some seconds
        status, told = self.ask("POST", f"/v1/sounds?{query}", video)
        if status != 202:
            return None, 0.0
        where = f"/v1/sounds/{json.loads(told)['id']}"
        begin = time.perf_counter()
        self._connection.request("GET", f"{where}/events")
        events = self._connection.getresponse()
        line = last = events.readline()
        first_s = time.perf_counter() - begin
        while line:
            last = line if line.startswith(b"event: ") else last
            line = events.readline()
        status, sound = self.ask("GET", f"{where}/content")
        self.ask("DELETE", where)
        return (sound if last == b"event: completed\n" and status == 200 else None), first_s


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    facts = print_facts()
    pipeline = vab_rt.load(options.model, "cpu", threads=options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = [make_video(folder / f"{i}.mp4", i) for i in range(options.clients)]
        sounds = [sound_of(pipeline, video, i, 4) for i, video in enumerate(videos)]
        words = ["--queue", options.clients, "--threads", options.threads or 0]
        with running(options.model, words if options.threads else words[:2]) as server:
            figures = measure_overhead(server, pipeline, folder, options.runs)
            figures |= measure_load(server, videos, sounds, options.seconds)
    print_figures(figures)
    print_targets(TARGETS, figures)
    if options.json:
        targets = {target.figure: target.limit for target in TARGETS}
        print(json.dumps(figures | {"clients": options.clients, "targets": targets} | facts))


def make_video(path: Path, number: int) -> Path:
    """Two seconds of a square that goes round, of another colour and pace for each number."""
    random = np.random.default_rng(number)
    colour, pace = random.integers(60, 255, 3), random.uniform(0.1, 0.5)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for at in range(50):
            image = np.zeros((96, 128, 3), np.uint8)
            y, x = 36 + 30 * np.sin(pace * at), 52 + 40 * np.cos(pace * at)
            image[int(y) : int(y) + 24, int(x) : int(x) + 24] = colour
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def sound_of(pipeline: Pipeline, video: Path, seed: int, steps: int | None = None) -> bytes:
    """The bytes of its file, made in this process."""
    out = video.with_suffix(".wav")
    pipeline.generate(video, seed=seed, steps=steps).save(out, force=True)
    return out.read_bytes()


class Server(NamedTuple):
    """With the processes that it has started."""

    address: str
    pid: int

    def memory_mb(self) -> float:
        """The memory of all of them now, what they share counted once."""
        return sum(_share_kb(pid) for pid in self._pids()) * 1024 / 1e6

    def cpu_s(self) -> float:
        """Seconds of the CPU so far, with those of processes that have ended."""
        ticks = sum(int(count) for pid in self._pids() for count in _stat(pid)[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def _pids(self) -> list[int]:
        found, parents = [self.pid], {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found


def _share_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Pss:"))
    return int(line.split()[1])


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


@contextmanager
def running(model: str | None, words: Sequence[object]) -> Iterator[Server]:
    """`vab-rt serve` as a process of its own."""
    command = [sys.executable, "-m", "vab_rt", "serve", "--port", 0, "--device", "cpu", *words]
    command += [] if model is None else ["--model", model]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None, "a pipe"
        line = process.stdout.readline()
        if not line:
            sys.exit("not measured: the server did not start")
        yield Server(line.split(": ")[0], process.pid)
    finally:
        process.terminate()
        process.wait()


def measure_overhead(
    server: Server, pipeline: Pipeline, folder: Path, num_runs: int
) -> dict[str, float]:
    """One client with a clip of FoleyWorld, in turn with the same in this process; by the clock,
    and by seconds of the CPU, which other work on the machine sways less."""
    clip = render_clip(folder / "clip")
    body, client = clip.read_bytes(), Client(server.address)
    if client.sound(body, "seed=1")[0] != sound_of(pipeline, clip, 1):
        sys.exit("not timed: the server's sound is not the one that this process makes")
    console.print("parity: the server's file has the bytes of this process's")
    cpu_s: dict[str, list[float]] = {"server_cpu_s": [], "in_process_cpu_s": []}

    def ask() -> None:
        before = server.cpu_s()
        client.sound(body, "seed=1")
        cpu_s["server_cpu_s"].append(server.cpu_s() - before)

    def make() -> None:
        before = time.process_time()
        sound_of(pipeline, clip, 1)
        cpu_s["in_process_cpu_s"].append(time.process_time() - before)

    times = in_turn({"server_s": ask, "in_process_s": make}, num_runs, warm_ups=1, pause_s=PAUSE_S)
    figures = {name: statistics.median(each) / 1e3 for name, each in times.items()}
    figures |= {name: statistics.median(each[1:]) for name, each in cpu_s.items()}
    figures |= overhead_of("overhead", times["server_s"], times["in_process_s"])
    figures |= overhead_of("overhead_cpu", cpu_s["server_cpu_s"][1:], cpu_s["in_process_cpu_s"][1:])
    return {name: round(value, 4) for name, value in figures.items()}


def overhead_of(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """The median over turns of what one side takes more than the other, with its 95 % interval: of
    each turn by itself, as a machine is not as fast in all of them."""
    shares = np.array(ours) / np.array(theirs) - 1
    low, high = bootstrap(np.median, shares, np.random.default_rng(0))
    return {name: float(np.median(shares)), f"{name}_low": low, f"{name}_high": high}


def measure_load(
    server: Server, videos: Sequence[Path], sounds: Sequence[bytes], seconds: float
) -> dict[str, Any]:
    """All clients at once, each with its video again and again."""
    seen, end = Seen(), time.monotonic() + seconds
    console.print(f"{len(videos)} clients for {seconds:g} s, and until their last sounds are there")
    with ThreadPoolExecutor(len(videos)) as clients:
        work = [
            clients.submit(_repeat, server.address, seen, end, i, video.read_bytes(), sounds[i])
            for i, video in enumerate(videos)
        ]
        time.sleep(seconds / 2)
        half_mb = server.memory_mb()
        time.sleep(max(0.0, end - time.monotonic()))
        end_mb = server.memory_mb()
        for one in work:
            one.result()
    return {
        "made": seen.num_made,
        "lost": seen.num_lost,
        "crossed": seen.num_crossed,
        "first_event_ms": round(1e3 * statistics.median(seen.first_event_s), 1),
        "first_event_ms_worst": round(1e3 * max(seen.first_event_s), 1),
        "wait_s": round(statistics.median(seen.sound_s), 2),
        "memory_half_mb": round(half_mb, 1),
        "memory_end_mb": round(end_mb, 1),
        "memory_growth_mb": round(end_mb - half_mb, 1),
    }


def _repeat(address: str, seen: Seen, end: float, number: int, video: bytes, own: bytes) -> None:
    client = Client(address)
    while time.monotonic() < end:
        begin = time.perf_counter()
        try:
            sound, first_s = client.sound(video, f"seed={number}&steps=4")
        except (OSError, http.client.HTTPException):
            sound, first_s, client = None, 0.0, Client(address)
        with seen.lock:
            seen.num_made += sound is not None
            seen.num_lost += sound is None
            seen.num_crossed += sound is not None and sound != own
            seen.first_event_s.append(first_s)
            seen.sound_s.append(time.perf_counter() - begin)


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("serve", __doc__)
    add_model(parser)
    parser.add_argument("--clients", type=at_least_one, default=32, help="at once")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long they ask")
    parser.add_argument("--runs", type=at_least_one, default=41, help="turns of one client alone")
    parser.add_argument("--threads", type=at_least_one, help="of the CPU, on both sides")
    return parser
