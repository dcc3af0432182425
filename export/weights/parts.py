"""One imported part of a checkpoint, and the check that every tensor of a file is accounted for."""

from collections.abc import Callable
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from vab_rt.errors import ExportError

MAX_LISTED = 8


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """weights: under our names. settings: of the codec. source: for people, in the provenance."""

    name: Literal["codec", "image_encoder"]
    weights: dict[str, Tensor]
    settings: dict[str, Any] = {}
    source: str


def fit_weights(
    where: object,
    found: dict[str, Tensor],
    expected: dict[str, Tensor],
    their_name: Callable[[str], str] = lambda ours: ours,
) -> dict[str, Tensor]:
    """found, under the names and in the dtypes of expected, which may lie on torch's meta device.

    Raises ExportError that lists missing, unexpected, mis-shaped and non-finite tensors.
    """
    theirs = {their_name(name): name for name in expected}
    present = [name for name in theirs if name in found]
    misfits = [n for n in present if found[n].shape != expected[theirs[n]].shape]
    faults = {
        "missing": [name for name in theirs if name not in found],
        "unexpected": [name for name in found if name not in theirs],
        "of another shape": [
            f"{n} {list(found[n].shape)} instead of {list(expected[theirs[n]].shape)}"
            for n in misfits
        ],
        "not finite": [n for n in present if not torch.isfinite(found[n]).all()],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
        raise ExportError(
            f"{where} does not fit the model of --config: {listed}; expected its {len(expected)} "
            "tensors and no other: choose the config or the file that belongs to it"
        )
    return {ours: found[name].to(expected[ours].dtype) for name, ours in theirs.items()}


def check_facts(where: object, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """What a file says about its model, as far as it says it. Raises ExportError naming all."""
    wrong = [
        f"{key} is {found[key]!r}, expected {value!r}"
        for key, value in expected.items()
        if key in found and found[key] != value
    ]
    if wrong:
        raise ExportError(
            f"{where} describes another model: {_listed(wrong)}; choose the config or the file "
            "that belongs to it"
        )


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
