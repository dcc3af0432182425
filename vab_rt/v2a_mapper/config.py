"""V2A-Mapper's two kinds of settings: facts of an exported model, and how it denoises."""

from typing import Literal

from vab_rt.config import ClipConfig
from vab_rt.errors import BundleError
from vab_rt.options import GenerateOptions


class V2AConfig(ClipConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts of one exported V2A-Mapper (arXiv:2308.09300) with its AudioLDM (arXiv:2301.12503).

    Letters beside those of every system: T latent columns of a clip, one a hop, M latent rows over
    frequency, C latent channels. aggregator: how the features of a clip's frames become one
    vector; unit_frames: each is of unit length before. mapper none hands that vector over as it is.
    audio_dim: size of the CLAP embedding that the latents are conditioned on. mapper_* are of a
    prior's diffusion (steps, share of fresh noise, guidance, times it was trained with); timesteps,
    beta_start, beta_end and steps_offset of the latents'.
    """

    hop_samples: int = 640
    unit_frames: bool = False
    aggregator: Literal["mean", "middle", "random"] = "mean"
    mapper: Literal["regression", "prior", "none"] = "prior"
    mapper_timesteps: int = 1000
    mapper_steps: int = 64
    mapper_eta: float = 1.0
    mapper_guidance: float = 1.0
    audio_dim: int = 512
    latent_channels: int = 8
    latent_factor: int = 4
    num_mels: int = 64
    timesteps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    steps_offset: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("audio_dim", "latent_channels", "latent_factor", "num_mels")
        if self.num_mels % self.latent_factor or self.hop_samples % self.latent_factor:
            raise BundleError(
                f"model num_mels is {self.num_mels} and hop_samples {self.hop_samples}, expected "
                f"multiples of latent_factor ({self.latent_factor})"
            )
        if self.mapper != "regression" and self.visual_dim != self.audio_dim:
            raise BundleError(
                f"model visual_dim is {self.visual_dim} and audio_dim {self.audio_dim}, expected "
                f"the same with the mapper {self.mapper!r}; only regression goes between widths"
            )
        if not 1 <= self.mapper_steps < self.mapper_timesteps <= 100_000:
            raise BundleError(
                f"model mapper_steps is {self.mapper_steps} and mapper_timesteps "
                f"{self.mapper_timesteps}, expected 1 or more steps, fewer than "
                "timesteps, and at most 100000 of these"
            )
        if not (0 <= self.mapper_eta <= 1 and 0 <= self.mapper_guidance <= 100):
            raise BundleError(
                f"model mapper_eta is {self.mapper_eta} and mapper_guidance "
                f"{self.mapper_guidance}, expected 0 to 1 and 0 to 100"
            )
        if not 2 <= self.timesteps <= 100_000 or not 0 <= self.steps_offset <= 1:
            raise BundleError(
                f"model timesteps is {self.timesteps} and steps_offset {self.steps_offset}, "
                "expected 2 to 100000 and 0 or 1"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise BundleError(
                f"model beta_start is {self.beta_start} and beta_end {self.beta_end}, expected "
                "more than 0 to less than 1, in this order"
            )

    @property
    def num_rows(self) -> int:
        """M: latent rows, over frequency."""
        return self.num_mels // self.latent_factor

    @property
    def num_mel_frames(self) -> int:
        """Columns of the mel spectrogram of one clip."""
        return self.num_hops * self.latent_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """C, T, M: what is denoised, of one clip."""
        return self.latent_channels, self.num_hops, self.num_rows


class LatentOptions(GenerateOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a system that denoises latents, with nothing left open.

    The defaults, which live here and nowhere else, are those of AudioLDM's pipeline in diffusers;
    its paper takes 200 steps. A bundle may recommend others.
    """

    steps: int = 10
    guidance: float = 2.5
