"""EnCodec at 16 kHz: the codec of AudioGen, which VAB takes its tokens from (paper appendix B).

The encodec package's EncodecModel ties the codebook size to 1024, so the codec is put together from
that package's parts; names and settings are those of audiocraft's `encodec_large_nq4_s320`, so that
the state_dict of Meta's own weights fits. `codec_training.py` trains it from the beginning.
"""

import math
from collections.abc import Iterator

import msgspec
import torch
from encodec.modules import SEANetDecoder, SEANetEncoder
from encodec.quantization import ResidualVectorQuantizer
from torch import Tensor, nn
from torch.nn import functional as F

from training.codecs.codebooks import distances, fit_codebooks, quantise
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError


class EncodecSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the codec that the tensor contract does not fix. ratios multiply to the hop."""

    num_filters: int = 64
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    lstm_layers: int = 2


class EncodecCodec(nn.Module):
    """audio [B, S] in [-1, 1] <-> tokens [B, K, T], S = T * hop."""

    def __init__(self, config: ModelConfig, settings: EncodecSettings) -> None:
        super().__init__()
        if math.prod(settings.ratios) != config.hop_samples:
            raise OptionError(
                f"encodec ratios {settings.ratios} multiply to {math.prod(settings.ratios)}, "
                f"expected the hop of the model ({config.hop_samples})"
            )
        stack = {
            "dimension": config.code_dim,
            "n_filters": settings.num_filters,
            "ratios": list(settings.ratios),
            "lstm": settings.lstm_layers,
            "norm": "weight_norm",
            "pad_mode": "constant",
            "true_skip": True,
        }
        self.encoder = SEANetEncoder(**stack)
        self.decoder = SEANetDecoder(**stack)
        self.quantizer = ResidualVectorQuantizer(
            dimension=config.code_dim,
            n_q=config.num_codebooks,
            bins=config.codebook_size,
            kmeans_init=False,
        )

    @property
    def codebooks(self) -> Tensor:
        """[K, V, code_dim]"""
        return torch.stack([layer.codebook for layer in self.quantizer.vq.layers])

    def latents(self, audio: Tensor) -> Tensor:
        """What is quantised."""
        return self.encoder(audio[:, None]).transpose(1, 2)  # [B, T, code_dim]

    def encode(self, audio: Tensor) -> Tensor:
        codes = self.quantizer.vq.encode(self.latents(audio).transpose(1, 2))  # [K, B, T]
        return codes.transpose(0, 1).to(torch.int32)

    def decode(self, tokens: Tensor) -> Tensor:
        latents = sum(
            F.embedding(tokens[:, k], layer.codebook)
            for k, layer in enumerate(self.quantizer.vq.layers)
        )  # [B, T, code_dim]
        return self.decoder(latents.transpose(1, 2))[:, 0]

    def distances(self, latents: Tensor, tokens: Tensor) -> Tensor:
        return distances(self.codebooks, latents, tokens)

    def points(self, audio: Tensor) -> Tensor:
        """The latents."""
        return self.latents(audio)

    def fit(self, latents: Tensor) -> Iterator[None]:
        return fit_codebooks(self.quantizer, latents)

    def fit_shares(self, latents: Tensor) -> Tensor:
        """Equal shares [T] of one clip's frames [T, code_dim]: what they hold is not known yet."""
        return torch.ones(len(latents), device=latents.device)

    def reconstruct(
        self, audio: Tensor, random: torch.Generator, dead_below: float, bfloat16: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training pass: what becomes of audio [B, S], and the commitment loss."""
        with torch.autocast(audio.device.type, torch.bfloat16, bfloat16):
            latents = self.latents(audio).float()
        quantised, commitment = quantise(self.quantizer, latents, random, dead_below)
        with torch.autocast(audio.device.type, torch.bfloat16, bfloat16):
            output = self.decoder(quantised.transpose(1, 2))[:, 0].float()
        return output, {"commitment": commitment}
