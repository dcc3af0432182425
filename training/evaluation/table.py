"""Figures on a terminal: a row a measure, a column for the model and for each of its bounds."""

COLUMNS = {
    "reconstruction": "codec",
    "ground_truth": "truth",
    "floor": "floor",
    "shuffled": "other clip's",
    "shuffled_in_class": "same class",
    "unconditional": "no video",
    "metronome": "metronome",
    "silence": "silence",
}
"""Bounds by name, and what stands above them; others of a result keep their names."""
SHARES = ("class_agreement", "both_sources", "onset", "own_nearest", "variety_shared")
HEADLINES = ("onset_f1_100ms", "class_agreement", "both_sources", "own_nearest")
WIDTH = 12


def comparison(result: dict) -> str:
    """The table of what `evaluate_generation` returns, and what the columns are."""
    bounds = result["bounds"]
    known = [name for name in COLUMNS if name in bounds]
    others = [name for name in bounds if name not in COLUMNS]
    columns = {"generated": result} | {name: bounds[name] for name in known + others}
    titles = [COLUMNS.get(name, name)[:WIDTH] for name in columns]
    lines = [" " * 28 + "".join(f"{title:>{WIDTH + 1}}" for title in (*titles[:1], "95 %"))]
    lines[0] += "".join(f"{title:>{WIDTH + 1}}" for title in titles[1:])
    for name in measures_of(columns):
        cells = [shown(name, column.get(name)) for column in columns.values()]
        cells.insert(1, shown_interval(name, result.get(f"{name}_95")))
        lines.append(f"{name:28}" + "".join(f"{cell:>{WIDTH + 1}}" for cell in cells))
    for name in ("by_class", "envelope_by_class"):
        if name in result:
            kinds = ", ".join(f"{kind} {share:g}" for kind, share in result[name].items())
            lines.append(f"{name}: {kinds}")
    for kind, part in result.get("by_held_out", {}).items():
        figures = [f"{name} {shown(name, part[name])}" for name in HEADLINES if part.get(name)]
        lines.append(f"held out, {kind}: {part['clips']} clips, {', '.join(figures)}")
    counts = ", ".join(f"{v} {k}" for k, v in result.items() if type(v) is int)
    return "\n".join([*lines, counts])


def measures_of(columns: dict[str, dict]) -> list[str]:
    """The names of all figures, in the order in which they come."""
    names = [name for column in columns.values() for name, x in column.items() if type(x) is float]
    return list(dict.fromkeys(names))


def shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if name.startswith(SHARES) else f"{value:.2f}"


def shown_interval(name: str, interval: list[float] | None) -> str:
    if interval is None:
        return ""
    scale, digits = (100, 0) if name.startswith(SHARES) else (1, 2)
    low, high = (f"{scale * x:.{digits}f}" for x in interval)
    return f"{low}..{high}"


def print_figures(result: dict) -> None:
    """One line for each part of a result that has figures of its own."""
    for name, row in {"": result, **result}.items():
        if isinstance(row, dict):
            figures = [f"{key} {value}" for key, value in row.items() if isinstance(value, float)]
            if figures:
                print(f"{name:15}", "  ".join(figures))
