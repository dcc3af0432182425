"""The codecs behind one contract: audio [B, S] <-> tokens [B, K, T]."""

from typing import Protocol

import msgspec
from torch import Tensor, nn

from training.spectral import SpectralCodec, SpectralSettings
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError


class Codec(Protocol):
    """What the model and the exporter need of a codec."""

    codebooks: Tensor
    """[K, V, code_dim]"""

    def encode(self, audio: Tensor) -> Tensor:
        """audio [B, S] in [-1, 1] -> tokens int32 [B, K, T]"""
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """tokens [B, K, T] -> audio [B, S]"""
        ...


def build_codec(config: ModelConfig, settings: dict | None = None) -> nn.Module:
    """The codec that `config.codec` names, with untrained weights."""
    if config.codec == "spectral":
        return SpectralCodec(config, msgspec.convert(settings or {}, SpectralSettings))
    if config.codec == "encodec":
        from training.encodec import EncodecCodec, EncodecSettings

        return EncodecCodec(config, msgspec.convert(settings or {}, EncodecSettings))
    raise OptionError(f"codec {config.codec!r} is not built yet; expected spectral or encodec")
