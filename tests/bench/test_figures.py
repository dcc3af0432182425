"""README, the shipped model's card and docs/figures.json say the same: an edited number fails."""

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the bench needs PyTorch: pip install '.[dev]'")

from bench import figures as command
from bench.figures import (
    COMMANDS,
    FIGURES,
    KINDS,
    README,
    block,
    read_figures,
    real_card,
    shipped_card,
    taken,
)
from training import marked_tables
from training.evaluation.kinds_document import document
from vab_rt.bundle import open_bundle
from vab_rt.card import CARD
from vab_rt.errors import DataError, OptionError

MEASURED = re.compile(r"\d[\d.,]*\s?(?:%|s\b|ms\b|[MG]B\b|GFLOP|dB\b|times\b)|\b0\.\d\d\b")
NO_MEASUREMENTS = {"10 s"}  # the length of a clip


def between_marks(text: str) -> tuple[str, str]:
    """What stands between the marks of the figures, and all the rest."""
    begin, end = marked_tables.marks(command.MARK)
    before, _, rest = text.partition(f"{begin}\n")
    inside, _, after = rest.partition(end)
    return inside, before + after


def test_readme_says_what_the_file_of_figures_says():
    assert between_marks(README.read_text())[0] == block(read_figures())


def test_readme_has_no_figure_elsewhere():
    outside = between_marks(README.read_text())[1]
    assert set(MEASURED.findall(outside)) <= NO_MEASUREMENTS
    assert MEASURED.findall("in 2.7 s, F1 0.81, 91 %") == ["2.7 s", "0.81", "91 %"]


def test_the_card_says_what_the_file_of_figures_says():
    card = (open_bundle(None).folder / CARD).read_text()
    assert card == shipped_card(read_figures())


def test_the_document_of_kinds_says_what_the_file_of_figures_says():
    assert KINDS.read_text() == document(read_figures()["real"])
    assert (open_bundle("real").folder / CARD).read_text() == real_card(read_figures())


def test_every_entry_says_how_it_was_taken():
    for name, entry in read_figures().items():
        assert entry["command"] == COMMANDS[name].format_map(entry["result"])
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", entry["date"])
        assert entry["machine"]["cpu"] and entry["machine"]["cores"]


@pytest.mark.parametrize(
    ("name", "key"), [("generation", "onset_f1_100ms"), ("generate", "wall_s")]
)
def test_an_edited_number_changes_what_readme_should_say(name, key):
    figures = read_figures()
    figures[name]["result"][key] += 0.1
    assert block(figures) != block(read_figures())


def test_a_new_result_is_written_everywhere(tmp_path, monkeypatch, capsys):
    result = read_figures()["generation"]["result"] | {"clips": 7, "class_agreement": 0.5}
    printed, readme, figures = (tmp_path / n for n in ("out.json", "README.md", "figures.json"))
    printed.write_text(f"clips heard: 7 of 7\n{json.dumps(result)}\n")
    readme.write_text(README.read_text())
    figures.write_text(FIGURES.read_text())
    monkeypatch.setattr(command, "README", readme)
    monkeypatch.setattr(command, "FIGURES", figures)
    monkeypatch.setattr(command, "KINDS", tmp_path / "KINDS.md")
    cards = []
    monkeypatch.setattr(command, "write_card", lambda folder, text: cards.append(text))
    command.main(["--generation", str(printed), "--write"])
    now = json.loads(figures.read_text())
    assert now["generation"]["command"].endswith("generation --clips 7 --json")
    assert now["generate"] == json.loads(FIGURES.read_text())["generate"]
    assert "right in kind for 50 % (" in readme.read_text() and "7 clips" in cards[0]
    assert capsys.readouterr().out == block(now)


@pytest.mark.parametrize("text", ["", "no JSON", "{}", "[1]"])
def test_what_no_command_printed_is_refused(text, tmp_path):
    path = tmp_path / "out.json"
    path.write_text(text)
    with pytest.raises(DataError, match="expected what `python -m training.evaluate generation"):
        taken("generation", path)
    with pytest.raises(DataError, match="cannot be read"):
        taken("generation", Path(tmp_path, "missing"))


def test_readme_needs_all_of_them():
    with pytest.raises(OptionError, match="has no generate, expected it; give --generate FILE"):
        block({name: entry for name, entry in read_figures().items() if name != "generate"})
