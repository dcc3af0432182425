"""AudioLDM's networks, from diffusers and transformers, and whether they fit each other.

The UNet hears one vector, through a class embedding that is joined to that of time; it has no text
to attend to, so its cross-attention looks at the latents themselves (arXiv:2301.12503, section 3).
"""

import inspect
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.image_encoder import ImageEncoder
from training.v2a_mapper.settings import Networks
from vab_rt.errors import OptionError, first_line, not_installed
from vab_rt.v2a_mapper.config import V2AConfig


def build_unet(sizes: dict[str, Any]) -> nn.Module:
    """A UNet2DConditionModel, untrained: latents [B, C, T, M], times [B], class_labels [B, D]."""
    network = library("diffusers").UNet2DConditionModel
    return _built("unet", lambda: network(**sizes), sizes, inspect.signature(network).parameters)


def build_vae(sizes: dict[str, Any]) -> nn.Module:
    """An AutoencoderKL, untrained: log mels [B, 1, 4T, 4M] <-> latents [B, C, T, M]."""
    network = library("diffusers").AutoencoderKL
    return _built("vae", lambda: network(**sizes), sizes, inspect.signature(network).parameters)


def build_vocoder(sizes: dict[str, Any]) -> nn.Module:
    """A SpeechT5HifiGan, untrained: log mels [B, N, mels] -> sound [B, hop * N + rest]."""
    transformers = library("transformers")
    network, config = transformers.SpeechT5HifiGan, transformers.SpeechT5HifiGanConfig
    return _built("vocoder", lambda: network(config(**sizes)), sizes, config().to_dict())


def library(name: str) -> ModuleType:
    """Raises BackendError where it is missing."""
    try:
        return import_module(name)
    except ImportError as error:
        raise not_installed(f"V2A-Mapper needs {name}", name, error) from error


def _built(
    part: str, build: Callable[[], nn.Module], sizes: dict[str, Any], known: Iterable[str]
) -> nn.Module:
    """Raises OptionError for sizes that the library does not know or cannot build."""
    unknown = sorted(set(sizes) - set(known))
    if unknown:
        raise OptionError(
            f"{part} has the key {unknown[0]!r}, expected some of: {', '.join(sorted(known))}"
        )
    try:
        return build()
    except (ValueError, TypeError, IndexError, ZeroDivisionError) as error:  # as libraries do
        raise OptionError(
            f"{part} cannot be built ({first_line(error)}), expected sizes that fit each other"
        ) from error


class PictureEncoder(ImageEncoder):
    """As `ImageEncoder`, but features have the length that CLIP gives them, unless told otherwise.

    frames uint8 [N, image_size, image_size, 3] -> features float32 [N, visual_dim].
    """

    def __init__(self, config: V2AConfig, visual: nn.Module | None = None) -> None:
        super().__init__(config, visual)
        self.unit_frames = config.unit_frames

    def forward(self, frames: Tensor) -> Tensor:
        images = frames.float().permute(0, 3, 1, 2)  # [N, 3, image_size, image_size]
        features = self.visual((images - self.mean) / self.std)
        return F.normalize(features, dim=-1) if self.unit_frames else features


def decode_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """latents [B, C, T, M] -> log mels [B, 4T, 4M]."""
    return vae.decode(latents / vae.config.scaling_factor).sample[:, 0]


def check_networks(config: V2AConfig, networks: Networks) -> None:
    """Raises OptionError for networks that do not fit the config, and so not each other."""
    with torch.device("meta"):
        unet, vae = build_unet(networks.unet).config, build_vae(networks.vae).config
        vocoder = build_vocoder(networks.vocoder).config
    hop = 1
    for rate in vocoder.upsample_rates:
        hop *= rate
    found_and_expected = {
        "unet class_embed_type": (unet.class_embed_type, "simple_projection"),
        "unet class_embeddings_concat": (unet.class_embeddings_concat, True),
        "unet projection_class_embeddings_input_dim": (
            unet.projection_class_embeddings_input_dim,
            config.audio_dim,
        ),
        "unet in_channels": (unet.in_channels, config.latent_channels),
        "unet out_channels": (unet.out_channels, config.latent_channels),
        "vae latent_channels": (vae.latent_channels, config.latent_channels),
        "vae in_channels": (vae.in_channels, 1),
        "vae out_channels": (vae.out_channels, 1),
        "vae factor": (2 ** (len(vae.block_out_channels) - 1), config.latent_factor),
        "vocoder model_in_dim": (vocoder.model_in_dim, config.num_mels),
        "vocoder upsampling": (hop, config.hop_samples // config.latent_factor),
    }
    for name, (found, expected) in found_and_expected.items():
        if found != expected:
            raise OptionError(
                f"{name} is {found!r}, expected {expected!r} for model {config.name}; these "
                "networks do not belong together"
            )
