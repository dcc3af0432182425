"""`python -m bench figures`: docs/figures.json, and what README, the shipped card and docs/KINDS.md
say from it.

The file holds, for each command that takes figures of the shipped model, the command, the day, the
machine and the JSON object that it printed: every number with its interval under NAME_95. README
and card are written from it alone, and a test holds the three together.
"""

import argparse
import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.machine import machine
from export.card import card_of, write_card
from training.evaluation.kinds_document import document
from training.marked_tables import write_between
from training.saving import write_whole
from vab_rt.bundle import open_bundle
from vab_rt.errors import DataError, OptionError

ROOT = Path(__file__).parent.parent
FIGURES, README = ROOT / "docs" / "figures.json", ROOT / "README.md"
KINDS = ROOT / "docs" / "KINDS.md"
MARK = "figures"
COMMANDS = {
    "generation": "python -m training.evaluate generation --clips {clips} --json",
    "held_out": "python -m training.evaluate generation --split held-out --clips {clips} --json",
    "real": (
        "python -m training.evaluate real --model real --sounds DIR --pictures DIR "
        "--classifier yamnet:FILE --features NPZ --table kinds.csv --per-kind {per_kind} "
        "--sheet docs/kinds.png --json"
    ),
    "generate": "python -m bench generate --runs {runs} --json",
    "peers": "python -m bench peers --json",
}
ON_THE_CARD = {"generation": "generation", "held_out": "generation --split held-out"}
PEERS = ("ours", "eager", "compiled", "autoregressive_eager", "autoregressive_compiled")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench figures", description=__doc__)
    for name, command in COMMANDS.items():
        help_text = f"what `{command.format(clips='N', runs='N', per_kind='N')}` printed"
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=Path, metavar="FILE", help=help_text
        )
    parser.add_argument("--write", action="store_true", help="the documents too")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in COMMANDS}
    figures = read_figures() | {n: taken(n, path) for n, path in given.items() if path is not None}
    write_whole(FIGURES, (json.dumps(figures, indent=1) + "\n").encode())
    if options.write:
        write_between(README, MARK, block(figures))
        write_card(open_bundle(None).folder, shipped_card(figures))
        if "real" in figures:
            write_whole(KINDS, document(figures["real"]).encode())
            write_card(open_bundle("real").folder, real_card(figures))
    print(block(figures), end="")


def read_figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def taken(name: str, path: Path) -> dict[str, Any]:
    """An entry of the file, from the last line of what a command printed. Raises DataError."""
    try:
        result = json.loads(path.read_text().strip().rpartition("\n")[2])
        command = COMMANDS[name].format_map(result)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected what `{COMMANDS[name]}` printed; run it "
            "again, with its output in this file"
        ) from error
    day = datetime.date.fromtimestamp(path.stat().st_mtime)
    here = result.pop("machine", None) or machine()
    return {"command": command, "date": f"{day}", "machine": here, "result": result}


def shipped_card(figures: dict[str, Any]) -> str:
    evaluations = {t: figures[n]["result"] for n, t in ON_THE_CARD.items() if n in figures}
    return card_of(open_bundle(None).manifest, evaluations)


def real_card(figures: dict[str, Any]) -> str:
    """KINDS has what is left out here."""
    left_out = ("by_kind", "probe")
    result = {k: v for k, v in figures["real"]["result"].items() if k not in left_out}
    return card_of(open_bundle("real").manifest, {"real": result})


def block(figures: dict[str, Any]) -> str:
    """What stands in README between the marks."""
    for name in ("generation", "generate"):
        if name not in figures:
            raise OptionError(f"{FIGURES} has no {name}, expected it; give --{name} FILE")
    beside = peers(figures["peers"]) if "peers" in figures else ()
    parts = (speed(figures["generate"]), beside, quality(figures))
    return "".join(f"{line}\n" for part in parts for line in part)


