"""A V2A-Mapper's graphs: one module each, inputs and outputs as in the contract, against torch."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.modules import Store, TypedImageEncoder, check_range, round_weights, stored_as
from export.verify import Arrays, compare, open_session
from training.v2a_mapper.checkpoint import V2ACheckpoint
from training.v2a_mapper.parts import PictureEncoder, decode_latents
from vab_rt.contract import GraphContract
from vab_rt.errors import ExportError
from vab_rt.v2a_mapper.config import V2AConfig

TYPED_V2A = ("visual_encoder", "unet")
"""Also exported in 16 bits: the rest takes a fraction of the time, and a vocoder adds up phases."""


class UNetStep(nn.Module):
    """latent [B, C, T, M], timestep [B], embedding [B, audio_dim], conditional [B] -> noise
    [B, C, T, M]; `unet` is diffusers' UNet2DConditionModel.

    The null embedding [audio_dim], that of no text, is a constant of the graph.
    """

    def __init__(self, unet: nn.Module, null_embedding: Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("null_embedding", null_embedding.clone(), persistent=False)

    def forward(
        self, latent: Tensor, timestep: Tensor, embedding: Tensor, conditional: Tensor
    ) -> Tensor:
        shown = conditional[:, None]  # [B, 1]
        condition = shown * embedding + (1 - shown) * self.null_embedding
        return self.unet(
            latent, timestep, encoder_hidden_states=None, class_labels=condition
        ).sample


class NarrowUNetStep(UNetStep):
    """The same computing in `dtype`, float32 at its ends."""

    def __init__(self, unet: nn.Module, null_embedding: Tensor, dtype: torch.dtype) -> None:
        nn.Module.to(unet, dtype)  # that of diffusers warns of parts that this one has none of
        super().__init__(unet, null_embedding.to(dtype))
        self.dtype = self.rounding = dtype

    def forward(
        self, latent: Tensor, timestep: Tensor, embedding: Tensor, conditional: Tensor
    ) -> Tensor:
        latent, embedding, conditional = map(self.enter, (latent, embedding, conditional))
        return super().forward(latent, timestep, embedding, conditional).float()

    def enter(self, x: Tensor) -> Tensor:
        return x.to(self.rounding).to(self.dtype)


class NarrowPictureEncoder(TypedImageEncoder):
    """The same of `PictureEncoder`, whose features have any length."""

    def __init__(self, encoder: PictureEncoder, dtype: torch.dtype) -> None:
        super().__init__(encoder, dtype)
        self.unit_frames = encoder.unit_frames

    def forward(self, frames: Tensor) -> Tensor:
        images = (frames.float().permute(0, 3, 1, 2) - self.mean) / self.std
        features = self.visual(images.to(self.rounding).to(self.dtype)).float()
        return F.normalize(features, dim=-1) if self.unit_frames else features


class VaeDecoder(nn.Module):
    """latent [B, C, T, M] -> log-mel spectrogram [B, T * factor, num_mels]; `vae` is diffusers'
    AutoencoderKL, whose scaling is undone here."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latent: Tensor) -> Tensor:
        return decode_latents(self.vae, latent)


class Vocoder(nn.Module):
    """mel [B, frames, num_mels] -> audio [B, S] in [-1, 1], without what the network adds at the
    end. Raises ExportError where there is too little."""

    def __init__(self, vocoder: nn.Module, config: V2AConfig) -> None:
        super().__init__()
        self.vocoder, self.num_samples = vocoder, config.num_samples

    def forward(self, mel: Tensor) -> Tensor:
        audio = self.vocoder(mel)  # [B, at least S]
        if audio.shape[1] < self.num_samples:
            raise ExportError(
                f"the vocoder makes {audio.shape[1]} samples of {mel.shape[1]} frames, expected at "
                f"least {self.num_samples}; the config does not belong to these weights"
            )
        return audio[:, : self.num_samples].clamp(-1, 1)


def v2a_module(name: str, checkpoint: V2ACheckpoint, store: Store) -> nn.Module:
    """The module of one graph of the contract, in eval mode, inputs and outputs in its order."""
    c = checkpoint
    builders = {
        "visual_encoder": c.image_encoder,
        "mapper": c.mapper,
        "unet": lambda: UNetStep(c.unet(), c.null_embedding),
        "vae_decoder": lambda: VaeDecoder(c.vae()),
        "vocoder": lambda: Vocoder(c.vocoder(), c.config),
    }
    module: nn.Module = builders[name]().eval()
    round_weights(module, stored_as(name, store))
    return module


def typed_v2a_module(name: str, checkpoint: V2ACheckpoint) -> nn.Module:
    """One of TYPED_V2A computing in float16. Raises ExportError for weights beyond it."""
    dtype = torch.float16
    part = checkpoint.unet() if name == "unet" else checkpoint.image_encoder()
    check_range(part, dtype, others="fp32")
    if name == "unet":
        return NarrowUNetStep(part, checkpoint.null_embedding, dtype).eval()
    return NarrowPictureEncoder(part, dtype).eval()


def widened_v2a_module(name: str, checkpoint: V2ACheckpoint) -> nn.Module:
    """The same with its rounded weights, computing in float32."""
    module = typed_v2a_module(name, checkpoint).float()
    module.dtype = torch.float32
    return module


def verify_v2a(
    name: str,
    module: nn.Module,
    path: Path,
    contract: GraphContract,
    config: V2AConfig,
    *,
    is_rounded: bool = False,
) -> float:
    """The largest relative error of the graph. Raises ExportError beyond the table's tolerance.

    is_rounded: both round to 16 bits inside.
    """
    inputs_of = partial(v2a_inputs, contract, config)
    return compare(name, module, open_session(path), contract, inputs_of, is_rounded=is_rounded)


def v2a_inputs(contract: GraphContract, config: V2AConfig, batch: int) -> Arrays:
    """The same inputs every time: noise of each input's kind, times within both diffusions."""
    random = np.random.default_rng(0)
    last = min(config.timesteps, config.mapper_timesteps)
    inputs: Arrays = {}
    for tensor in contract.inputs:
        shape = tuple(batch if isinstance(size, str) else size for size in tensor.shape)
        if tensor.name == "frames":
            inputs["frames"] = random.integers(256, size=shape, dtype=np.uint8)
        elif tensor.name == "timestep":
            inputs["timestep"] = random.integers(last, size=shape, dtype=np.int32)
        elif tensor.name == "conditional":
            inputs["conditional"] = (np.arange(batch) % 2 == 0).astype(np.float32)
        else:
            noise = random.standard_normal(shape, np.float32)
            is_unit = tensor.name == "embedding"
            length = np.linalg.norm(noise, axis=-1, keepdims=True) if is_unit else np.float32(1)
            inputs[tensor.name] = noise / length
    return inputs
