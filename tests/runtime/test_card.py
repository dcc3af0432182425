"""The card of a bundle: a listed file, without what stands in front, harmless to a terminal."""

import json

import pytest
from manifests import add_file, write_manifest

from vab_rt.bundle import open_bundle
from vab_rt.card import CARD, MAX_CARD_BYTES, read_card
from vab_rt.cli import app_of
from vab_rt.errors import BundleError

TEXT = "---\nlicense: apache-2.0\ntags:\n- onnx\n---\n\n# Tiny\n\nMade by tests.\n\n---\n\nEnd.\n"


def with_card(folder, text=TEXT):
    (folder / CARD).write_text(text, "utf-8", newline="")
    add_file(folder, CARD)
    return open_bundle(folder)


def test_a_bundle_without_a_card_is_a_bundle(tiny_bundle):
    assert read_card(open_bundle(tiny_bundle)) is None


def test_what_stands_in_front_is_for_hubs(bundle_copy):
    bundle = with_card(bundle_copy)
    assert read_card(bundle) == "# Tiny\n\nMade by tests.\n\n---\n\nEnd."
    bundle.verify()
    with_card(bundle_copy, "Only text.\r\nTwo lines.\n")
    assert read_card(open_bundle(bundle_copy)) == "Only text.\nTwo lines."


def test_nothing_in_a_card_steers_a_terminal(bundle_copy):
    bundle = with_card(bundle_copy, "# A\x1b[2J\x07\x9b31m\u202eB\tC\x00\n\u2028D\rE\n")
    found = read_card(bundle)
    assert found == "# A\ufffd[2J\ufffd\ufffd31m\ufffdB\tC\ufffd\n\ufffdD\ufffdE"


def test_nor_anything_else_that_a_bundle_says(bundle_copy, capsys, run):
    config = open_bundle(bundle_copy).config
    more = {"license": "MIT\x1b[2J", "provenance": {"data\x07": "a\x9b31m"}}
    write_manifest(bundle_copy, config, **more)
    app_of()(["info", str(bundle_copy)], standalone_mode=False)
    out = capsys.readouterr().out
    assert "MIT\ufffd[2J" in out and "data\ufffd" in out and not {"\x1b", "\x07", "\x9b"} & {*out}
    told = run("info", "no\x1b[2J")
    assert told.code == 1 and "model no\ufffd[2J is not there" in told.err


def test_a_changed_card_is_refused(bundle_copy):
    bundle = with_card(bundle_copy)
    (bundle_copy / CARD).write_text(TEXT.replace("apache-2.0", "apache-3.0"))
    with pytest.raises(BundleError, match=r"README.md has the sha256 .* changed or damaged"):
        read_card(bundle)
    (bundle_copy / CARD).unlink()
    with pytest.raises(BundleError, match=r"README.md cannot be found"):
        open_bundle(bundle_copy)


def test_a_huge_card_is_refused(bundle_copy):
    bundle = with_card(bundle_copy, "x" * (MAX_CARD_BYTES + 1))
    with pytest.raises(BundleError, match="expected at most 200000 in a card"):
        read_card(bundle)


def test_info_shows_it(bundle_copy, capsys):
    with_card(bundle_copy)
    app_of()(["info", str(bundle_copy)], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("model ") and lines[-7:] == [
        "# Tiny",
        "",
        "Made by tests.",
        "",
        "---",
        "",
        "End.",
    ]
    app_of()(["info", str(bundle_copy), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["card"].startswith("# Tiny")


def test_the_shipped_model_says_what_it_is():
    card = read_card(open_bundle())
    assert card is not None
    for part in ("## What it was trained on", "FoleyWorld", "## Licence", "## Measures"):
        assert part in card
