"""What a V2A-Mapper system is: facts of the exported model, and the sizes of its networks."""

from typing import Any, Literal, Self

import msgspec

from vab_rt.errors import OptionError


class V2AConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts of one model. Lengths: F pictures, T latent columns, M latent rows, S samples.

    mapper none hands the picture's vector over as it is. unit_frames: each picture's vector is made
    unit length before the aggregator. The defaults of the two diffusions are those of the prior of
    DALLE2-pytorch and of AudioLDM.
    """

    name: str
    image_encoder: str
    image_size: int
    visual_dim: int
    visual_rate_hz: float = 1.0
    unit_frames: bool = False
    aggregator: Literal["mean", "middle", "random"] = "mean"
    clip_s: float = 10.0
    sample_rate_hz: int = 16_000
    mel_hop_samples: int = 160
    num_mels: int = 64
    latent_factor: int = 4
    latent_channels: int = 8
    audio_dim: int = 512
    mapper: Literal["regression", "prior", "none"] = "prior"
    mapper_timesteps: int = 1000
    mapper_steps: int = 64
    mapper_eta: float = 1.0
    mapper_guidance: float = 1.0
    timesteps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    steps_offset: int = 1

    def __post_init__(self) -> None:
        if self.mapper != "regression" and self.visual_dim != self.audio_dim:
            raise OptionError(
                f"visual_dim is {self.visual_dim} and audio_dim {self.audio_dim}, expected the "
                f"same for the mapper {self.mapper!r}; only regression goes between widths"
            )
        if self.num_mels % self.latent_factor:
            raise OptionError(
                f"num_mels is {self.num_mels}, expected a multiple of latent_factor "
                f"({self.latent_factor})"
            )
        if self.num_samples % self.hop_samples:
            raise OptionError(
                f"clip_s is {self.clip_s}, expected whole latent columns of "
                f"{self.hop_samples / self.sample_rate_hz:g} s"
            )

    @property
    def hop_samples(self) -> int:
        """Samples of a latent column."""
        return self.mel_hop_samples * self.latent_factor

    @property
    def num_frames(self) -> int:
        """F: pictures of one clip."""
        return max(1, round(self.clip_s * self.visual_rate_hz))

    @property
    def num_samples(self) -> int:
        """S: samples of one clip."""
        return round(self.clip_s * self.sample_rate_hz)

    @property
    def num_columns(self) -> int:
        """T: latent columns of one clip."""
        return self.num_samples // self.hop_samples

    @property
    def num_rows(self) -> int:
        """M: latent rows, over frequency."""
        return self.num_mels // self.latent_factor

    def with_mapper(self, mapper: str) -> Self:
        return msgspec.structs.replace(self, mapper=mapper)


class MapperSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the two mappers; the defaults are those of the paper, as far as they are known.

    expansion: of the regression's hidden layer. The rest is of the prior: null_tokens are learned
    constants in the place of a text; norm_in is a norm before its first layer, with which it has
    48,833,408 parameters, without 48,832,896 (the paper says 48.83 million).
    """

    expansion: int = 4
    depth: int = 12
    heads: int = 12
    dim_head: int = 64
    ff_mult: int = 4
    null_tokens: int = 77
    norm_in: bool = True
    dropout: float = 0.05

    def __post_init__(self) -> None:
        for name in ("expansion", "depth", "heads", "dim_head", "ff_mult"):
            if getattr(self, name) < 1:
                raise OptionError(f"mapper {name} is {getattr(self, name)}, expected at least 1")
        if self.null_tokens < 0 or not 0 <= self.dropout < 1:
            raise OptionError(
                f"mapper null_tokens is {self.null_tokens} and dropout {self.dropout}, expected "
                "0 or more, and 0 to less than 1"
            )


class Networks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """unet, vae and vocoder: what their constructors in diffusers and transformers take."""

    mapper: MapperSettings = MapperSettings()
    unet: dict[str, Any]
    vae: dict[str, Any]
    vocoder: dict[str, Any]
