"""The ground truth of a clip, and its JSON form."""

from pathlib import Path

import msgspec

from vab_rt.errors import DataError

LEVEL_RATE_HZ = 10


class Truth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a clip: `events` are onset times in seconds per class, sorted.

    Continuous classes may have no events. `levels` are per class: the visible state, 0..1, at
    (i + 0.5) / LEVEL_RATE_HZ: height of the ball or tool, density, swell, speed, beam, beak.
    `attributes` are per class: size and distance in words and numbers, material, colour, pitch
    and whatever else the class adds. `held_out` says what of the clip training never sees.
    """

    seed: int
    held_out: tuple[str, ...]
    classes: tuple[str, ...]
    events: dict[str, tuple[float, ...]]
    levels: dict[str, tuple[float, ...]]
    attributes: dict[str, dict[str, str | float]]


def write_truth(path: Path, truth: Truth) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(truth), indent=2) + b"\n")


def read_truth(path: Path) -> Truth:
    """What `write_truth` wrote. Raises DataError for anything else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Truth)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected the truth of a clip of FoleyWorld as JSON; "
            "render the clip again"
        ) from error
