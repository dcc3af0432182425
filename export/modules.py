"""What is exported: one module a graph, built from a checkpoint, ready for every backend."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from export.references import Referred, holds_any
from training.checkpoint import Checkpoint
from training.image_encoder import ImageEncoder
from training.model import VAB, Layer, attention_bias, sinusoids
from vab_rt.contract import BACKBONES
from vab_rt.errors import ExportError

Store = Literal["fp32", "fp16", "int8"]
"""How weights lie in a file; what is computed with them is float32."""
Typed = Literal["fp16", "bf16"]
"""What graphs for GPUs compute in: strongly typed, so that the file decides and not the builder."""

TYPED_GRAPHS = ("visual_encoder", *BACKBONES)
"""The codec stays float32: it adds up phases, and takes a fraction of the time."""

DTYPES: dict[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16}
ALIGNED_POSITIONS = 8
NEVER = -1e4
"""Added to the scores of positions that nobody attends to; finite in float16."""

MIN_STORED_ELEMENTS = 1024
"""Smaller weights are stored in float32."""
LARGEST_INT8 = 127
MAX_HALF = torch.finfo(torch.float16).max


def graph_module(
    name: str, checkpoint: Checkpoint, store: Store, referred: Sequence[Referred] = ()
) -> nn.Module:
    """The module of one graph of the contract, in eval mode, inputs and outputs in its order.

    referred: files whose weights stay as they are there, neither folded nor rounded.
    """
    builders = {
        "visual_encoder": checkpoint.image_encoder,
        "motion_encoder": checkpoint.motion_encoder,
        "backbone": lambda: Backbone(checkpoint.vab()),
        "fine_backbone": lambda: FineBackbone(checkpoint.vab()),
        "codec_decoder": lambda: CodecDecoder(checkpoint.codec()),
        "codec_encoder": lambda: CodecEncoder(checkpoint.codec()),
    }
    module = builders[name]().eval()
    spell_out_elu(module)
    if holds_any(module, referred):
        return module
    fold_weight_norm(module)
    fold_batch_norm(module)
    round_weights(module, stored_as(name, store))
    return module


def stored_as(name: str, store: Store) -> Store:
    """How the weights of one graph lie in its file: int8 is for backbones and what sees images,
    whose outputs it hardly moves; a codec adds up phases, which it would turn."""
    return "fp16" if store == "int8" and name not in TYPED_GRAPHS else store


def typed_module(name: str, checkpoint: Checkpoint, precision: Typed) -> nn.Module:
    """The same as `graph_module` for one of TYPED_GRAPHS, computing in 16 bits."""
    dtype = DTYPES[precision]
    if name in BACKBONES:
        vab = checkpoint.vab()
        check_range(vab, dtype)
        return (GpuBackbone if name == "backbone" else GpuFineBackbone)(vab, dtype).eval()
    encoder = checkpoint.image_encoder()
    check_range(encoder, dtype)
    return TypedImageEncoder(encoder, dtype).eval()


def rounded_module(name: str, checkpoint: Checkpoint, precision: Typed) -> nn.Module:
    """`typed_module` with its rounded weights and tables, but computing in float32."""
    module = typed_module(name, checkpoint, precision).float()
    module.dtype = torch.float32
    return module


class Backbone(nn.Module):
    """VAB, with its tables of bias and positions computed in the graph.

    They follow from the config and would outweigh the weights of a small model on disk; a runtime
    folds them once at load.
    """

    def __init__(self, vab: VAB, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.vab, self.dtype, self.rounding = vab.to(dtype), dtype, dtype

    def forward(self, tokens: Tensor, features: Tensor, conditional: Tensor) -> Tensor:
        config = self.vab.config
        tables = {"bias": attention_bias(config), "positions": sinusoids(config)}
        tables = {name: self.enter(table) for name, table in tables.items()}
        inputs = (tokens, self.enter(features), self.enter(conditional))
        return torch.func.functional_call(self.vab, tables, inputs).float()

    def enter(self, x: Tensor) -> Tensor:
        return x.to(self.rounding).to(self.dtype)


class GpuBackbone(Backbone):
    """The same for the fused attention of GPUs, whose libraries are choosy.

    onnxruntime's CUDA provider has a fused kernel with a bias only where the bias has rows of 8
    numbers, or else writes all scores to memory; so the stream is padded with positions that nobody
    attends to. Of heads that are already apart it would make copies; so they stay side by side.
    """

    def __init__(self, vab: VAB, dtype: torch.dtype) -> None:
        super().__init__(vab, dtype)
        for layer in vab.layers:
            layer.attention = partial(joined_attention, layer)

    def forward(self, tokens: Tensor, features: Tensor, conditional: Tensor) -> Tensor:
        vab, config = self.vab, self.vab.config
        x = vab.embed(tokens, self.enter(features), self.enter(conditional))  # [B, F + T, D]
        if config.sinusoids:
            x = x + self.enter(sinusoids(config))
        num_padded = -x.shape[1] % ALIGNED_POSITIONS
        bias = F.pad(attention_bias(config), (0, num_padded, 0, num_padded), value=NEVER)
        bias = self.enter(bias)  # [1, H, padded, padded]
        x = torch.cat([x, x[:, :num_padded]], 1) if num_padded else x
        for layer in vab.layers:
            x = layer(x, bias, config.num_visual)
        x = x[:, config.num_visual : config.num_visual + config.num_token_steps]
        logits = vab.heads(vab.norm(x)).unflatten(2, (vab.num_predicted, -1))
        return logits.transpose(1, 2).float()


class GivenCoarse(nn.Module):
    """A backbone whose coarse tokens are an input of their own, before those it fills in."""

    def forward(
        self, coarse: Tensor, tokens: Tensor, features: Tensor, conditional: Tensor
    ) -> Tensor:
        return super().forward(torch.cat([coarse, tokens], 1), features, conditional)


class FineBackbone(GivenCoarse, Backbone):
    """coarse [B, K', T], tokens [B, K - K', T] -> logits [B, K - K', T, V]."""


class GpuFineBackbone(GivenCoarse, GpuBackbone):
    """The same for the fused attention of GPUs."""


def joined_attention(layer: Layer, x: Tensor, bias: Tensor) -> Tensor:
    """`Layer.attention` as one operator, heads side by side in and out [B, P, D]."""
    q, k, v = layer.qkv(x).chunk(3, -1)
    heads = layer.num_heads
    mixed, *_ = torch.onnx.ops.attention(q, k, v, bias, q_num_heads=heads, kv_num_heads=heads)
    return layer.out(mixed)


class TypedImageEncoder(nn.Module):
    """`ImageEncoder` with its network in another type; normalisation stays float32."""

    def __init__(self, encoder: ImageEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        fold_batch_norm(encoder.visual.eval())
        self.visual, self.dtype, self.rounding = encoder.visual.to(dtype), dtype, dtype
        self.register_buffer("mean", encoder.mean, persistent=False)
        self.register_buffer("std", encoder.std, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        images = (frames.float().permute(0, 3, 1, 2) - self.mean) / self.std
        return F.normalize(self.visual(images.to(self.rounding).to(self.dtype)).float(), dim=-1)


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


def fold_batch_norm(module: nn.Module) -> None:
    """Put each batch norm into the convolution before it, before weights are rounded: onnxscript
    does so too, but leaves float32 weights that are no longer those of 16 bits."""
    for part in list(module.modules()):
        for (name, conv), (next_name, norm) in pairwise(list(part.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(conv, norm))
                setattr(part, next_name, nn.Identity())


def spell_out_elu(module: nn.Module) -> None:
    for part in module.modules():
        for name, child in part.named_children():
            if isinstance(child, nn.ELU):
                assert child.alpha == 1.0, f"ELU alpha is {child.alpha}, expected 1"
                setattr(part, name, Elu())


@torch.no_grad()
def round_weights(module: nn.Module, store: Store) -> None:
    """Round every large weight to what it is stored as, so that storing it so loses nothing: with
    int8 those of linear layers and of convolutions over images to 255 levels per output, all others
    to float16.

    Raises ExportError for a weight beyond float16.
    """
    if store == "fp32":
        return
    for name, weight in module.state_dict().items():
        if not weight.is_floating_point() or weight.numel() < MIN_STORED_ELEMENTS:
            continue
        if weight.abs().max() > MAX_HALF:
            raise ExportError(
                f"{name} reaches {weight.abs().max():.3g}, beyond float16; use --store fp32"
            )
        weight.copy_(weight.half())
    for layer in module.modules():
        if store == "int8" and isinstance(layer, nn.Linear | nn.Conv2d):
            largest = layer.weight.abs().flatten(1).amax(1)
            largest = largest[:, *[None] * (layer.weight.ndim - 1)]  # [out, 1, ...]
            steps = (largest / LARGEST_INT8).bfloat16().float()  # few bits: products are exact
            layer.weight.copy_((layer.weight / steps.where(steps > 0, 1.0)).round() * steps)


def check_range(module: nn.Module, dtype: torch.dtype, others: str = "bf16 or fp32") -> None:
    """Raises ExportError, which advises `others`, for a weight that `dtype` cannot hold."""
    for name, weight in module.state_dict().items():
        if weight.is_floating_point() and weight.abs().max() > torch.finfo(dtype).max:
            raise ExportError(
                f"{name} reaches {weight.abs().max():.3g}, beyond {str(dtype).split('.')[1]}; "
                f"use --precision {others}"
            )
