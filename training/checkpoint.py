"""Checkpoints: read without running code, and refuse what does not fit. Format: docs/BUNDLE.md."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from training.codecs.codec import build_codec
from training.image_encoder import image_encoder
from training.model import VAB
from training.saving import DAMAGE, save_whole, with_new_keys
from training.visual_encoder import MotionEncoder, VisualEncoder
from vab_rt.config import ModelConfig
from vab_rt.errors import ExportError, first_line
from vab_rt.options import Tuning

PARTS = ("vab", "codec", "image_encoder")
MOTION = "motion_encoder"
"""The part that only a model with motion_dim has."""
Module = TypeVar("Module", bound=nn.Module)


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a checkpoint of any kind says of itself. options: how the model wants to be decoded."""

    options: Tuning = Tuning()
    provenance: dict[str, str]
    license: str

    def with_provenance(self, more: dict[str, str]) -> Self:
        return msgspec.structs.replace(self, provenance=self.provenance | more)


class Header(Origin, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything in a checkpoint but its weights."""

    config: ModelConfig
    codec_settings: dict[str, Any] = {}


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """weights: by part (`parts_of`), then by name in that part's module."""

    path: Path
    header: Header
    weights: dict[str, dict[str, Tensor]]

    @property
    def config(self) -> ModelConfig:
        return self.header.config

    def vab(self) -> VAB:
        found = a_projection_each(self.weights["vab"], self.config.num_codebooks)
        vab = load_weights(f"{self.path}: vab", found, VAB(self.config))
        if not torch.equal(vab.codebooks, self.codec().codebooks):
            raise ExportError(
                f"{self.path}: the codebooks of vab are not those of codec; "
                "expected the codec that the model was trained on"
            )
        return vab

    def codec(self) -> nn.Module:
        return self._load("codec", build_codec(self.config, self.header.codec_settings))

    def image_encoder(self) -> nn.Module:
        return self._load("image_encoder", image_encoder(self.config))

    def motion_encoder(self) -> MotionEncoder:
        return self._load(MOTION, MotionEncoder(self.config))

    def visual_parts(self) -> dict[str, nn.Module]:
        """The image encoder, and the motion encoder where the model has one, by part."""
        motion = {MOTION: self.motion_encoder()} if self.config.motion_dim else {}
        return {"image_encoder": self.image_encoder(), **motion}

    def visual_encoder(self) -> VisualEncoder:
        parts = self.visual_parts()
        return VisualEncoder(self.config, parts["image_encoder"], parts.get(MOTION)).eval()

    def _load(self, part: str, module: Module) -> Module:
        return load_weights(f"{self.path}: {part}", self.weights[part], module)


def read_checkpoint(path: Path) -> Checkpoint:
    """A .pt (read with weights_only) or .safetensors file. Raises ExportError."""
    content, weights = read_parts(path, (*PARTS, MOTION))
    lacking = [part for part in PARTS if part not in weights]
    if lacking:
        raise ExportError(
            f"{path}: {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing, "
            f"expected {', '.join(PARTS)}; weights of others are put in with: python -m "
            "export.import_weights"
        )
    try:
        header = msgspec.convert(content, Header)
    except msgspec.ValidationError as error:  # msgspec names the key and what it expected
        raise ExportError(f"{path}: {error}") from error
    _check_names(path, weights, parts_of(header.config))
    return Checkpoint(path=path, header=header, weights=weights)


def parts_of(config: ModelConfig) -> tuple[str, ...]:
    return (*PARTS, MOTION) if config.motion_dim else PARTS


def read_parts(
    path: Path, parts: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The plain values of a checkpoint, and of its parts their tensors by name.

    parts: which keys of a .pt are state_dicts. Raises ExportError.
    """
    if not path.is_file():
        raise ExportError(f"{path} is not a file, expected a .pt or .safetensors checkpoint")
    if path.suffix == ".pt":
        content, weights = _read_pt(path, parts)
    elif path.suffix == ".safetensors":
        content, weights = _read_safetensors(path)
    else:
        raise ExportError(f"{path} ends in {path.suffix!r}, expected .pt or .safetensors")
    return with_new_keys(content), weights


def write_checkpoint(path: Path, header: Header, modules: dict[str, nn.Module]) -> None:
    """A .pt of plain values and its parts' tensors; whole or not at all. Raises OutputError."""
    assert sorted(modules) == sorted(parts_of(header.config)), sorted(modules)
    weights = {part: module.state_dict() for part, module in modules.items()}
    save_whole(path, msgspec.to_builtins(header) | weights)


def load_weights(where: str, found: dict[str, Tensor], module: Module) -> Module:
    """The module with these weights, in eval mode. Raises ExportError where they do not fit."""
    check_weights(where, found, module.state_dict())
    module.load_state_dict(found)
    return module.eval()


def check_weights(where: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same names, the same shapes, and finite values, or an ExportError naming the first."""
    _check_names(where, found, expected)
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise ExportError(
                f"{where}: {name} is {_shape(found[name])}, expected {_shape(tensor)}; "
                "the config does not belong to these weights"
            )
        if not torch.isfinite(found[name]).all():
            raise ExportError(f"{where}: {name} holds NaN or infinity, expected finite weights")


def a_projection_each(weights: dict[str, Tensor], num_codebooks: int) -> dict[str, Tensor]:
    """Older checkpoints have one for all codebooks: a copy for each of them computes the same."""
    shared, codebooks = weights.get("audio_in.weight"), weights.get("codebooks")
    if shared is None or codebooks is None or shared.shape[1:] != codebooks.shape[2:]:
        return weights
    return weights | {"audio_in.weight": shared.repeat(1, num_codebooks)}


def _check_names(where: object, found: Any, expected: Any) -> None:
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise ExportError(
            f"{where}: {missing[0]} is missing ({len(missing)} names in all), expected all "
            "that the config calls for; it does not belong to these weights"
        )
    if unexpected:
        raise ExportError(
            f"{where}: {unexpected[0]!r} is unexpected ({len(unexpected)} names in all), expected "
            "what the config calls for; it does not belong to these weights"
        )


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _read_pt(
    path: Path, parts: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    try:
        is_zip = zipfile.is_zipfile(path)  # others cannot be mapped, and torch says no more of them
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path} holds more than tensors and plain values, which could run code; "
            "expected a state_dict checkpoint: save it again without custom objects"
        ) from error
    except DAMAGE as error:
        raise ExportError(
            f"{path} cannot be read as a torch file ({first_line(error)}), expected a whole one; "
            "copy it again from where it came"
        ) from error
    if not isinstance(content, dict):
        raise ExportError(f"{path} holds a {type(content).__name__}, expected a dict of its parts")
    weights = {part: content.pop(part) for part in parts if part in content}
    for part, tensors in weights.items():
        if not isinstance(tensors, dict) or not all(
            isinstance(tensor, Tensor) for tensor in tensors.values()
        ):
            raise ExportError(f"{path}: {part} is not a state_dict, expected names and tensors")
    return content, weights


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("checkpoint", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise ExportError(
            f"{path} cannot be read as safetensors ({first_line(error)}), expected a whole file; "
            "copy it again from where it came"
        ) from error
    if not isinstance(header, dict):
        raise ExportError(f"{path} has no JSON object under `checkpoint` in its metadata")
    weights: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        weights.setdefault(part, {})[rest] = tensor
    return header, weights
