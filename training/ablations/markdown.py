"""The tables in Markdown, the paper's figures beside ours, and whether its findings hold."""

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

from training.ablations.tables import TABLES, Claim, Column, Figure, Table

NOT_RUN = "not run yet"
TRAINED_TWICE = ("base", "base-again")
ALIKE_WITHIN = 0.1

Figures = Mapping[str, Mapping[str, Any]]
"""Of each row that was run, by its name: figures by measure."""


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
    """Whether ours say the same: only where they differ by more than they are uncertain."""
    higher, lower = look_up(figures, claim.higher), look_up(figures, claim.lower)
    if higher is None or lower is None:
        return NOT_RUN
    apart = abs(higher - lower) > uncertainty(claim, figures)
    figures_text = f"({higher:.3g} and {lower:.3g})"
    if claim.alike:
        return f"{'not confirmed' if apart else 'confirmed'} {figures_text}"
    if not apart:
        return f"not told apart {figures_text}"
    return f"{'confirmed' if higher > lower else 'the opposite'} {figures_text}"


def uncertainty(claim: Claim, figures: Figures) -> float:
    """By how much two figures may differ by chance: by their 95 % intervals, or as two trainings
    did that differ in their seed alone. What should be alike may differ by a tenth in any case."""
    found = [0.0]
    widths = [look_up(figures, Figure(x.row, f"{x.key}_95")) for x in (claim.higher, claim.lower)]
    if None not in widths:
        found.append(sum(((high - low) / 2) ** 2 for low, high in widths) ** 0.5)
    if claim.higher.key == claim.lower.key:
        twice = [look_up(figures, Figure(row, claim.higher.key)) for row in TRAINED_TWICE]
        if None not in twice:
            found.append(abs(twice[0] - twice[1]))
    if claim.alike:
        found.append(ALIKE_WITHIN * max(look_up(figures, x) for x in (claim.higher, claim.lower)))
    return max(found)


def look_up(figures: Figures, figure: Figure) -> Any:
    """None where the row was not run or has no such figure."""
    found: Any = figures.get(figure.row)
    for name in figure.key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
