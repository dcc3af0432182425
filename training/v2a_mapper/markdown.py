"""The answers to the questions of V2A-Mapper's paper, in Markdown, for docs/PAPER.md."""

from collections.abc import Iterator, Mapping
from typing import Any

from training.evaluation.measures import UNDECIDED, half_width

NOT_RUN = "not run yet"
NAME = "v2a-mapper"
MAPPERS = {"none": "no mapper", "regression": "regression", "prior": "diffusion prior"}
SYSTEMS = {
    **MAPPERS,
    "true_vector": "bound: CLAP vector of the true sound",
    "autoencoded": "bound: true sound through autoencoder and vocoder",
    "ground_truth": "bound: true sound",
    "vab": "VAB",
}
GAP = {
    "matched": "cosine, own sound",
    "unmatched": "cosine, other sounds",
    "centroids": "distance of means",
    "found_1": "own sound nearest, %",
    "found_10": "among 10 nearest, %",
}
SOUNDS = {
    "fd": "FD (tiny CLAP)",
    "fad": "FAD (classifier)",
    "cs": "CS (tiny CLAP)",
    "class_agreement": "class agreement, %",
    "onset_f1_100ms": "onset F1, 100 ms",
}
SHARES = ("found_1", "found_10", "class_agreement")


Figures = Mapping[str, Any]
"""What `evaluate` returns; empty before it has run."""


def markdown(figures: Figures) -> str:
    """All tables, and what the paper found beside what is found here."""
    clips = figures.get("clips")
    measured = f"{clips} held-out clips of FoleyWorld" if clips else NOT_RUN
    lines = [f"Measured on: {measured}.\n"]
    lines += table("The gap between pictures and sound", MAPPERS, GAP, figures.get("gap", {}))
    lines += table("Sound", SYSTEMS, SOUNDS, figures.get("sounds", {}))
    lines += table(
        "Variability: mean distance of two draws for one clip",
        MAPPERS,
        {"vector": "mapped vector", "sound": "CLAP vector of the sound"},
        figures.get("variability", {}),
    )
    lines += cost_table(figures)
    lines += ["What the paper found, and what is found here:\n"]
    lines += [f"- {text}: {verdict}" for text, verdict in findings(figures)]
    return "\n".join(lines) + "\n"


def table(title: str, rows: Mapping, columns: Mapping, figures: Figures) -> Iterator[str]:
    yield f"### {title}\n"
    yield f"| | {' | '.join(columns.values())} |"
    yield "|---" * (len(columns) + 1) + "|"
    for row, label in rows.items():
        cells = [cell(figures.get(row, {}), column) for column in columns]
        yield f"| {label} | {' | '.join(cells)} |"
    yield ""


def cell(figures: Figures, column: str) -> str:
    value = figures.get(column)
    if value is None:
        return NOT_RUN
    return f"{100 * value:.1f}" if column in SHARES else f"{value:.3g}"


def cost_table(figures: Figures) -> Iterator[str]:
    """Seconds by stage and size of both systems' bundles, and parameters."""
    yield "### Speed and size, one 10-s clip on the CPU\n"
    yield "| | seconds | by stage | graphs, MB |"
    yield "|---|---|---|---|"
    for name, label in {"v2a": "V2A-Mapper", "vab": "VAB"}.items():
        found = figures.get("cost", {}).get(name)
        if found is None:
            yield f"| {label} | {NOT_RUN} | {NOT_RUN} | {NOT_RUN} |"
        else:
            stages = ", ".join(f"{stage} {s:.2f}" for stage, s in found["stages_s"].items())
            yield f"| {label} | {found['seconds']:.2f} | {stages} | {found['megabytes']:.1f} |"
    parts = figures.get("parameters")
    listed = ", ".join(f"{part} {n / 1e6:.2f}" for part, n in parts.items()) if parts else NOT_RUN
    yield f"\nParameters in millions: {listed}.\n"


def findings(figures: Figures) -> Iterator[tuple[str, str]]:
    """The paper's claims (its abstract, table 1), and VAB's."""
    sounds, spread = figures.get("sounds", {}), figures.get("variability", {})
    gap = figures.get("gap", {})
    yield (
        "there is a gap: vectors of a clip's picture and sound lie no nearer than those of others",
        compare(gap.get("none"), "matched", "unmatched"),
    )
    for mapper, label in (("regression", "the regression"), ("prior", "the prior")):
        yield f"{label} is better than no mapper, FD", less(sounds, mapper, "none", "fd")
        yield f"{label} is better than no mapper, CS", less(sounds, "none", mapper, "cs")
    yield "the prior is better than the regression, FD", less(sounds, "prior", "regression", "fd")
    yield "the regression is better than the prior, CS", less(sounds, "prior", "regression", "cs")
    yield (
        "the prior varies more with the seed, sound",
        less(spread, "regression", "prior", "sound"),
    )
    yield (
        "V2A-Mapper knows no time: VAB's onsets are better",
        less(sounds, "prior", "vab", "onset_f1_100ms"),
    )


def compare(figures: Figures | None, higher: str, lower: str) -> str:
    if figures is None:
        return NOT_RUN
    return f"{figures[higher]:.3g} and {figures[lower]:.3g}"


def less(figures: Figures, lower: str, higher: str, column: str) -> str:
    """Whether one row has less of a column than another: only where both have intervals over clips
    that allow to say so."""
    one, other = (figures.get(row, {}) for row in (lower, higher))
    a, b = one.get(column), other.get(column)
    if a is None or b is None:
        return NOT_RUN
    uncertain = half_width(one.get(f"{column}_95"), other.get(f"{column}_95"))
    if uncertain is None or abs(a - b) <= uncertain:
        found = UNDECIDED
    else:
        found = "yes" if a < b else "no"
    return f"{found} ({a:.3g} and {b:.3g})"
