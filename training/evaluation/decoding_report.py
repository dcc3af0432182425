"""The comparison of decoding options as a document: docs/DECODING.md and its picture."""

import datetime
import io
from pathlib import Path

from training import foleyworld
from training.evaluation.decoding import MEASURES, OVERALL, Compared, chosen
from training.saving import write_whole
from vab_rt.pipeline import Pipeline
from vab_rt.threads import num_physical_cores

DOCUMENT = Path(__file__).parents[2] / "docs" / "DECODING.md"
TITLES = {
    "onset_f1_100ms": "onset F1, 100 ms",
    "onset_f1_50ms": "50 ms",
    "class_agreement": "class agreement, %",
    "kld": "KLD",
    "blow_own_db": "blow from its truth, dB",
    "blow_steadiness_db": "blow from blow, dB",
    "own_nearest": "own truth nearest, %",
    "envelope_correlation": "envelope",
    "level_error_abs_db": "level error, dB",
}
SHARES = ("class_agreement", "own_nearest")
TOO_FEW = (0.0, 0.0, 0.0)
SHOWN = ("onset_f1_100ms", "class_agreement", OVERALL)


def write_document(compared: list[Compared], clips: int, pipeline: Pipeline) -> None:
    """Both files. Raises OutputError."""
    facts = (
        f"Model {pipeline.config.name}, FoleyWorld {foleyworld.VERSION}, {num_physical_cores()} "
        f"cores, {datetime.date.today()}."
    )
    write_whole(DOCUMENT, document(compared, clips, facts).encode())
    write_whole(DOCUMENT.with_name("decoding.png"), picture(compared))


def document(compared: list[Compared], clips: int, facts: str) -> str:
    best, base = chosen(compared), compared[0]
    text = f"""\
{facts} Each row decodes the same {clips} validation clips and is compared with the first, clip by
clip. Bold: better or worse beyond the 95 % interval of the mean difference (bootstrap over clips).
Overall: the mean gain over all measures, each in units of how far clips differ in it; positive is
better. Chosen, the fastest that is worse in nothing: **{best.setting}**, {base.seconds:.2f} /
{best.seconds:.2f} s."""
    command = f"    python -m training.evaluate decoding --clips {clips} --write"
    parts = ("# Steps, guidance, temperature", command, text, "\n".join(table(compared)))
    return "\n\n".join((*parts, "![gain against seconds](decoding.png)")) + "\n"


def table(compared: list[Compared]) -> list[str]:
    columns = ("", "passes", "tokens, s", *(TITLES[name] for name in MEASURES), "overall")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for c in compared:
        cells = [f"{c.passes}", f"{c.seconds:.2f}", *(cell(c, name) for name in MEASURES)]
        mean, low, high = c.gains[OVERALL]
        overall = marked(c, OVERALL, f"{mean:+.2f} ({low:+.2f} to {high:+.2f})")
        lines.append(f"| {c.setting} | {' | '.join(cells)} | {overall} |")
    return lines


def cell(compared: Compared, name: str) -> str:
    value = compared.means.get(name)
    if value is None:
        return ""
    return marked(compared, name, f"{100 * value:.0f}" if name in SHARES else f"{value:.2f}")


def marked(compared: Compared, name: str, text: str) -> str:
    _, low, high = compared.gains.get(name, TOO_FEW)
    return f"**{text}**" if low > 0 or high < 0 else text


def picture(compared: list[Compared]) -> bytes:
    """PNG: gain over the first setting, with its interval, against the seconds of a clip."""
    from matplotlib.figure import Figure  # no pyplot: it looks for a display

    figure = Figure(figsize=(4.2 * len(SHOWN), 4), layout="constrained")
    best = chosen(compared)
    for axes, name in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        axes.axhline(0, color="grey", linewidth=0.8)
        for number, c in enumerate(compared, start=1):
            mean, low, high = c.gains.get(name, TOO_FEW)
            color = "C2" if c is best else "C3" if c.worse else "C0"
            axes.plot([c.seconds] * 2, [low, high], color=color, alpha=0.5)
            axes.plot(c.seconds, mean, "o", color=color)
            axes.annotate(f"{number}", (c.seconds, mean), xytext=(4, 4), textcoords="offset points")
        axes.set(title=f"gain: {TITLES.get(name, 'all measures')}", xlabel="tokens of a clip, s")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
