"""`python -m recipes.ablations`: train and measure the rows of rows.toml.

From the codec, visual encoders and tokens of a finished run. What is done is kept, so call it again
to go on. The last thing printed are the tables, beside the paper's.
"""

import argparse
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import msgspec

from recipes.ablations.markdown import Figures, markdown
from recipes.ablations.rows import ROWS, Ablations, read_ablations
from recipes.ablations.run import Run
from recipes.ablations.stages import run_row
from training.command import run_command
from training.marked_tables import PAPER, marks, write_between
from training.saving import write_whole
from training.stage import is_made, key_of, stage
from vab_rt.errors import DataError, OptionError, VabError

DOCUMENT = PAPER
BEGIN, END = marks("ablations")


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One finished row."""

    row: str
    seconds: float
    figures: dict[str, dict]


def run_rows(run: Run, names: list[str]) -> list[str]:
    """Train and measure what is not finished yet; one that fails is reported and left out.

    Returns the names of those that failed.
    """
    failed = []
    for name in names:
        path = result_path(run.out, run.ablations, name)
        try:
            if is_made(path, **run.inputs):
                print(f"{name}: done before", file=sys.stderr)
            stage(path, partial(make_result, run, name, path), **run.inputs)
        except VabError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed.append(name)
        except Exception:  # noqa: BLE001 - a bug in one row is no reason to lose the others
            traceback.print_exc()
            print(f"error: {name}: a bug, see above", file=sys.stderr)
            failed.append(name)
    return failed


def make_result(run: Run, name: str, path: Path) -> None:
    begin = time.monotonic()
    figures = run_row(run, name)
    seconds = round(time.monotonic() - begin, 1)
    write_whole(path, msgspec.json.encode(Result(row=name, seconds=seconds, figures=figures)))
    print(f"{name}: done in {seconds:.0f} s", file=sys.stderr)


def result_path(out: Path, ablations: Ablations, name: str) -> Path:
    """Another file for every change of what the row is."""
    row, a = ablations.rows[name], ablations
    key = key_of(
        setup=a.setup(name),
        stages=row.stages,
        measures=row.measures,
        steps=(a.steps, a.contrastive_steps, a.classification_steps),
        clips=a.clips,
    )
    return out / "rows" / f"{name}-{key}.json"


def read_result(path: Path) -> Result | None:
    """None where there is none. Raises DataError for a file that `run_rows` did not write."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected the figures of a row; delete it and run "
            "the row again"
        ) from error


def read_figures(out: Path, ablations: Ablations) -> Figures:
    """The figures of all rows that are finished."""
    found = {name: read_result(result_path(out, ablations, name)) for name in ablations.rows}
    return {name: result.figures for name, result in found.items() if result is not None}


def described(ablations: Ablations, figures: Figures) -> str:
    """What the figures were made with, in a sentence above the tables."""
    a = ablations
    return (
        f"Ours: {len(figures)} of {len(a.rows)} rows, {a.steps} steps of pre-training, "
        f"{a.contrastive_steps} contrastive, {a.classification_steps} for classes, measured on "
        f"{a.clips} held-out clips.\n\n"
    )


def main(words: list[str] | None = None) -> None:
    run_command(_run, _parser(), words)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recipes.ablations", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/default"), help="a recipe's folder")
    parser.add_argument("--out", type=Path, help="folder of the rows (default RUN/ablations)")
    parser.add_argument("--config", type=Path, default=ROWS, help="a .toml file of rows")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these (default: all)")
    parser.add_argument("--steps", type=int, help="pre-training steps of every row")
    parser.add_argument("--clips", type=int, help="held-out clips to measure on")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/PAPER.md")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.workers < 1:
        raise OptionError(f"workers is {arguments.workers}, expected at least 1")
    given = {name: getattr(arguments, name) for name in ("steps", "clips")}
    changes = {name: value for name, value in given.items() if value is not None}
    ablations = msgspec.structs.replace(read_ablations(arguments.config), **changes)
    names = ablations.chosen(arguments.rows)
    out, failed = arguments.out or arguments.run / "ablations", []
    if not arguments.table:
        failed = run_rows(Run(arguments.run, out, ablations, arguments.workers), names)
    figures = read_figures(out, ablations)
    tables = described(ablations, figures) + markdown(figures)
    if arguments.write:
        write_between(DOCUMENT, "ablations", tables)
    print(tables)
    if failed:
        raise VabError(
            f"{len(failed)} of {len(names)} rows failed ({', '.join(failed)}), see above; what is "
            "done is kept: run the same command again"
        )


if __name__ == "__main__":
    main()
