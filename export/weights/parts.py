"""One imported part of a checkpoint, and the check that every tensor of a file is accounted for."""

import reprlib
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from vab_rt.errors import ExportError

MAX_LISTED = 8
MAX_SIZE = 4096
MAX_RATIOS = 8
"""The most strides that a file may say its codec has: beyond, building it takes for ever."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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

    Raises ExportError that lists missing, unexpected, mis-shaped and non-finite tensors, and those
    whose values are not plain numbers of the expected sort, such as quantised ones.
    """
    theirs = {their_name(name): name for name in expected}
    present = [name for name in theirs if name in found]
    misfits = [n for n in present if found[n].shape != expected[theirs[n]].shape]
    odd = [n for n in present if not is_alike(found[n], expected[theirs[n]])]
    faults = {
        "missing": [name for name in theirs if name not in found],
        "unexpected": [name for name in found if name not in theirs],
        "of another shape": [
            f"{n} {list(found[n].shape)} instead of {list(expected[theirs[n]].shape)}"
            for n in misfits
        ],
        "of another type": [f"{n} {kind_of(found[n])}" for n in odd],
        "not finite": [n for n in present if n not in odd and not torch.isfinite(found[n]).all()],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
        raise ExportError(
            f"{where} does not fit the model of --config: {listed}; expected its {len(expected)} "
            "tensors and no other: choose the config or the file that belongs to it"
        )
    return {ours: found[name].to(expected[ours].dtype) for name, ours in theirs.items()}


def is_alike(found: Tensor, expected: Tensor) -> bool:
    """Whether it holds plain numbers, floats of 16 bits or more where floats are expected."""
    is_there = found.device.type == "cpu" and found.layout == torch.strided
    dtypes = FLOATS if expected.dtype in FLOATS else (expected.dtype,)
    return is_there and found.dtype in dtypes


def kind_of(tensor: Tensor) -> str:
    words = [str(tensor.dtype), str(tensor.layout), tensor.device.type]
    return " ".join(word.removeprefix("torch.") for word in words)


def check_facts(where: object, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """What a file says about its model, as far as it says it. Raises ExportError naming all."""
    wrong = [
        f"{key} is {shown(found[key])}, expected {shown(value)}"
        for key, value in expected.items()
        if key in found and found[key] != value
    ]
    if wrong:
        raise ExportError(
            f"{where} describes another model: {_listed(wrong)}; choose the config or the file "
            "that belongs to it"
        )


def shown(value: Any) -> str:
    """As Python writes it, cut short: a file may say anything."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxstring, short.maxother = 2, MAX_LISTED, 80, 80
    return short.repr(value)


def _listed(names: list[str]) -> str:
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
