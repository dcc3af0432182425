"""Small checkpoints with random weights, for the tests of the exporter."""

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from training.checkpoint import MOTION, Checkpoint, read_checkpoint
from training.codecs.codec import build_codec
from training.image_encoder import image_encoder
from training.model import VAB
from training.visual_encoder import MotionEncoder
from vab_rt.config import ModelConfig

SETTINGS: dict[str, dict[str, Any]] = {
    "spectral": {"decoder_width": 24, "decoder_blocks": 1},
    "encodec": {"num_filters": 4, "ratios": [20, 16], "lstm_layers": 1},
    "dac": {"encoder_width": 4, "decoder_width": 8, "ratios": [5, 64]},
}


RECIPE_MODEL = """
codec = "spectral"
image_encoder = "resnet-tiny-64"
image_size = 32
visual_dim = 8
codebook_size = 9
code_dim = 288
width = 16
heads = 2
alibi = "time"
"""
"""Of a very small model in the file of a recipe, but for its name and layers."""


def tiny_config(**changes: Any) -> ModelConfig:
    facts: dict[str, Any] = {
        "name": "tiny-test",
        "codec": "spectral",
        "image_encoder": "resnet-tiny-64",
        "image_size": 32,
        "visual_dim": 24,
        "visual_rate_hz": 2.5,
        "clip_s": 2.0,
        "num_codebooks": 3,
        "codebook_size": 37,
        "code_dim": 288,
        "width": 32,
        "layers": 3,
        "expert_layers": 2,
        "heads": 4,
        "alibi": "time",
        "sinusoids": True,
    }
    return ModelConfig(**(facts | changes))


def tiny_checkpoint(config: ModelConfig, seed: int = 0) -> dict[str, Any]:
    """What `ckpt.pt` of a trained model holds."""
    torch.manual_seed(seed)
    codec, vab = build_codec(config, SETTINGS[config.codec]), VAB(config)
    if config.codec != "dac":  # whose codes point everywhere, as random ones do
        spread_codebooks(codec, config)
    vab.use_codebooks(codec.codebooks)
    return {
        "config": msgspec.to_builtins(config),
        "codec_settings": SETTINGS[config.codec],
        "vab": vab.state_dict(),
        "codec": codec.state_dict(),
        "image_encoder": image_encoder(config).state_dict(),
        **({MOTION: MotionEncoder(config).state_dict()} if config.motion_dim else {}),
        "license": "Apache-2.0",
        "provenance": {"data": "none, random weights"},
    }


def saved_checkpoint(folder: Path, config: ModelConfig, seed: int = 0, **more: Any) -> Checkpoint:
    """In `folder`/ckpt.pt, with `more` in its header."""
    torch.save(tiny_checkpoint(config, seed) | more, folder / "ckpt.pt")
    return read_checkpoint(folder / "ckpt.pt")


def coded_vab(config: ModelConfig) -> VAB:
    """Untrained, with codes as a codec would give it."""
    torch.manual_seed(0)
    vab = VAB(config)
    vab.use_codebooks(torch.randn_like(vab.codebooks))
    return vab.eval()


def short_config(**changes: Any) -> ModelConfig:
    """Of half a second: F 4, T 25, K 2, V 16."""
    facts = {"clip_s": 0.5, "visual_rate_hz": 8.0, "visual_dim": 8, "num_codebooks": 2}
    sizes = {"codebook_size": 16, "code_dim": 8, "width": 16, "heads": 2}
    return tiny_config(**facts | sizes | changes)


def save_average(path: Path, module: nn.Module) -> None:
    """What training leaves of a module in `path`."""
    torch.save({"average": {"weights": module.state_dict(), "count": 1}, "step": 1}, path)


@torch.no_grad()
def spread_codebooks(codec: nn.Module, config: ModelConfig) -> None:
    """Take the codes from the codec's own residuals, so that many of them are used."""
    audio = 0.1 * torch.randn(4, config.num_samples)
    residual = codec.latents(audio).flatten(0, 1)  # [B * T, code_dim]
    for layer in codec.quantizer.vq.layers:
        layer.codebook.copy_(residual[torch.randperm(len(residual))[: config.codebook_size]])
        nearest = torch.cdist(residual, layer.codebook).argmin(1)
        residual = residual - layer.codebook[nearest]
