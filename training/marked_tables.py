"""Tables that a command writes into a document, between two marks that name them."""

from pathlib import Path

from training.saving import write_whole
from vab_rt.errors import DataError, OutputError

PAPER = Path(__file__).parents[1] / "docs" / "PAPER.md"


def marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def write_between(path: Path, name: str, text: str) -> None:
    """Replaces what stands between the marks of this name. Raises DataError where they are
    missing, OutputError."""
    begin, end = marks(name)
    try:
        document = path.read_text()
    except OSError as error:
        raise OutputError(f"{path} cannot be read ({error.strerror}), expected it") from error
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise DataError(f"{path} lacks {begin} or {end}, expected both; put them back")
    write_whole(path, f"{before}{begin}\n{text}{end}{after}".encode())
