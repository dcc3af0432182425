"""The tensor contract: names, dtypes and shapes of every exported graph.

The exporter names its inputs and outputs from here; the runtime checks each session against it
once, at load. A dimension is an int (fixed) or a letter (free: B batch, N frames).
"""

from typing import Literal

import msgspec

from vab_rt.config import ModelConfig

GRAPHS = ("visual_encoder", "backbone", "codec_decoder", "codec_encoder")
RUNTIME_GRAPHS = ("visual_encoder", "backbone", "codec_decoder")


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output. `shape` mixes fixed sizes with letters for free ones."""

    name: str
    dtype: Literal["uint8", "int32", "float32"]
    shape: tuple[int | str, ...]


class GraphContract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs and outputs of one graph, in order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def contract_of(config: ModelConfig) -> dict[str, GraphContract]:
    """The contract that a bundle with this config must meet, by graph name.

    visual_encoder: RGB bytes at the model's image size -> features; normalisation is inside.
    backbone: tokens (V is [MASK]), features, and per item 1.0 for conditional or 0.0 for the
        unconditional branch of guidance -> logits.
    codec_decoder: tokens -> samples in [-1, 1]; codebook look-up is inside.
    codec_encoder: samples -> tokens.
    """
    c = config
    predicted = c.num_codebooks - c.given_codebooks
    tokens = Tensor("tokens", "int32", ("B", c.num_codebooks, c.num_token_steps))
    audio = Tensor("audio", "float32", ("B", c.num_samples))
    frames = Tensor("frames", "uint8", ("N", c.image_size, c.image_size, 3))
    frame_features = Tensor("features", "float32", ("N", c.visual_dim))
    clip_features = Tensor("features", "float32", ("B", c.num_frames, c.visual_dim))
    conditional = Tensor("conditional", "float32", ("B",))
    logits = Tensor("logits", "float32", ("B", predicted, c.num_token_steps, c.codebook_size))
    return {
        "visual_encoder": GraphContract((frames,), (frame_features,)),
        "backbone": GraphContract((tokens, clip_features, conditional), (logits,)),
        "codec_decoder": GraphContract((tokens,), (audio,)),
        "codec_encoder": GraphContract((audio,), (tokens,)),
    }
