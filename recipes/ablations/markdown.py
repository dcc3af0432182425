"""The tables in Markdown, the paper's figures beside ours, and whether its findings hold."""

import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from recipes.ablations.tables import TABLES, Claim, Column, Figure, Table
from training.evaluation.measures import UNDECIDED, half_width

NOT_RUN = "not run yet"
TRAINED_TWICE = ("base", "base-again")
ALIKE_WITHIN = 0.1  # of the larger figure

Figures = Mapping[str, Mapping[str, Any]]
"""For each row that was run, by its name, its figures by measure."""


def markdown(figures: Figures) -> str:
    """All tables, each with its trends below."""
    return "\n".join(line for table in TABLES for line in table_lines(table, figures))


def table_lines(table: Table, figures: Figures) -> Iterator[str]:
    headings = [column.heading for column in table.columns]
    measured = len(max((line.paper for line in table.lines), key=len))  # columns of the paper
    if measured:
        headings = list(beside([f"{x}, paper" for x in headings[:measured]], headings))
    yield f"### {table.title}\n"
    yield f"| | {' | '.join(headings)} |"
    yield "|---" * (len(headings) + 1) + "|"
    for line in table.lines:
        paper = [f"{x:g}" for x in line.paper] or [""] * measured
        ours = [our_cell(column, line.rows, figures) for column in table.columns]
        yield f"| {line.label} | {' | '.join(beside(paper, ours))} |"
    yield ""
    yield from (f"- {claim.text}: {verdict(claim, figures)}" for claim in table.claims)
    yield ""


def beside(paper: list[str], ours: list[str]) -> Iterator[str]:
    """In turn; ours alone where the paper has no more."""
    return (cell for pair in zip_longest(paper, ours) for cell in pair if cell is not None)


def our_cell(column: Column, rows: tuple[str, ...], figures: Figures) -> str:
    for row in rows:
        value = look_up(figures, Figure(row, column.key))
        if value is not None:
            return f"{100 * value:.1f}" if column.is_share else f"{value:.2f}"
    return NOT_RUN


def verdict(claim: Claim, figures: Figures) -> str:
    """Whether ours say the same: only where both have an interval over clips, and differ by more
    than these allow and than two trainings did that differ in their seed alone."""
    higher, lower = look_up(figures, claim.higher), look_up(figures, claim.lower)
    if higher is None or lower is None:
        return NOT_RUN
    uncertain, gap = uncertainty(claim, figures), abs(higher - lower)
    if claim.alike:
        allowed = ALIKE_WITHIN * max(higher, lower)
        found = "confirmed" if gap + uncertain <= allowed else UNDECIDED
        found = "not confirmed" if gap - uncertain > allowed else found
    elif gap <= uncertain:
        found = UNDECIDED
    else:
        found = "confirmed" if higher > lower else "the opposite"
    return f"{found} ({higher:.3g} and {lower:.3g})"


def uncertainty(claim: Claim, figures: Figures) -> float:
    """By how much two figures may differ by chance; infinite where one has no interval."""
    intervals = [
        look_up(figures, Figure(x.row, f"{x.key}_95")) for x in (claim.higher, claim.lower)
    ]
    over_clips = half_width(*intervals)
    if over_clips is None:
        return math.inf
    twice = [look_up(figures, Figure(row, claim.higher.key)) for row in TRAINED_TWICE]
    if claim.higher.key != claim.lower.key or None in twice:
        return over_clips
    return max(over_clips, abs(twice[0] - twice[1]))


def look_up(figures: Figures, figure: Figure) -> Any:
    """None where the row was not run or has no such figure."""
    found: Any = figures.get(figure.row)
    for name in figure.key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
