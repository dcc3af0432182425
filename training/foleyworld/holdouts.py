"""What training never sees: a band of sizes, a band of tempi, combinations of things.

Scenes that have one of these belong to the split `held-out` and to no other.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from training.foleyworld.stage import Place

KINDS = ("size", "tempo", "combination")
SIZES = (0.42, 0.54)  # of any source
GAPS_S = (1.15, 1.35)  # mean time between the events of an impact
# Of a class and what stands behind it, and of two classes in one picture.
BACKDROPS = {
    "ball": "bricks",
    "drum": "hills",
    "hammer": "outdoors",
    "footsteps": "stripes",
    "clock": "plain",
    "knock": "hills",
    "engine": "bricks",
    "saw": "plain",
    "bird": "stripes",
    "bell": "hills",
}
PAIRS = (
    {"ball", "siren"},
    {"drum", "bird"},
    {"hammer", "fire"},
    {"footsteps", "engine"},
    {"clock", "alarm"},
    {"knock", "saw"},
)


class Seen(Protocol):
    """What is asked of a source."""

    @property
    def kind(self) -> str: ...
    @property
    def place(self) -> Place: ...
    @property
    def events_s(self) -> tuple[float, ...]: ...


def held_out_kinds(
    sources: Sequence[Seen], backdrop: str, impacts: frozenset[str]
) -> tuple[str, ...]:
    """Which of KINDS a scene has."""
    rhythms = [source.events_s for source in sources if source.kind in impacts]
    found = {
        "size": any(SIZES[0] <= source.place.size < SIZES[1] for source in sources),
        "tempo": any(GAPS_S[0] <= float(np.diff(r).mean()) < GAPS_S[1] for r in rhythms),
        "combination": any(BACKDROPS.get(source.kind) == backdrop for source in sources)
        or {source.kind for source in sources} in PAIRS,
    }
    return tuple(kind for kind in KINDS if found[kind])