def speed(taken: dict[str, Any]) -> Iterator[str]:
    r, where = taken["result"], taken["machine"]
    cores = f"{where['cores']} CPU cores"
    yield f"The default model, a 10-s clip of 480x270 (`{taken['command']}`, {taken['date']}):"
    yield ""
    yield (
        "| measured on | whole command, process start included | a video of a minute "
        "| of the processor | peak memory | installed | PyTorch loop / ours |"
    )
    yield "|---|---|---|---|---|---|---|"
    yield (
        f"| {where['cpu']}, {cores}, no GPU | {r['wall_s']:.1f} s (worst of {r['runs']}: "
        f"{r['wall_s_worst']:.1f} s) | {r['minute_s']:.1f} s | {r['cpu_s']:.1f} s "
        f"| {r['peak_rss_mb']:.0f} MB "
        f"| {r['install_mb']:.0f} MB | {r['ratio_to_torch']:.1f} |"
    )
    yield ""
    tokens_s, least_s = r["stage_s"]["tokens"], r["ceiling_s"]["tokens"]
    yield (
        f"Its {r['steps']} steps take {tokens_s:.1f} s, {least_s / tokens_s:.0%} of what a large "
        "matrix product reaches on those cores."
    )


def peers(taken: dict[str, Any]) -> Iterator[str]:
    """One that failed was left out."""
    r = taken["result"]
    s = dict.fromkeys(PEERS, "failed") | {
        n: f"{x['ms'] / 1e3:.1f} s" for n, x in r["peers"].items()
    }
    yield f"From features to tokens in {r['steps']} steps, at the same size and with random weights"
    yield (
        f"(`{taken['command']}`): ours {s['ours']}, the same VAB in PyTorch {s['eager']}, compiled "
        f"{s['compiled']};"
    )
    yield (
        f"FoleyGen's one token at a time {s['autoregressive_eager']}, compiled "
        f"{s['autoregressive_compiled']}."
    )
    yield ""


def quality(figures: dict[str, Any]) -> Iterator[str]:
    """Three measures beside their bounds; the card has all of them."""
    entry = figures["generation"]
    r, bounds = entry["result"], entry["result"]["bounds"]

    def of(bound: str, measure: str, unit: str = "%") -> str:
        return shown(bounds[bound][measure], unit)

    f1, kind, own = "onset_f1_100ms", "class_agreement", "own_nearest"
    yield (
        f"On {r['clips']} clips of its world that it never saw (`{entry['command']}`, "
        f"{entry['date']}):"
    )
    yield (
        f"- it times what moves: onset F1 within 100 ms {interval(r, f1, '')}; the codec alone "
        f"{of('reconstruction', f1, '')},\n  another clip's sound {of('shuffled', f1, '')}, a "
        f"metronome {of('metronome', f1, '')};"
    )
    if "held_out" in figures:
        held_out = figures["held_out"]["result"]
        yield (
            f"  with sizes, tempi and pairs that training never had {interval(held_out, f1, '')} "
            f"on {held_out['clips']} clips;"
        )
    yield (
        f"- its sound is right in kind for {interval(r, kind)}; the codec alone "
        f"{of('reconstruction', kind)}, another clip's sound {of('shuffled', kind)};"
    )
    yield (
        f"- among seven clips of the kind its own truth is the nearest for {interval(r, own)}; the "
        f"codec alone {of('reconstruction', own)}, chance {shown(r['own_nearest_chance'], '%')};"
    )
    weakest, share = min(r["by_class"].items(), key=lambda item: item[1])
    both = "both_sources"
    yield (
        f"- weakest: {weakest}, right in kind for {shown(share, '%')}; and of two sources both are "
        f"heard for {interval(r, both)},\n  the codec alone {of('reconstruction', both)}, the true "
        f"sound {of('ground_truth', both)}."
    )


def interval(result: dict[str, Any], measure: str, unit: str = "%") -> str:
    low, high = (shown(x, unit) for x in result[f"{measure}_95"])
    return f"{shown(result[measure], unit)} ({low} to {high})"


def shown(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{100 * value:.0f} %" if unit == "%" else f"{value:.2f} {unit}".strip()
