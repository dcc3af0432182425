"""V2A-Mapper (arXiv:2308.09300): the frames' embedding is mapped to one of sound, which a latent
diffusion model, AudioLDM, makes sound of.

One embedding stands for a whole window: the sound fits what is seen, not when it is seen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.engines import Engines
from vab_rt.errors import BundleError, OptionError
from vab_rt.options import GenerateOptions, fill_in
from vab_rt.philox import EMBEDDING_STREAM, FRAME_STREAM, LATENT_STREAM, normal, uniform
from vab_rt.seeing import encode_images
from vab_rt.v2a_mapper.config import LatentOptions, V2AConfig
from vab_rt.v2a_mapper.contract import V2AManifest
from vab_rt.v2a_mapper.diffusion import (
    Latent,
    cosine_alphas,
    denoise,
    embedding_levels,
    guided,
    latent_levels,
    scaled_linear_alphas,
)
from vab_rt.windows import Window

if TYPE_CHECKING:  # features can do without the library that reads videos
    from vab_rt.video import Frame

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class V2AMapper:
    """`engines` has the graphs of the contract. Its state is latents [B, C, T, M]."""

    config: V2AConfig
    engines: Engines
    defaults: LatentOptions = field(default_factory=LatentOptions)

    stages = ("latents", "vocoder")

    def see(self, frames: "Iterator[Frame]") -> Iterator[npt.NDArray[np.float32]]:
        """Features [visual_dim] of a video's frames, one each."""
        return encode_images(frames, self.engines["visual_encoder"])

    def options(self, overrides: GenerateOptions) -> LatentOptions:
        """The caller's overrides, and the model's own where there are none."""
        options = fill_in(overrides, self.defaults, f"model {self.config.name}")
        if options.steps >= self.config.timesteps:
            raise OptionError(
                f"steps is {options.steps}, expected 1 to {self.config.timesteps - 1} for model "
                f"{self.config.name}; choose fewer"
            )
        return options

    def num_steps(self, options: LatentOptions) -> int:
        return options.steps

    def decode(
        self, window: Window, previous: Latent | None, options: LatentOptions
    ) -> Iterator[tuple[int, Latent]]:
        """Latents [1, C, T, M] of one window, step by step.

        The columns that it shares with the window before are that one's: they are known, and what
        follows is denoised to go on from them, under the embedding of this window's own frames.
        """
        seed = window.seed(options.seed)
        embedding = self.embedding_of(window.features[: window.num_seen], seed)
        start = latent_noise(self.config, seed)
        known = None
        if previous is not None:
            known = previous[:, :, self.config.num_hops - self.config.num_overlap_hops :]
        yield from self.denoise_latents(embedding, start, options, known)

    def embedding_of(self, features: Vector, seed: int) -> Vector:
        """The pseudo CLAP embedding [1, audio_dim] of features [n, visual_dim]: of unit length, as
        the embeddings that AudioLDM was trained with."""
        return unit(self.map_features(aggregate(features, self.config, seed)[None], seed))

    def map_features(self, features: Vector, seed: int) -> Vector:
        """features [1, visual_dim] -> an embedding [1, audio_dim] of any length."""
        c = self.config
        if c.mapper == "none":
            return features
        mapper = self.engines["mapper"]
        if c.mapper == "regression":
            return mapper(features=features)
        predict = guided(mapper, {"features": features}, "noisy", c.mapper_guidance)
        levels = embedding_levels(cosine_alphas(c.mapper_timesteps), c.mapper_steps, c.mapper_eta)

        def noise(draw: int) -> Vector:
            return normal(seed, draw, EMBEDDING_STREAM, np.arange(c.audio_dim, dtype=np.uint32))

        def fresh(step: int) -> Vector:
            return noise(step + 1)[None]

        steps = denoise(predict, "original", noise(0)[None], levels, fresh=fresh)
        *_, (_, scaled) = steps
        return scaled / np.float32(math.sqrt(c.audio_dim))

    def denoise_latents(
        self, embedding: Vector, start: Latent, options: LatentOptions, known: Latent | None = None
    ) -> Iterator[tuple[int, Latent]]:
        """Latents [1, C, T, M] that fit an embedding [1, audio_dim], from a standard normal."""
        c = self.config
        predict = guided(self.engines["unet"], {"embedding": embedding}, "latent", options.guidance)
        alphas = scaled_linear_alphas(c.timesteps, c.beta_start, c.beta_end)
        levels = latent_levels(alphas, options.steps, c.steps_offset)
        return denoise(predict, "noise", start, levels, known=known)

    def render(self, state: Latent) -> npt.NDArray[np.float32]:
        return self.engines["vocoder"](mel=self.engines["vae_decoder"](latent=state))


def open_system(bundle: Bundle, engines: Engines) -> V2AMapper:
    manifest = bundle.manifest
    assert isinstance(manifest, V2AManifest), manifest.kind
    return V2AMapper(manifest.model, engines, manifest.defaults)


def facts_of(manifest: V2AManifest) -> Iterator[tuple[str, str]]:
    """Name and value of what people should know of such a model."""
    c, steps = manifest.model, manifest.defaults.steps
    latents = f"{c.latent_channels} x {c.num_hops} x {c.num_rows} of {c.num_mels} mels"
    rates = f"{c.hop_rate_hz:g} Hz, hop {c.hop_samples}"
    yield "latents", f"{latents} ({rates}), {steps} steps of {c.timesteps}"
    how = f", {c.mapper_steps} steps" if c.mapper == "prior" else ""
    sizes = f"{c.visual_dim} to {c.audio_dim}, {c.aggregator} of the frames"
    yield "mapper", f"{c.mapper}, {sizes}{how}"


def aggregate(features: Vector, config: V2AConfig, seed: int) -> Vector:
    """One vector [visual_dim] of those of a window's frames, [n, visual_dim]."""
    if config.aggregator == "random":
        share = uniform(seed, 0, FRAME_STREAM, np.zeros(1, np.uint32))[0]
        features = features[int(share * len(features))][None]
    elif config.aggregator == "middle":
        features = features[len(features) // 2][None]
    mean: Vector = features.mean(axis=0)
    return mean


def unit(vectors: Vector) -> Vector:
    """Vectors [B, D] of unit length. Raises BundleError for one that has no direction."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)  # [B, 1]
    if not np.isfinite(lengths).all() or not lengths.all():
        raise BundleError(
            f"the mapper returned an embedding of length {float(lengths.min()):g}, expected a "
            "finite one with a direction; export the model again"
        )
    scaled: Vector = vectors / lengths
    return scaled


def latent_noise(config: V2AConfig, seed: int) -> Latent:
    """The standard normal [1, C, T, M] that a window starts from."""
    places = np.arange(math.prod(config.latent_shape), dtype=np.uint32)
    return normal(seed, 0, LATENT_STREAM, places).reshape(1, *config.latent_shape)
