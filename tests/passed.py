"""What passed in another run of the tests, by its report: `make test-all` does not run it again."""

from pathlib import Path
from xml.etree import ElementTree

import pytest


def passed_in(report: Path | str) -> set[tuple[str, ...]]:
    """Folder, file and name of each test that passed, by a report of --junitxml: those that were
    skipped or failed hold their reason."""
    cases = [case for case in ElementTree.parse(report).iter("testcase") if not len(case)]
    return {(*case.attrib["classname"].split(".")[-2:], case.attrib["name"]) for case in cases}


def place_of(item: pytest.Item) -> tuple[str, ...]:
    """The same of a test that may run here."""
    return item.path.parent.name, item.path.stem, item.name
