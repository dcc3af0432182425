"""A run's folder belongs to one recipe."""

from pathlib import Path
from typing import Any

import msgspec

from training.datasets.shard_format import write_whole
from training.names import readable
from vab_rt.errors import DataError, OptionError
from vab_rt.output import UNFINISHED, writing

FREE = (
    *("pretrain_minutes", "fine_minutes", "contrastive_minutes", "classification_minutes"),
    *("denoiser_minutes", "evaluated_clips", "options"),
)
"""What may change between runs in one folder: no other network learns from what comes of it."""


def hold_recipe(folder: Path, recipe: msgspec.Struct, **given: Path | str | None) -> None:
    """Leaves the recipe, and what else was `given`, in `folder`, whose later runs must have the
    same: what was made with another would stay unnoticed. FREE may change.

    Raises OptionError naming what differs.
    """
    path = folder / "recipe.json"
    now = flat(msgspec.json.decode(msgspec.json.encode(recipe)))
    now |= {name: None if value is None else readable(value) for name, value in given.items()}
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(UNFINISHED):  # of a process that was killed
            leftover.unlink()
    if not path.exists() or list(folder.iterdir()) == [path]:  # nothing was made yet
        return write_whole(path, msgspec.json.format(msgspec.json.encode(now)) + b"\n")
    try:
        before = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected the recipe of this folder; delete it to go "
            "on with the one that you give"
        ) from error
    both = sorted(before.keys() & now.keys())  # a version before or after this one may have others
    differing = [name for name in both if before[name] != now[name]]
    if differing:
        name = differing[0]
        raise OptionError(
            f"{folder} was begun with {name} {before[name]!r}, expected that and not "
            f"{now[name]!r} ({len(differing)} differ in all); choose another --out, or delete "
            f"{path} to keep what was made"
        )


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A.B.C: value of nested tables, without what may change between runs."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name in FREE:
            continue
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
