"""docs/KINDS.md: what a model knows and does not, kind by kind, in figures."""

from typing import Any

FEW = 8
WEAK = 0.5
SEEN_BY = {
    "picture": "unseen pictures",
    "features": "image features",
    "name": "its name alone",
}
TITLES = {
    "ground_truth": "the true sound",
    "reconstruction": "what the codec leaves of it",
    "retrieved": "a recording of the kind that is seen",
    "generated": "**the model**",
    "shuffled": "the sound for another kind's clip",
    "unconditional": "the model without the video",
}


def document(entry: dict[str, Any]) -> str:
    """Of an entry of docs/figures.json: the result of `evaluate real`, its command and date."""
    result = entry["result"]
    probe = result["probe"]
    text = f"""\
Model {result["model"]}, {entry["date"]}. Each kind that has recordings to test with has
{result["per_kind"]} clips: pictures and recordings that no training has seen. Right in kind: the
likeliest kind of a linear probe on YAMNet's scores, trained on recordings alone, is that of the
clip. The probe itself knows {percent(probe, "right_kind")} of
{probe["clips"]} recordings that it has not heard, so no
column can be expected to reach 100 %."""
    parts = (
        "# What the model knows",
        f"    {entry['command']}",
        text,
        "\n".join(overall(result)),
        "## Kind by kind",
        "Where codec or probe lose a kind already, the model cannot win it; compare the columns.",
        "\n".join(table(result["by_kind"])),
        "## What it does not know",
        "\n".join(f"- {line}" for line in unknown(result)),
        "![spectrograms](kinds.png)",
    )
    return "\n\n".join(parts) + "\n"


def percent(figures: dict, measure: str) -> str:
    """With its interval, where it has one."""
    value = figures.get(measure)
    if value is None:
        return ""
    if (ends := figures.get(f"{measure}_95")) is None:
        return f"{100 * value:.0f} %"
    return f"{100 * value:.0f} % ({100 * ends[0]:.0f} to {100 * ends[1]:.0f})"


def overall(result: dict) -> list[str]:
    columns = ("", "right in kind", "where sure", "heard alike", "kinds above half", "onset F1")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    rows = {"generated": result} | result["bounds"]
    for name in (name for name in TITLES if name in rows):
        row = rows[name]
        cells = [percent(row, measure) for measure in ("right_kind", "where_sure", "heard_alike")]
        cells.append(f"{row['kinds_above_half']} of {row['kinds']}")
        found = row.get("onset_f1_100ms")
        cells.append("" if found is None else f"{found:.2f}")
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return lines


def table(by_kind: dict) -> list[str]:
    columns = (
        *("kind", "right in kind", "else heard as", "true sound", "codec", "retrieved"),
        *("recordings", "pictures", "tested with"),
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for kind, row in by_kind.items():
        if "clips" not in row:
            continue
        bounds = (percent(row, name) for name in ("ground_truth", "reconstruction", "retrieved"))
        taken_for = plain(row.get("taken_for", ""))
        counts = (f"{row['recordings']}", f"{row['pictures']}", SEEN_BY[row["seen_by"]])
        cells = (plain(kind), percent(row, "right_kind"), taken_for, *bounds, *counts)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plain(kind: str) -> str:
    return kind.replace("_", " ")


def unknown(result: dict) -> list[str]:
    """Sentences, each with the kinds that it is true of."""
    by_kind = result["by_kind"]
    tested = {kind: row for kind, row in by_kind.items() if "clips" in row}
    untested = [kind for kind in by_kind if kind not in tested]
    weak = [kind for kind, row in tested.items() if row["right_kind"] < WEAK]
    named = [kind for kind, row in tested.items() if row["seen_by"] == "name"]
    few = [kind for kind, row in by_kind.items() if row["recordings"] < FEW]
    blind = [kind for kind, row in by_kind.items() if not row["pictures"]]
    sentences = {
        "Right in fewer than half of the clips": weak,
        f"Fewer than {FEW} recordings in all, so it has little to vary": few,
        "Learned and never tested, as no recording could be held out": untested,
        "No picture was there to train or test with, so seeing rests on ImageNet's classes": blind,
        "Never recognised in a video, known by name alone (`--kind`)": named,
    }
    lines = [
        f"{what}: {', '.join(map(plain, kinds))}." for what, kinds in sentences.items() if kinds
    ]
    return [
        *lines,
        "People: no speech, no song, no laughter; its image encoder has no person.",
        "Whatever has no row above gets quiet ambience, or the nearest kind that is known.",
    ]
