"""docs/KINDS.md: what a model knows and does not, kind by kind, in figures."""

from typing import Any

from training.evaluation.real_figures import SURE
from training.evaluation.yamnet import LIKELY_MADE, LIKELY_TRUE

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
    """The text for an entry of docs/figures.json: the result of `evaluate real`, its command and
    date."""
    result = entry["result"]
    probe = result["probe"]
    tested = {kind: row for kind, row in result["by_kind"].items() if "clips" in row}
    ways = "; ".join(seen_by(way, tested) for way in SEEN_BY)
    text = f"""\
Model {result["model"]}, {entry["date"]}. Each kind that has recordings to test with has
{result["per_kind"]} clips, of recordings that no training has heard. What is seen: {ways}.
Features are of ImageNet's own pictures, which the image encoder may have been trained on; a name
is given, as `--kind` gives it.

Right in kind: the likeliest kind of a linear probe on YAMNet's scores, trained on recordings
alone, is that of the clip. Where sure: of clips whose likeliest kind, by what is seen, has a
probability above {SURE:g}. Heard alike: one of the {LIKELY_TRUE} likeliest of YAMNet's classes for
the true sound, but for general ones such as "Sound", is among the {LIKELY_MADE} likeliest here.
Onset F1: within 100 ms, of clips of things that strike. The probe itself knows
{percent(probe, "right_kind")} of {probe["clips"]} recordings that it has not heard, so no
column can be expected to reach 100 %."""
    parts = (
        "# What the model knows",
        f"    {entry['command']}",
        text,
        "\n".join(overall(result)),
        "## Kind by kind",
        "A kind that the true sound or the codec loses already says little of the model.",
        "\n".join(table(tested)),
        "## What it does not know",
        "\n".join(f"- {line}" for line in unknown(result["by_kind"], tested)),
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


def table(tested: dict) -> list[str]:
    columns = (
        *("kind", "right in kind", "else heard as", "true sound", "codec", "retrieved"),
        *("seen right", "files", "pictures", "tested with"),
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for kind, row in tested.items():
        bounds = (percent(row, name) for name in ("ground_truth", "reconstruction", "retrieved"))
        counts = (f"{row['recordings']}", f"{row['pictures']}", SEEN_BY[row["seen_by"]])
        cells = (
            *(kind, percent(row, "right_kind"), row.get("taken_for", ""), *bounds),
            *(percent(row, "seen_right"), *counts),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def seen_by(way: str, tested: dict) -> str:
    rows = [row for row in tested.values() if row["seen_by"] == way]
    clips = sum(row["clips"] for row in rows)
    if not clips:
        return f"{SEEN_BY[way]}, none"
    right = sum(row["right_kind"] * row["clips"] for row in rows) / clips
    return f"{SEEN_BY[way]} for {len(rows)} kinds, of which {100 * right:.0f} % are right in kind"


def unknown(by_kind: dict, tested: dict) -> list[str]:
    """Sentences, each with the kinds that it is true of."""
    untested = [kind for kind in by_kind if kind not in tested]
    weak = [kind for kind, row in tested.items() if row["right_kind"] < WEAK]
    named = [kind for kind, row in tested.items() if row["seen_by"] == "name"]
    few = [kind for kind, row in by_kind.items() if row["recordings"] < FEW]
    named_only = {*named, *untested}
    blind = [k for k, row in by_kind.items() if not row["pictures"] and k not in named_only]
    missed = [kind for kind, row in tested.items() if row["seen_right"] == 0]
    sentences = {
        "Right in fewer than half of the clips": weak,
        f"Fewer than {FEW} files of sound in all, so it has little to vary": few,
        "Learned and never tested, as no recording could be held out": untested,
        "No picture was there to train or test with, so seeing rests on ImageNet's classes": blind,
        "Tested by name alone (`--kind`), as there was no picture of it": named,
        "Recognised in none of its clips": missed,
    }
    lines = [f"{what}: {', '.join(kinds)}." for what, kinds in sentences.items() if kinds]
    return [
        *lines,
        "People: no speech, no song, no laughter; its image encoder has no person.",
        "Melodies: of pianos, harps, guitars and chimes notes run into one another.",
        "What is none of its kinds gets quiet ambience, or the sound of the nearest kind.",
    ]
