"""Small checkpoints of a V2A-Mapper with random weights, for the tests of the exporter."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from training.v2a_mapper.checkpoint import V2AHeader, write_v2a_checkpoint
from training.v2a_mapper.mapper import build_mapper
from training.v2a_mapper.parts import (
    PictureEncoder,
    build_unet,
    build_vae,
    build_vocoder,
    library,
)
from training.v2a_mapper.settings import MapperSettings, Networks
from vab_rt.options import Tuning
from vab_rt.v2a_mapper.config import V2AConfig

LOUDER = 15
"""Weights of an untrained vocoder times this: without it what comes out is nothing, and equal."""

LICENSE = "audioldm: CC-BY-NC-SA-4.0; mapper: MIT; clip: MIT"
"""As imports leave it."""

UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "cross_attention_dim": [8, 16],
    "class_embed_type": "simple_projection",
    "projection_class_embeddings_input_dim": 24,
    "class_embeddings_concat": True,
}
VAE: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [4, 8, 8],
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 4,
    "sample_size": 64,
    "scaling_factor": 0.9227914214134216,
}
VOCODER: dict[str, Any] = {
    "model_in_dim": 64,
    "sampling_rate": 16_000,
    "upsample_initial_channel": 32,
    "upsample_rates": [5, 4, 2, 2, 2],
    "upsample_kernel_sizes": [16, 16, 8, 4, 4],
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3], [1, 3]],
    "normalize_before": False,
}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
TEXT = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 40,
    "projection_dim": 24,
}
MAPPER = MapperSettings(depth=2, heads=2, dim_head=8, null_tokens=3)


def tiny_v2a_config(**changes: Any) -> V2AConfig:
    """A clip of 1 s: F 2, C 8, T 25, M 16, S 16000."""
    facts: dict[str, Any] = {
        "name": "tiny-v2a",
        "image_encoder": "resnet-tiny-64",
        "image_size": 32,
        "visual_dim": 24,
        "visual_rate_hz": 2.0,
        "clip_s": 1.0,
        "audio_dim": 24,
        "mapper_steps": 5,
    }
    return V2AConfig(**(facts | changes))


def tiny_networks(**changes: Any) -> Networks:
    return Networks(**({"mapper": MAPPER, "unet": UNET, "vae": VAE, "vocoder": VOCODER} | changes))


def tiny_parts(config: V2AConfig, networks: Networks, seed: int = 0) -> dict[str, nn.Module]:
    torch.manual_seed(seed)
    parts = {
        "image_encoder": PictureEncoder(config),
        "mapper": build_mapper(config, networks.mapper),
        "unet": build_unet(networks.unet),
        "vae": build_vae(networks.vae),
        "vocoder": loud_vocoder(networks.vocoder, seed),
    }
    with torch.no_grad():
        parts["vae"].decoder.conv_out.weight.mul_(LOUDER / 4)
    return {name: part.eval() for name, part in parts.items() if part is not None}


@torch.no_grad()
def loud_vocoder(sizes: dict[str, Any], seed: int) -> nn.Module:
    """From a seed of its own: how loud it is hangs on the weights that are drawn."""
    torch.manual_seed(seed)
    vocoder = build_vocoder(sizes)
    for weight in vocoder.parameters():
        weight.mul_(LOUDER if weight.dim() > 1 else 1)
    return vocoder


def write_tiny_v2a(path: Path, config: V2AConfig | None = None, seed: int = 0) -> Path:
    """What the training of a V2A-Mapper writes."""
    config = config or tiny_v2a_config()
    networks = tiny_networks()
    header = V2AHeader(
        config=config,
        networks=networks,
        options=Tuning(steps=4),
        provenance={"data": "none, random weights"},
        license=LICENSE,
    )
    parts = tiny_parts(config, networks, seed)
    null = F.normalize(torch.randn(config.audio_dim), dim=0)
    write_v2a_checkpoint(path, header, parts, null)
    return path


def write_tiny_audioldm(folder: Path) -> Path:
    """As AudioLDMPipeline.save_pretrained lays it out, without a tokenizer."""
    diffusers, transformers = library("diffusers"), library("transformers")
    torch.manual_seed(0)
    parts = {
        "unet": build_unet(UNET),
        "vae": build_vae(VAE),
        "vocoder": build_vocoder(VOCODER),
        "text_encoder": transformers.ClapTextModelWithProjection(
            transformers.ClapTextConfig(**TEXT)
        ),
        "scheduler": diffusers.DDIMScheduler(**SCHEDULER),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {"_class_name": "AudioLDMPipeline", "_diffusers_version": "0.15.0"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
