"""The codecs behind one contract: audio [B, S] <-> tokens [B, K, T]."""

from collections.abc import Iterator
from typing import Protocol, TypeVar

import msgspec
import torch
from torch import Tensor, nn

from training.codecs.learned import LearnedSpectralCodec
from training.codecs.spectral import SpectralCodec, SpectralSettings
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError

Settings = TypeVar("Settings", bound=msgspec.Struct)


class Codec(Protocol):
    """What the model and the exporter need of a codec, and below that what its training needs."""

    codebooks: Tensor
    """[K, V, code_dim]"""

    def encode(self, audio: Tensor) -> Tensor:
        """audio [B, S] in [-1, 1] -> tokens int32 [B, K, T]"""
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, K, T] -> audio [B, S]"""
        ...

    def latents(self, audio: Tensor) -> Tensor:
        """What is quantised [B, T, code_dim]; of DAC [B, T, more], as every level of it projects
        what is left to code_dim."""
        ...

    def distances(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """How far the codes of codebook K' are from what the ones before it, with their tokens
        [K', N], leave of latents [N, width]: [N, V], as shares; the least is the token."""
        ...

    def points(self, audio: Tensor) -> Tensor:
        """What `fit` begins with [B, T, width]: the latents, or what they are learned from."""
        ...

    def fit(self, points: Tensor) -> Iterator[None]:
        """Begin with codebooks that suit these points [N, width]; yields after each of them."""
        ...

    def fit_shares(self, points: Tensor) -> Tensor:
        """How likely each frame of one clip's points [T, width] is to be one that the codebooks
        begin with, 0 to 1 [T]."""
        ...

    def reconstruct(
        self, audio: Tensor, random: torch.Generator, dead_below: float, bfloat16: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """audio [B, S] -> audio [B, S] with gradients, and losses of what lies before it.

        dead_below: see `codebooks.follow`. bfloat16: in the networks, where torch's autocast does.
        """
        ...


def build_codec(config: ModelConfig, settings: dict | None = None) -> nn.Module:
    """The codec that `config.codec` names, with untrained weights.

    Raises OptionError for a codec that is not built, and for settings it does not have, and
    BackendError where the library of a codec is missing.
    """
    if config.codec == "spectral":
        found = read_settings(settings, SpectralSettings)
        kind = LearnedSpectralCodec if found.encoder_width else SpectralCodec
        return kind(config, found)
    if config.codec == "encodec":
        from training.codecs.encodec import EncodecCodec, EncodecSettings

        return EncodecCodec(config, read_settings(settings, EncodecSettings))
    if config.codec == "dac":
        from training.codecs.dac import DacCodec, DacSettings

        return DacCodec(config, read_settings(settings, DacSettings))
    raise OptionError(f"codec is {config.codec!r}, expected spectral, encodec or dac")


def read_settings(found: dict | None, kind: type[Settings]) -> Settings:
    """Raises OptionError naming the key at fault and the keys there are."""
    try:
        return msgspec.convert(found or {}, kind)
    except msgspec.ValidationError as error:
        known = ", ".join(kind.__struct_fields__)
        raise OptionError(f"codec settings: {error}; expected some of: {known}") from error


def load_codebooks(codec: nn.Module, weights: dict[str, Tensor]) -> None:
    """The weights of a codec of as many codebooks or more, of which `codec` takes the first."""
    codec.load_state_dict({name: weights[name] for name in codec.state_dict()})
