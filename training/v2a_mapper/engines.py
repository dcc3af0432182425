"""A checkpoint as engines of the runtime, so that its own modules run in the product's loops."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from training.evaluation.models import on_device, torch_engine
from training.v2a_mapper.checkpoint import V2ACheckpoint
from training.v2a_mapper.parts import decode_latents
from vab_rt.engines import Engines
from vab_rt.options import fill_in
from vab_rt.v2a_mapper.config import LatentOptions
from vab_rt.v2a_mapper.system import V2AMapper


def open_system(checkpoint: V2ACheckpoint, device: str = "cpu") -> V2AMapper:
    """Raises ExportError for weights that do not fit, BackendError for a device."""
    config = checkpoint.config
    vae = on_device(checkpoint.vae(), device)
    vocoder = on_device(checkpoint.vocoder(), device)
    functions = {
        "visual_encoder": on_device(checkpoint.image_encoder(), device),
        "unet": unet_step(on_device(checkpoint.unet(), device), checkpoint.null_embedding),
        "vae_decoder": lambda latent: decode_latents(vae, latent),
        "vocoder": lambda mel: vocoder(mel)[:, : config.num_samples].clamp(-1, 1),
    }
    mapper = checkpoint.mapper()
    if mapper is not None:
        functions["mapper"] = mapper_step(on_device(mapper, device), config.mapper)
    graphs = {name: torch_engine(function, device) for name, function in functions.items()}
    defaults = fill_in(checkpoint.header.options, LatentOptions(), f"model {config.name}")
    return V2AMapper(config, Engines(graphs, device), defaults)


def unet_step(unet: nn.Module, null_embedding: Tensor) -> Callable[..., Tensor]:
    def step(latent: Tensor, timestep: Tensor, embedding: Tensor, conditional: Tensor) -> Tensor:
        told = conditional[:, None] > 0
        condition = torch.where(told, embedding, null_embedding.to(embedding.device))
        return unet(latent, timestep, encoder_hidden_states=None, class_labels=condition).sample

    return step


def mapper_step(mapper: nn.Module, kind: str) -> Callable[..., Tensor]:
    """With the names of the contract, which is another for each kind of mapper."""
    if kind == "regression":
        return lambda features: mapper(features)

    def step(noisy: Tensor, timestep: Tensor, features: Tensor, conditional: Tensor) -> Tensor:
        return mapper(noisy, timestep, features, conditional)

    return step
