"""What is exported: one module a graph, built from a checkpoint, ready for every backend."""

from typing import Literal

import torch
from torch import Tensor, nn

from training.checkpoint import Checkpoint
from training.model import VAB, attention_bias, sinusoids
from vab_rt.errors import ExportError

Store = Literal["fp32", "fp16"]
MIN_HALF_ELEMENTS = 1024
MAX_HALF = torch.finfo(torch.float16).max


def graph_module(name: str, checkpoint: Checkpoint, store: Store) -> nn.Module:
    """The module of one graph of the contract, in eval mode, inputs and outputs in its order."""
    builders = {
        "visual_encoder": checkpoint.image_encoder,
        "backbone": lambda: Backbone(checkpoint.vab()),
        "codec_decoder": lambda: CodecDecoder(checkpoint.codec()),
        "codec_encoder": lambda: CodecEncoder(checkpoint.codec()),
    }
    module = builders[name]().eval()
    fold_weight_norm(module)
    spell_out_elu(module)
    if store == "fp16":
        round_to_half(module)
    return module


class Backbone(nn.Module):
    """VAB, with its tables of bias and positions computed in the graph.

    They follow from the config and would outweigh the weights of a small model on disk; a runtime
    folds them once at load.
    """

    def __init__(self, vab: VAB) -> None:
        super().__init__()
        self.vab = vab

    def forward(self, tokens: Tensor, features: Tensor, conditional: Tensor) -> Tensor:
        config = self.vab.config
        tables = {"bias": attention_bias(config), "positions": sinusoids(config)}
        return torch.func.functional_call(self.vab, tables, (tokens, features, conditional))


class CodecDecoder(nn.Module):
    """tokens [B, K, T] -> audio [B, S] in [-1, 1]"""

    def __init__(self, codec: nn.Module) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, tokens: Tensor) -> Tensor:
        return self.codec.decode(tokens).clamp(-1, 1)


class CodecEncoder(nn.Module):
    """audio [B, S] -> tokens int32 [B, K, T]"""

    def __init__(self, codec: nn.Module) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, audio: Tensor) -> Tensor:
        return self.codec.encode(audio)


class Elu(nn.Module):
    """ELU from parts; TensorRT-RTX 1.7 rejects two `Elu` nodes after an LSTM."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() + (x.clamp(max=0).exp() - 1)


def fold_weight_norm(module: nn.Module) -> None:
    """Replace each weight-normed weight by its value."""
    for part in module.modules():
        if hasattr(part, "weight_g"):
            nn.utils.remove_weight_norm(part)


def spell_out_elu(module: nn.Module) -> None:
    for part in module.modules():
        for name, child in part.named_children():
            if isinstance(child, nn.ELU):
                assert child.alpha == 1.0, f"ELU alpha is {child.alpha}, expected 1"
                setattr(part, name, Elu())


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round every large weight to what float16 can hold, so that storing it so loses nothing."""
    for name, weight in module.state_dict().items():
        if not weight.is_floating_point() or weight.numel() < MIN_HALF_ELEMENTS:
            continue
        if weight.abs().max() > MAX_HALF:
            raise ExportError(
                f"{name} reaches {weight.abs().max():.3g}, beyond float16; use --store fp32"
            )
        weight.copy_(weight.half())
