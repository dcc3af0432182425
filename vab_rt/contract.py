"""The tensor contract: names, dtypes and shapes of every exported graph.

The exporter names its inputs and outputs from here; the runtime checks each session against it
once, at load. A dimension is an int (fixed) or a letter (free: B batch, N frames).
"""

from typing import Literal

import msgspec

from vab_rt.config import MOTION_FRAMES, ModelConfig
from vab_rt.v2a_config import V2AConfig

GRAPHS = ("visual_encoder", "backbone", "codec_decoder", "codec_encoder")
RUNTIME_GRAPHS = ("visual_encoder", "backbone", "codec_decoder")
BACKBONES = ("backbone", "fine_backbone")
STREAMS = ("visual_encoder", "motion_encoder")
"""The graphs that frames go into."""


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

    visual_encoder: RGB bytes at the model's image size -> features of an image; normalisation is
        inside.
    motion_encoder: runs of consecutive frames, MOTION_FRAMES and `motion_reach` before and after
        them -> features of motion at each of the MOTION_FRAMES. Only of a model with motion_dim.
    backbone: tokens (V is [MASK]), features, and per item 1.0 for conditional or 0.0 for the
        unconditional branch of guidance -> logits. Of a model that some codebooks are given to it
        is called fine_backbone, and takes these apart from the tokens that it fills in.
    codec_decoder: tokens -> samples in [-1, 1]; codebook look-up is inside.
    codec_encoder: samples -> tokens.
    """
    c = config
    predicted = c.num_codebooks - c.given_codebooks
    given, masked = (
        Tensor(name, "int32", ("B", count, c.num_token_steps))
        for name, count in (("coarse", c.given_codebooks), ("tokens", predicted))
    )
    tokens = Tensor("tokens", "int32", ("B", c.num_codebooks, c.num_token_steps))
    audio = Tensor("audio", "float32", ("B", c.num_samples))
    frames = Tensor("frames", "uint8", ("N", c.image_size, c.image_size, 3))
    frame_features = Tensor("features", "float32", ("N", c.image_dim))
    clip_features = Tensor("features", "float32", ("B", c.num_frames, c.visual_dim))
    conditional = Tensor("conditional", "float32", ("B",))
    logits = Tensor("logits", "float32", ("B", predicted, c.num_token_steps, c.codebook_size))
    inputs = (*((given,) if c.given_codebooks else ()), masked, clip_features, conditional)
    seeing = {"visual_encoder": GraphContract((frames,), (frame_features,))}
    if c.motion_dim:
        run = ("N", MOTION_FRAMES + 2 * c.motion_reach, c.image_size, c.image_size, 3)
        motion = Tensor("motion", "float32", ("N", MOTION_FRAMES, c.motion_dim))
        seeing["motion_encoder"] = GraphContract((Tensor("frames", "uint8", run),), (motion,))
    return seeing | {
        BACKBONES[c.given_codebooks > 0]: GraphContract(inputs, (logits,)),
        "codec_decoder": GraphContract((tokens,), (audio,)),
        "codec_encoder": GraphContract((audio,), (tokens,)),
    }


def pair_contract_of(coarse: ModelConfig, fine: ModelConfig | None) -> dict[str, GraphContract]:
    """The same of a bundle whose second model, if any, fills in the codebooks after the first's.

    The codec is that of all codebooks. In the order in which the graphs run.
    """
    graphs = contract_of(coarse)
    if fine is None:
        return graphs
    of_fine = contract_of(fine)
    first = {name: graphs[name] for name in (*STREAMS, "backbone") if name in graphs}
    rest = ("fine_backbone", "codec_decoder", "codec_encoder")
    return first | {name: of_fine[name] for name in rest}


def v2a_contract_of(config: V2AConfig) -> dict[str, GraphContract]:
    """The same for a V2A-Mapper.

    visual_encoder: RGB bytes -> features as the mapper was trained on them, of any length.
    mapper: of a regression features -> CLAP embeddings, of any length. Of a prior one step: noisy
        embeddings times sqrt(audio_dim), the time step, the features, and 1.0 for conditional or
        0.0 for the unconditional branch -> the embeddings without noise, on the same scale.
    unet: one step: noisy latents, the time step, embeddings of unit length, and per item 1.0 or 0.0
        for the unconditional branch, whose embedding is a constant in the graph -> the noise.
    vae_decoder: latents -> log-mel spectrograms. vocoder: those -> samples in [-1, 1].
    """
    c = config
    frames = Tensor("frames", "uint8", ("N", c.image_size, c.image_size, 3))
    frame_features = Tensor("features", "float32", ("N", c.visual_dim))
    features = Tensor("features", "float32", ("B", c.visual_dim))
    embedding = Tensor("embedding", "float32", ("B", c.audio_dim))
    noisy = Tensor("noisy", "float32", ("B", c.audio_dim))
    timestep, conditional = (
        Tensor("timestep", "int32", ("B",)),
        Tensor("conditional", "float32", ("B",)),
    )
    latent = Tensor("latent", "float32", ("B", *c.latent_shape))
    noise = Tensor("noise", "float32", ("B", *c.latent_shape))
    mel = Tensor("mel", "float32", ("B", c.num_mel_frames, c.num_mels))
    audio = Tensor("audio", "float32", ("B", c.num_samples))
    mapper_inputs = {
        "regression": (features,),
        "prior": (noisy, timestep, features, conditional),
    }
    graphs = {"visual_encoder": GraphContract((frames,), (frame_features,))}
    if c.mapper != "none":
        graphs["mapper"] = GraphContract(mapper_inputs[c.mapper], (embedding,))
    return graphs | {
        "unet": GraphContract((latent, timestep, embedding, conditional), (noise,)),
        "vae_decoder": GraphContract((latent,), (mel,)),
        "vocoder": GraphContract((mel,), (audio,)),
    }
