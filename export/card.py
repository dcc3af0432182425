"""The card of a bundle, README.md: `python -m export.card BUNDLE [evaluation-TASK.json ...]`.

What the model was trained on, its license and its measures, from the manifest and from what
`training.evaluate` measured, as Markdown that hubs show and `vab-rt info` prints. The graphs stay
as they are; the manifest is written anew.
"""

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from export.manifest import add_file
from training.command import run_command
from vab_rt.bundle import open_bundle
from vab_rt.card import CARD, MAX_CARD_BYTES, facts_of
from vab_rt.contract import Manifest
from vab_rt.errors import ExportError
from vab_rt.output import whole_file, writing

OF_EXPORT = re.compile(
    r"(fine_)?checkpoint_sha256|exported_with|weights_stored_as"
    r"|verified_.*|fp16_.*|bf16_.*|fp8_.*|int8.*"
)
"""Keys of the provenance that the exporter writes; the others say where the weights come from."""

KNOWN_LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0"}
TITLES = {
    "": "the model",
    "onset_f1_100ms": "onset F1 within 100 ms",
    "onset_f1_50ms": "onset F1 within 50 ms",
    "ground_truth": "true sound",
    "reconstruction": "codec",
    "shuffled": "another clip's",
    "shuffled_in_class": "another clip's of the class",
    "fad": "FAD",
    "kld": "KLD",
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "map": "mAP",
    "a": "sound",
    "v": "picture",
    "av": "both",
}
"""What people call rows and columns of the measures, where it is not their name."""
BY_CLASS = {"by_class": "By class", "envelope_by_class": "Envelope correlation by class"}


def write_card(folder: Path, text: str) -> None:
    """Put a card into the bundle `folder`, in place of one that is there. Raises VabError."""
    size = len(text.encode())
    if not 0 < size <= MAX_CARD_BYTES:
        raise ExportError(
            f"the card has {size} bytes, expected 1 to {MAX_CARD_BYTES}; give another text"
        )
    with whole_file(folder / CARD, force=True) as beside, writing(folder / CARD):
        beside.write_text(text, "utf-8")
    add_file(folder, CARD)


def card_of(manifest: Manifest, evaluations: Mapping[str, dict[str, Any]]) -> str:
    """evaluations: by task, the JSON objects of `training.evaluate`."""
    return "\n".join([*_front_matter(manifest), "", *_body(manifest, evaluations)]) + "\n"


def _front_matter(manifest: Manifest) -> Iterator[str]:
    license = manifest.license.lower()
    yield "---"
    if license in KNOWN_LICENSES:
        yield f"license: {license}"
    else:
        yield "license: other"
        yield f"license_name: {json.dumps(manifest.license)}"
    yield "library_name: vab-rt"
    yield "tags:"
    yield from ("- video-to-audio", "- onnx", f"- {manifest.kind}", "---")


def _body(manifest: Manifest, evaluations: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    origin = {k: v for k, v in manifest.provenance.items() if not OF_EXPORT.fullmatch(k)}
    export = {k: v for k, v in manifest.provenance.items() if OF_EXPORT.fullmatch(k)}
    yield from (f"# {manifest.model.name}", "", "Sound for silent video, with vab-rt:", "")
    yield from ("    vab-rt generate in.mp4 out.wav --model FOLDER", "")
    yield from _section("What it was trained on", _list(origin))
    yield from _section("Licence", [_text(manifest.license)])
    yield from _section("Measures", _measures(evaluations))
    yield from _section("The model", _list(dict(facts_of(manifest))))
    yield from _section("Its export", _list(export))


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", *lines, ""]


def _list(pairs: Mapping[str, str]) -> list[str]:
    lines = [f"- {key.replace('_', ' ')}: {_text(value)}" for key, value in pairs.items()]
    return lines or ["not stated"]


def _measures(evaluations: Mapping[str, dict[str, Any]]) -> list[str]:
    if not evaluations:
        return ["None are given here; `python -m training.evaluate --bundle FOLDER` takes them."]
    return [line for task, result in evaluations.items() for line in _of_task(task, result)][:-1]


def _of_task(task: str, result: dict[str, Any]) -> Iterator[str]:
    counts = [f"{v} {k.replace('_', ' ')}" for k, v in result.items() if type(v) is int]
    yield from (", ".join([f"`python -m training.evaluate {task}`", *counts]), "")
    bounds = _object(result.get("bounds"))
    columns = {"": result, **result, **bounds} | dict.fromkeys(BY_CLASS)
    tables = {
        name: _figures(column) for name, column in columns.items() if isinstance(column, dict)
    }
    yield from (*_table({name: column for name, column in tables.items() if column}), "")
    for name, what in BY_CLASS.items():
        if of_classes := _figures(_object(result.get(name))):
            shares = ", ".join(f"{kind} {share}" for kind, share in of_classes.items())
            yield from (f"{what}: {shares}.", "")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _figures(row: dict[str, Any]) -> dict[str, str]:
    """The numbers of a row with their 95 % intervals, under names for people."""
    found = {}
    for name, value in row.items():
        if isinstance(value, float):
            match row.get(f"{name}_95"):
                case [float(low), float(high)]:
                    span = f" ({low:.3g} to {high:.3g})"
                case _:
                    span = ""
            found[_title(name)] = f"{value:.3g}{span}"
    return found


def _table(columns: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A row a measure: there are many more of these than of what is measured."""
    measures = list(dict.fromkeys(name for column in columns.values() for name in column))
    yield f"| of | {' | '.join(map(_title, columns))} |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in measures:
        yield f"| {name} | {' | '.join(column.get(name, '') for column in columns.values())} |"


def _title(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def _text(value: str) -> str:
    """A value on one line of Markdown."""
    return " ".join(value.split())


def read_evaluations(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """By task, from files named evaluation-TASK.json. Raises ExportError."""
    found = {}
    for path in paths:
        try:
            result = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ExportError(
                f"{path} cannot be read as JSON ({error}), expected what training.evaluate --json "
                "prints; measure again"
            ) from error
        if not isinstance(result, dict) or type(result.get("clips")) is not int:
            raise ExportError(
                f"{path} holds {'no clips' if isinstance(result, dict) else type(result).__name__}"
                ", expected the object with measures that training.evaluate --json prints; measure "
                "again"
            )
        found[path.stem.removeprefix("evaluation-")] = result
    return found


def read_text(path: Path) -> str:
    """Raises ExportError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(
            f"{path} cannot be read as a card ({error}), expected UTF-8 text; check the path"
        ) from error


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m export.card", description=__doc__)
    parser.add_argument("bundle", type=Path, help="its folder")
    parser.add_argument("evaluations", type=Path, nargs="*", help="what training.evaluate measured")
    parser.add_argument("--card", type=Path, help="a text of your own instead")
    run_command(_run, parser, words)


def _run(args: argparse.Namespace) -> None:
    manifest = open_bundle(args.bundle).manifest
    own = None if args.card is None else read_text(args.card)
    evaluations = read_evaluations(args.evaluations)
    write_card(args.bundle, card_of(manifest, evaluations) if own is None else own)
    print(f"card: {args.bundle / CARD}")


if __name__ == "__main__":
    main()
