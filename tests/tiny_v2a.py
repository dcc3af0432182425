"""A small but real bundle of a V2A-Mapper for the tests: ONNX graphs with random weights, built
without torch."""

from pathlib import Path

import numpy as np
from manifests import write_manifest
from onnx import TensorProto
from tiny_bundle import node, save_graph, visual_encoder

from vab_rt.v2a_mapper.config import V2AConfig
from vab_rt.v2a_mapper.contract import v2a_contract_of


def tiny_v2a_config(**changes: object) -> V2AConfig:
    """A clip of 2 s: F 4, C 3, T 50, M 2, S 32000; windows overlap by 15 columns (0.6 s)."""
    facts = {
        "name": "tiny-v2a",
        "image_encoder": "mean-colour",
        "image_size": 8,
        "visual_dim": 6,
        "visual_rate_hz": 2.0,
        "clip_s": 2.0,
        "mapper_steps": 6,
        "audio_dim": 6,
        "latent_channels": 3,
        "num_mels": 8,
    }
    return V2AConfig(**(facts | changes))


def make_v2a_bundle(
    folder: Path, config: V2AConfig | None = None, seed: int = 0, **more: object
) -> Path:
    """Write the graphs and their manifest; the same seed gives the same bytes."""
    config = config or tiny_v2a_config()
    folder.mkdir(parents=True, exist_ok=True)
    for place, (name, contract) in enumerate(v2a_contract_of(config).items()):
        rng = np.random.default_rng([seed, place])
        save_graph(folder / f"{name}.onnx", GRAPHS[name](config, rng), contract)
    write_manifest(folder, config, provenance={"made_by": "tests/tiny_v2a.py"}, **more)
    return folder


def mapper(config: V2AConfig, rng: np.random.Generator):
    """Of a prior: the features where they are shown, some of the noisy embedding, and the time."""
    weights = {"mapping": rng.standard_normal((config.visual_dim, config.audio_dim))}
    if config.mapper == "regression":
        return [node("MatMul", ["features", "mapping"], "embedding")], weights
    weights |= {"some": np.array(0.3), "late": np.array(0.001), "last": np.array([1])}
    nodes = [
        node("MatMul", ["features", "mapping"], "mapped"),
        node("Unsqueeze", ["conditional", "last"], "branch"),  # [B, 1]
        node("Mul", ["mapped", "branch"], "shown"),
        node("Mul", ["noisy", "some"], "seen"),
        node("Cast", ["timestep"], "time", to=TensorProto.FLOAT),
        node("Unsqueeze", ["time", "last"], "times"),
        node("Mul", ["times", "late"], "later"),
        node("Sum", ["shown", "seen", "later"], "sum"),
        node("Tanh", ["sum"], "bounded"),
        node("Add", ["bounded", "bounded"], "embedding"),
    ]
    return nodes, weights


def unet(config: V2AConfig, rng: np.random.Generator):
    """Most of the latent, the embedding or a constant in its place, the time, and a column's
    neighbours through the mean of all."""
    c = config
    size = c.latent_channels * c.num_rows
    weights = {
        "most": np.array(0.8),
        "late": np.array(0.0005),
        "one": np.array(1.0),
        "null": rng.standard_normal((1, c.audio_dim)),
        "wide": rng.standard_normal((c.audio_dim, size)),
        "column": np.array([-1, c.latent_channels, 1, c.num_rows]),
        "times_shape": np.array([-1, 1, 1, 1]),
        "last": np.array([1]),
        "columns": np.array([2]),
    }
    nodes = [
        node("Unsqueeze", ["conditional", "last"], "branch"),  # [B, 1]
        node("Sub", ["one", "branch"], "other"),
        node("Mul", ["embedding", "branch"], "given"),
        node("Mul", ["null", "other"], "nothing"),
        node("Add", ["given", "nothing"], "condition"),
        node("MatMul", ["condition", "wide"], "flat"),
        node("Reshape", ["flat", "column"], "tone"),  # [B, C, 1, M]
        node("Cast", ["timestep"], "time", to=TensorProto.FLOAT),
        node("Reshape", ["time", "times_shape"], "times"),
        node("Mul", ["times", "late"], "later"),
        node("ReduceMean", ["latent", "columns"], "mean", keepdims=1),  # [B, C, 1, M]
        node("Sum", ["tone", "mean", "later"], "sum"),
        node("Tanh", ["sum"], "bounded"),
        node("Mul", ["latent", "most"], "own"),
        node("Add", ["own", "bounded"], "noise"),
    ]
    return nodes, weights


def vae_decoder(config: V2AConfig, rng: np.random.Generator):
    """Each column of the latent to the frames of its hop."""
    c = config
    size = c.latent_channels * c.num_rows
    weights = {
        "frames": rng.standard_normal((size, c.latent_factor * c.num_mels)),
        "columns": np.array([0, c.num_hops, size]),
        "spectrogram": np.array([0, c.num_mel_frames, c.num_mels]),
    }
    nodes = [
        node("Transpose", ["latent"], "by_column", perm=[0, 2, 1, 3]),  # [B, T, C, M]
        node("Reshape", ["by_column", "columns"], "flat"),
        node("MatMul", ["flat", "frames"], "framed"),
        node("Reshape", ["framed", "spectrogram"], "mel"),
    ]
    return nodes, weights


def vocoder(config: V2AConfig, rng: np.random.Generator):
    """Each frame of the spectrogram to its samples."""
    c = config
    weights = {
        "waves": rng.standard_normal((c.num_mels, c.hop_samples // c.latent_factor)) / 20,
        "samples": np.array([0, c.num_samples]),
    }
    nodes = [
        node("MatMul", ["mel", "waves"], "parts"),
        node("Reshape", ["parts", "samples"], "joined"),  # [B, S]
        node("Tanh", ["joined"], "audio"),
    ]
    return nodes, weights


GRAPHS = {
    "visual_encoder": visual_encoder,
    "mapper": mapper,
    "unet": unet,
    "vae_decoder": vae_decoder,
    "vocoder": vocoder,
}
