"""`python -m bench timeline`: a timeline of many clips, beside the same clips made one by one.

One by one: in a process that has loaded the model. The timeline: the whole command, its start and
the loading of the model included. Both in turn, on one thread, in seconds of the processor, which
other work on the machine changes less than time.
"""

import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import vab_rt
from bench.options import add_model, at_least_one, parser_of
from bench.report import console, in_turn, print_facts, print_table, summarise
from bench.runs import run

ROOT = Path(__file__).parents[1]
LIMIT = 1.1  # of the sum of the clips
LENGTH, RATE = 75, 25  # frames of a clip, frames a second
_FOLDED = 175  # frames that a clip may begin at, of films of 10 s


class Part(NamedTuple):
    film: Path
    start: int
    """in frames"""


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("timeline", __doc__)
    parser.add_argument("--clips", type=at_least_one, default=50)
    parser.add_argument("--runs", type=at_least_one, default=3)
    add_model(parser)
    options = parser.parse_args(arguments)
    films = sorted((ROOT / "examples").glob("*.mp4"))
    parts = [Part(films[n % len(films)], 3 * n % _FOLDED) for n in range(options.clips)]
    facts = print_facts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "edit.mlt").write_text(mlt_of(parts))
        calls = {
            "one by one": alone(parts, folder, options.model),
            "timeline": together(folder, options.model),
        }
        for call in calls.values():
            call()
        check_same(parts, folder)
        times = summarise(in_turn(calls, options.runs, cpu_s))
    ratio = times["timeline"].median / times["one by one"].median
    rows = [(what, *(f"{value:.1f}" for value in each)) for what, each in times.items()]
    print_table((f"{len(parts)} clips, CPU seconds", "best", "median", "worst"), rows)
    console.print(f"timeline / one by one: {ratio:.2f}, at most {LIMIT}")
    if options.json:
        found = {what.replace(" ", "_"): each._asdict() for what, each in times.items()}
        print(json.dumps(facts | {"clips": len(parts), "cpu_s": found, "ratio": ratio}))


def mlt_of(parts: list[Part]) -> str:
    films = "".join(
        f'<producer id="{film.stem}"><property name="resource">{film}</property></producer>'
        for film in sorted({part.film for part in parts})
    )
    entries = "".join(
        f'<entry producer="{film.stem}" in="{start}" out="{start + LENGTH - 1}"/>'
        for film, start in parts
    )
    track = f'<playlist id="v1">{entries}</playlist><tractor><track producer="v1"/></tractor>'
    return f'<mlt><profile frame_rate_num="{RATE}" frame_rate_den="1"/>{films}{track}</mlt>'


def alone(parts: list[Part], folder: Path, model: str | None) -> Callable[[], object]:
    pipeline = vab_rt.load(model, "cpu", threads=1)
    delivery = vab_rt.Delivery(rate_hz=48_000)

    def make() -> None:
        for number, (film, start) in enumerate(parts):
            sound = pipeline.generate(vab_rt.Video(film, start / RATE, LENGTH / RATE))
            sound.save(folder / f"{number}.wav", force=True, delivery=delivery)

    return make


def together(folder: Path, model: str | None) -> Callable[[], object]:
    words = [sys.executable, "-m", "vab_rt", "timeline", folder / "edit.mlt", folder / "out.mlt"]
    words += ["--device", "cpu", "--threads", "1", "--force", "--quiet"]
    return lambda: run([*words, *(() if model is None else ("--model", model))])


def check_same(parts: list[Part], folder: Path) -> None:
    """Both make the same bytes; nothing is timed otherwise."""
    made = sorted((folder / "out.sound").glob("*.wav"), key=lambda path: path.stem.split("_")[1])
    one_by_one = [folder / f"{number}.wav" for number in range(len(parts))]
    if [path.read_bytes() for path in made] != [path.read_bytes() for path in one_by_one]:
        sys.exit("not timed: the sounds of the timeline are not those of its clips")
    console.print("parity: the timeline has the bytes of its clips")


def cpu_s(call: Callable[[], object]) -> float:
    """CPU seconds of this process and of those that it waited for."""
    before = _used_s()
    call()
    return _used_s() - before


def _used_s() -> float:
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)
