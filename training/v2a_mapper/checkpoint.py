"""A V2A-Mapper in one file: what the exporter reads. Format: docs/BUNDLE.md."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from training.checkpoint import Origin, check_weights, load_weights, read_parts
from training.saving import save_whole
from training.v2a_mapper.mapper import build_mapper
from training.v2a_mapper.parts import (
    PictureEncoder,
    build_unet,
    build_vae,
    build_vocoder,
    check_networks,
)
from training.v2a_mapper.settings import Networks
from vab_rt.errors import ExportError, VabError
from vab_rt.v2a_mapper.config import V2AConfig

KIND = "v2a-mapper"
NULL_EMBEDDING = "null_embedding"
V2A_PARTS = ("image_encoder", "mapper", "unet", "vae", "vocoder", NULL_EMBEDDING)
UNIT_WITHIN = 1e-3


class V2AHeader(Origin, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything but the weights."""

    kind: Literal["v2a-mapper"] = KIND
    config: V2AConfig
    networks: Networks


class V2ACheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """weights: by part (V2A_PARTS), then by name in that part's module."""

    path: Path
    header: V2AHeader
    weights: dict[str, dict[str, Tensor]]

    @property
    def config(self) -> V2AConfig:
        return self.header.config

    @property
    def networks(self) -> Networks:
        return self.header.networks

    @property
    def null_embedding(self) -> Tensor:
        """CLAP's unit vector of the empty text [audio_dim]."""
        return self.weights[NULL_EMBEDDING]["text"].float()

    def image_encoder(self) -> PictureEncoder:
        return self._load("image_encoder", PictureEncoder(self.config))

    def mapper(self) -> nn.Module | None:
        """None where the config says that there is none."""
        module = build_mapper(self.config, self.networks.mapper)
        return None if module is None else self._load("mapper", module)

    def unet(self) -> nn.Module:
        return self._load("unet", build_unet(self.networks.unet))

    def vae(self) -> nn.Module:
        return self._load("vae", build_vae(self.networks.vae))

    def vocoder(self) -> nn.Module:
        return self._load("vocoder", build_vocoder(self.networks.vocoder))

    def _load(self, part: str, module: Any) -> Any:
        return load_weights(f"{self.path}: {part}", self.weights[part], module)


def read_v2a_checkpoint(path: Path) -> V2ACheckpoint:
    """A .pt (read with weights_only) or .safetensors file. Raises ExportError.

    The parts must fit each other; the weights are checked as each part is built.
    """
    header, weights = read_parts(path, V2A_PARTS)
    if header.get("kind") != KIND:
        raise ExportError(
            f"{path} has the kind {header.get('kind')!r}, expected {KIND!r}: another system's "
            "checkpoint, or no checkpoint of this project"
        )
    try:
        found = msgspec.convert(header, V2AHeader)
        check_networks(found.config, found.networks)
    except (msgspec.ValidationError, VabError) as error:
        raise ExportError(f"{path}: {error}") from error
    _check_parts(path, found.config, weights)
    return V2ACheckpoint(path=path, header=found, weights=weights)


def write_v2a_checkpoint(
    path: Path, header: V2AHeader, modules: dict[str, nn.Module], null_embedding: Tensor
) -> None:
    """A .pt of plain values and tensors; whole or not at all. Raises OutputError.

    modules: by part, without a mapper where the config has none.
    """
    expected = [p for p in V2A_PARTS if p != NULL_EMBEDDING]
    if header.config.mapper == "none":
        expected.remove("mapper")
    assert sorted(modules) == sorted(expected), sorted(modules)
    weights = {part: module.state_dict() for part, module in modules.items()}
    weights[NULL_EMBEDDING] = {"text": null_embedding}
    save_whole(path, msgspec.to_builtins(header) | weights)


def _check_parts(path: Path, config: V2AConfig, weights: dict[str, dict[str, Tensor]]) -> None:
    needed = [p for p in V2A_PARTS if p != "mapper" or config.mapper != "none"]
    found, listed = sorted(weights), ", ".join(needed)
    if found != sorted(needed):
        at_fault = min(set(found) ^ set(needed))
        what = f"also has {at_fault}" if at_fault in found else f"has no {at_fault}"
        raise ExportError(
            f"{path} {what}, expected {listed}; weights of others are put in with: python -m "
            "export.import_weights"
        )
    expected = {"text": torch.empty(config.audio_dim)}
    check_weights(f"{path}: {NULL_EMBEDDING}", weights[NULL_EMBEDDING], expected)
    length = weights[NULL_EMBEDDING]["text"].float().norm().item()
    if abs(length - 1) > UNIT_WITHIN:
        raise ExportError(
            f"{path}: {NULL_EMBEDDING} is {length:.4g} long, expected 1: CLAP's embedding of the "
            "empty text, normalised"
        )
