"""Weights of others that a bundle names instead of holding: what a graph has of them is found by
its values, so it matters not how a file calls them, or in which file they came."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor, nn

from training.efficientnet import ENTRY, LITE0, read_efficientnet
from vab_rt.config import ModelConfig
from vab_rt.contract import WeightsEntry
from vab_rt.errors import ExportError
from vab_rt.torch_file import Arrays, Unreadable
from vab_rt.weights import READERS, fault_of

LEAST_NUMBERS = 8
"""What is smaller, or has one value throughout as any file may, lies in the graph."""


class Referred(NamedTuple):
    """A file that graphs may refer to. key: what the manifest calls it."""

    key: str
    entry: WeightsEntry
    arrays: Arrays


def own_references(config: ModelConfig) -> list[Referred]:
    """The files that a model's own parts come from, where a package brings them."""
    if config.image_encoder != LITE0:
        return []
    return [Referred(LITE0, ENTRY, read_efficientnet())]


def reference_to(path: Path, weights: Iterable[Tensor]) -> Referred:
    """A .safetensors file, or one of torch, that has some of these weights. Raises ExportError."""
    kind = "safetensors" if path.suffix == ".safetensors" else "torch"
    try:
        content = path.read_bytes()
        arrays = READERS[kind](content)
    except (OSError, Unreadable) as error:
        raise ExportError(
            f"{path} cannot be read as weights ({error}), expected .safetensors or a file of "
            "torch.save; leave --refer out to copy the weights into the bundle"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    entry = WeightsEntry(file=path.name, format=kind, size_bytes=len(content), sha256=digest)
    if (fault := fault_of(entry)) is not None:
        raise ExportError(f"{path}: a bundle cannot name {fault}; rename the file")
    referred = Referred(path.name, entry, arrays)
    if not _has_any(weights, [referred]):
        raise ExportError(
            f"{path} has none of the weights of this model, expected the file that they were "
            "imported from, in float32; leave --refer out"
        )
    return referred


def holds_any(module: nn.Module, referred: Iterable[Referred]) -> bool:
    """Whether a file has some of a module's weights."""
    # Not its state_dict, which leaves out what a package brings.
    return _has_any(chain(module.parameters(), module.buffers()), referred)


def _has_any(weights: Iterable[Tensor], referred: Iterable[Referred]) -> bool:
    places = _places(referred)
    arrays = (
        weight.detach().cpu().numpy() for weight in weights if weight.numel() >= LEAST_NUMBERS
    )
    return bool(places) and any(_print_of(array) in places for array in arrays)


def take_out(
    model: ir.Model, referred: Iterable[Referred]
) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Leave the weights that the files have without values, and under the files' names.

    Returns each with what is to be its value in the end: a reference to its file.
    """
    places, taken = _places(referred), []
    if not places:
        return []
    initializers = model.graph.initializers
    names = {value.name for value in (*model.graph.inputs, *initializers.values())}
    names |= {output.name for node in model.graph for output in node.outputs}
    for value in list(initializers.values()):
        array = value.const_value.numpy()
        found = places.get(_print_of(array)) if array.size >= LEAST_NUMBERS else None
        if not found:
            continue
        key, name = found.pop()
        if name in names - {value.name}:  # of something else
            continue
        names.add(name)
        outside = ir.ExternalTensor(
            key, None, None, value.const_value.dtype, shape=value.const_value.shape, name=name
        )
        value.const_value = None
        del initializers[value.name]
        value.name = name
        initializers[name] = value
        taken.append((value, outside))
    return taken


def names_by_file(model: ir.Model) -> dict[str, tuple[str, ...]]:
    """What a graph refers to, as its manifest says it."""
    found: dict[str, list[str]] = {}
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            found.setdefault(str(value.const_value.location), []).append(value.name)
    return {key: tuple(sorted(names)) for key, names in found.items()}


def weights_outside(model: ir.Model, referred: Iterable[Referred]) -> Arrays:
    """The same with their values, by name."""
    files = {file.key: file.arrays for file in referred}
    named = names_by_file(model).items()
    return {name: files[key][name] for key, names in named for name in names}


def _places(referred: Iterable[Referred]) -> dict[bytes, list[tuple[str, str]]]:
    """By values, the files and names of tensors; the first comes last."""
    places: dict[bytes, list[tuple[str, str]]] = {}
    for key, name, array in reversed(list(_tensors(referred))):
        places.setdefault(_print_of(array), []).append((key, name))
    return places


def _tensors(referred: Iterable[Referred]) -> Iterator[tuple[str, str, NDArray]]:
    for file in referred:
        for name, array in file.arrays.items():
            if array.size >= LEAST_NUMBERS and (array != array.flat[0]).any():
                yield file.key, name, array


def _print_of(array: NDArray) -> bytes:
    facts = f"{array.dtype.str} {array.shape}".encode()
    return hashlib.sha256(facts + array.tobytes()).digest()
