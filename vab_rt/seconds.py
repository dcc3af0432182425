"""Seconds, as callers say them and messages tell them: of a part of a video, or of a sound."""

import sys
from fractions import Fraction
from typing import Any, SupportsFloat

from vab_rt.errors import OptionError
from vab_rt.options import number

_MOST_S = 1e9  # a longer part of a video is a mistake
_ROUNDED_S = 0.005  # by which an end that is told in hundredths may be beyond


def exact_seconds(seconds: float) -> Fraction:
    """Seconds as typed, to the microsecond: 3.2 is 16/5, as a frame's timestamp would be."""
    return Fraction(round(seconds * 1_000_000), 1_000_000)


def told_s(seconds: SupportsFloat) -> str:
    """Seconds in a message, to the millisecond, fewer than 0.1 to the microsecond: what it advises
    works once it is typed."""
    exact = float(seconds)
    return f"{round(exact, 3 if abs(exact) >= 0.1 else 6):.12g}"


def check_part(start_s: Any, duration_s: Any) -> tuple[float, float | None]:
    """A part of a video, as numbers. Raises OptionError."""
    start_s = number("start", start_s, float, 0, _MOST_S, "0 s or more, at most 1e9 s")
    if duration_s is not None:
        least, expected = sys.float_info.min, "more than 0 s, at most 1e9 s"
        duration_s = number("duration", duration_s, float, least, _MOST_S, expected)
    return start_s, duration_s


def check_part_of_sound(
    start_s: Any, end_s: Any, sound_s: float, token_s: float
) -> tuple[float, float]:
    """Where a part of a sound begins and ends; end_s None: with the sound. Raises OptionError for
    one that is not within it, or shorter than a token."""
    expected = f"0 to {told_s(sound_s)} s, the length of the sound"
    start_s = number("the part's start", start_s, float, 0, sound_s, expected)
    if end_s is None:
        end_s = sound_s
    end_s = number("the part's end", end_s, float, 0, sound_s + _ROUNDED_S, expected)
    end_s = min(end_s, sound_s)
    if end_s < start_s:
        raise OptionError(
            f"the part is from {told_s(start_s)} to {told_s(end_s)} s, expected its beginning "
            "before its end; turn the two round"
        )
    if exact_seconds(end_s) - exact_seconds(start_s) < exact_seconds(token_s):
        raise OptionError(
            f"the part from {told_s(start_s)} to {told_s(end_s)} s is {told_s(end_s - start_s)} s "
            f"long, expected at least {told_s(token_s)} s, what one token says; choose a longer one"
        )
    return start_s, end_s
