"""Whether two figures differ: said only where both have 95 % intervals, and these allow it.

An interval is over clips, or over at least three trainings that differ in their seed alone.
"""

from collections.abc import Sequence

UNDECIDED = "not told apart"


def half_width(one: Sequence[float] | None, other: Sequence[float] | None) -> float | None:
    """Half of the 95 % interval of the difference of two figures, from their own (low, high), as if
    they were independent: wide where they are of the same clips. None where one has none."""
    if one is None or other is None:
        return None
    squares = [((high - low) / 2) ** 2 for low, high in (one, other)]
    return float(sum(squares) ** 0.5)
