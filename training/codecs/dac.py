"""DAC at 16 kHz: the codec of VAB-DAC (paper appendix B; arXiv:2306.06546).

The network is `transformers.DacModel`'s, and so are the names of its weights; weight norm is folded
into them. A model of K codebooks has the first K of DAC's 12 levels: each refines the ones before.
"""

import math
from collections.abc import Iterator

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.codecs.codebooks import kmeans
from vab_rt.config import ModelConfig
from vab_rt.errors import BackendError, OptionError

FITTING_ROUNDS = 20
COMMITMENT_SHARE = 0.25  # of the codebook's own loss (arXiv:2306.06546 section 3.6)


class DacSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the codec that the tensor contract does not fix. ratios: of the encoder, in order;
    they multiply to the hop."""

    encoder_width: int = 64
    decoder_width: int = 1536
    ratios: tuple[int, ...] = (2, 4, 5, 8)


class DacCodec(nn.Module):
    """audio [B, S] in [-1, 1] <-> tokens [B, K, T], S = T * hop."""

    def __init__(self, config: ModelConfig, settings: DacSettings) -> None:
        super().__init__()
        check_sizes(config, settings)
        model = build_dac_model(config, settings)
        self.hop = config.hop_samples
        self.encoder, self.decoder, self.quantizer = model.encoder, model.decoder, model.quantizer

    @property
    def codebooks(self) -> Tensor:
        """[K, V, code_dim]"""
        return torch.stack([level.codebook.weight for level in self.quantizer.quantizers])

    def latents(self, audio: Tensor) -> Tensor:
        """What is quantised [B, T, width of the latents]; each level looks at code_dim of it."""
        return self.encoder(audio[:, None]).transpose(1, 2)

    def encode(self, audio: Tensor) -> Tensor:
        residual, tokens = self.latents(audio).transpose(1, 2), []  # [B, width, T]
        for level in self.quantizer.quantizers:
            seen = level.in_proj(residual)  # [B, code_dim, T]
            codes, indices = level.decode_latents(seen)
            tokens.append(indices)
            # Rounded as in DacModel, whose gradient goes straight through: equal tokens need it.
            residual = residual - level.out_proj(seen + (codes - seen))
        return torch.stack(tokens, 1).to(torch.int32)  # [B, K, T]

    def decode(self, tokens: Tensor) -> Tensor:
        """Also of fewer than K levels. A stride of 5 takes 8 samples off the end (0.5 ms), which
        are silence here."""
        levels = zip(self.quantizer.quantizers, tokens.unbind(1), strict=False)
        latents = sum(
            level.out_proj(F.embedding(indices, level.codebook.weight).transpose(1, 2))
            for level, indices in levels
        )  # [B, width, T]
        audio = self.decoder(latents)[:, 0]
        return F.pad(audio, (0, tokens.shape[2] * self.hop - audio.shape[1]))  # [B, S]

    def distances(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Squared, between directions: DAC looks for the code that points the same way."""
        residual = latents.T[None]  # [1, width, N]
        for level, indices in zip(self.quantizer.quantizers, tokens, strict=False):
            codes = F.embedding(indices, level.codebook.weight).T[None]
            residual = residual - level.out_proj(codes)
        level = self.quantizer.quantizers[len(tokens)]
        seen = F.normalize(level.in_proj(residual)[0].T)  # [N, code_dim]
        return torch.cdist(seen, F.normalize(level.codebook.weight)).square()

    @torch.no_grad()
    def points(self, audio: Tensor) -> Tensor:
        """The latents."""
        return self.latents(audio)

    @torch.no_grad()
    def fit(self, latents: Tensor) -> Iterator[None]:
        """k-means, level by level, of what each projects."""
        residual = latents.T[None]  # [1, width, N]
        for level in self.quantizer.quantizers:
            seen = level.in_proj(residual)[0].T  # [N, code_dim]
            level.codebook.weight.copy_(kmeans(seen, len(level.codebook.weight), FITTING_ROUNDS))
            codes, _ = level.decode_latents(seen.T[None])
            residual = residual - level.out_proj(codes)
            yield

    def fit_shares(self, latents: Tensor) -> Tensor:
        """Equal shares [T] of one clip's frames [T, width]: what they hold is not known yet."""
        return torch.ones(len(latents), device=latents.device)

    def reconstruct(
        self, audio: Tensor, random: torch.Generator, dead_below: float, bfloat16: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Training pass: what becomes of audio [B, S], and the losses of codebooks and encoder.

        The codebooks learn by their gradient, so nothing is drawn and no code is replaced.
        """
        with torch.autocast(audio.device.type, torch.bfloat16, bfloat16):
            latents = self.encoder(audio[:, None]).float()
        residual, losses = latents, []
        for level in self.quantizer.quantizers:
            seen = level.in_proj(residual)
            codes, _ = level.decode_latents(seen)
            to_codes, to_encoder = (
                F.mse_loss(codes, seen.detach()),
                F.mse_loss(seen, codes.detach()),
            )
            losses.append(to_codes + COMMITMENT_SHARE * to_encoder)
            residual = residual - level.out_proj(seen + (codes - seen).detach())
        with torch.autocast(audio.device.type, torch.bfloat16, bfloat16):
            output = self.decoder(latents - residual)[:, 0].float()
        output = F.pad(output, (0, audio.shape[1] - output.shape[1]))
        return output, {"commitment": torch.stack(losses).mean()}


def check_sizes(config: ModelConfig, settings: DacSettings) -> None:
    """Raises OptionError for sizes that do not go together."""
    if math.prod(settings.ratios) != config.hop_samples:
        raise OptionError(
            f"dac ratios {settings.ratios} multiply to {math.prod(settings.ratios)}, "
            f"expected the hop of the model ({config.hop_samples})"
        )
    if config.codebook_size & (config.codebook_size - 1):
        raise OptionError(
            f"dac codebook_size is {config.codebook_size}, expected a power of 2, such as the "
            "1024 of the paper"
        )


def build_dac_model(config: ModelConfig, settings: DacSettings) -> nn.Module:
    """transformers' model of these sizes. Raises BackendError where transformers is missing."""
    try:
        from transformers import DacConfig, DacModel
    except ImportError as error:
        raise BackendError(
            f"the codec dac cannot be built ({error}), expected transformers 4.45 or newer; "
            "install it with: pip install 'vab-rt[export]'"
        ) from error
    sizes = DacConfig(
        encoder_hidden_size=settings.encoder_width,
        decoder_hidden_size=settings.decoder_width,
        downsampling_ratios=list(settings.ratios),
        n_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
        codebook_dim=config.code_dim,
        sampling_rate=config.sample_rate_hz,
    )
    return DacModel(sizes)
