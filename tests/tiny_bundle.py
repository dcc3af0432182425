"""A small but real bundle for the tests: ONNX graphs with random weights, built without torch."""

from pathlib import Path

import numpy as np
import onnx
from manifests import write_manifest
from onnx import TensorProto, helper, numpy_helper

from vab_rt.config import ModelConfig
from vab_rt.contract import GraphContract, Tensor, pair_contract_of

WIDTH = 8
TYPES = {
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
}

RUNTIME_GRAPHS = ("visual_encoder", "backbone", "codec_decoder")
"""Of every model in one stage."""


def tiny_config(**changes: object) -> ModelConfig:
    """A clip of 2 s: F 4, T 100, K 2, V 16, S 32000; windows overlap by 30 steps (0.6 s)."""
    facts = {
        "name": "tiny",
        "codec": "spectral",
        "image_encoder": "mean-colour",
        "image_size": 8,
        "visual_dim": 6,
        "visual_rate_hz": 2.0,
        "clip_s": 2.0,
        "num_codebooks": 2,
        "codebook_size": 16,
        "code_dim": 4,
        "width": WIDTH,
        "layers": 1,
        "expert_layers": 0,
        "heads": 1,
    }
    return ModelConfig(**(facts | changes))


def folded_flops(config: ModelConfig) -> int:
    """Of the projections of all codes, which torch computes in every pass and a runtime at load."""
    c = config
    return 2 * c.num_codebooks * (c.codebook_size + 1) * c.code_dim * c.width


def fine_config(**changes: object) -> ModelConfig:
    """A model that goes on from the tokens of `tiny_config`: K 5, of which 2 are given."""
    return tiny_config(**{"name": "tiny-fine", "num_codebooks": 5, "given_codebooks": 2} | changes)


def make_bundle(
    folder: Path,
    config: ModelConfig | None = None,
    seed: int = 0,
    fine: ModelConfig | None = None,
) -> Path:
    """Write the graphs and their manifest; the same seed gives the same bytes."""
    config = config or tiny_config()
    folder.mkdir(parents=True, exist_ok=True)
    contracts = pair_contract_of(config, fine)
    for number, (name, make) in enumerate(GRAPHS.items()):
        if name in contracts:
            rng = np.random.default_rng([seed, number])
            own = config if fine is None or name == "backbone" else fine
            save_graph(folder / f"{name}.onnx", make(own, rng), contracts[name])
    more = {} if fine is None else {"fine": fine}
    write_manifest(folder, config, provenance={"made_by": "tests/tiny_bundle.py"}, **more)
    return folder


def visual_encoder(config: ModelConfig, rng: np.random.Generator):
    """Mean colour of the picture, and of its upper half, to features."""
    weights = {
        "colours": rng.standard_normal((6, config.visual_dim)) / 50,
        "zero": np.array([0]),
        "half": np.array([config.image_size // 2]),
        "rows": np.array([1]),
        "places": np.array([1, 2]),
    }
    nodes = [
        node("Cast", ["frames"], "pixels", to=TensorProto.FLOAT),
        node("ReduceMean", ["pixels", "places"], "whole", keepdims=0),  # [N, 3]
        node("Slice", ["pixels", "zero", "half", "rows"], "top"),
        node("ReduceMean", ["top", "places"], "upper", keepdims=0),  # [N, 3]
        node("Concat", ["whole", "upper"], "both", axis=1),
        node("MatMul", ["both", "colours"], "features"),
    ]
    return nodes, weights


def backbone(config: ModelConfig, rng: np.random.Generator):
    """Own token, mean of all tokens, the feature of the same time, and the place, to logits."""
    c = config
    predicted = c.num_codebooks - c.given_codebooks
    at_step = np.arange(c.num_token_steps) * c.num_frames // c.num_token_steps  # [T]
    weights = {
        "codes": rng.standard_normal((c.codebook_size + 1, WIDTH)),
        "mixing": rng.standard_normal((WIDTH, WIDTH)),
        "visual": rng.standard_normal((c.visual_dim, WIDTH)),
        "places": rng.standard_normal((1, predicted, c.num_token_steps, WIDTH)),
        "heads": rng.standard_normal((WIDTH, c.codebook_size)),
        "at_step": at_step.astype(np.int64),
        "all": np.array([1, 2]),
        "books": np.array([1]),
        "last": np.array([1, 2, 3]),
    }
    nodes = [
        node("Gather", ["codes", "tokens"], "own", axis=0),  # [B, K, T, D]
        node("ReduceMean", ["own", "all"], "mean", keepdims=1),  # [B, 1, 1, D]
        node("MatMul", ["mean", "mixing"], "context"),
        node("Gather", ["features", "at_step"], "seen", axis=1),  # [B, T, visual_dim]
        node("MatMul", ["seen", "visual"], "seen_wide"),
        node("Unsqueeze", ["seen_wide", "books"], "picture"),  # [B, 1, T, D]
        node("Unsqueeze", ["conditional", "last"], "branch"),  # [B, 1, 1, 1]
        node("Mul", ["picture", "branch"], "shown"),
        node("Sum", ["own", "context", "shown", "places"], "sum"),
        node("Tanh", ["sum"], "state"),
        node("MatMul", ["state", "heads"], "logits"),  # [B, K, T, V]
    ]
    return nodes, weights


def codec_decoder(config: ModelConfig, rng: np.random.Generator):
    """A short waveform for every code, summed over the codebooks."""
    c = config
    weights = {
        "waves": rng.standard_normal((c.codebook_size, c.hop_samples)) / 4,
        "books": np.array([1]),
        "samples": np.array([-1, c.num_samples]),
    }
    nodes = [
        node("Gather", ["waves", "tokens"], "parts", axis=0),  # [B, K, T, hop]
        node("ReduceSum", ["parts", "books"], "steps", keepdims=0),  # [B, T, hop]
        node("Reshape", ["steps", "samples"], "joined"),  # [B, S]
        node("Tanh", ["joined"], "audio"),
    ]
    return nodes, weights


def fine_backbone(config: ModelConfig, rng: np.random.Generator):
    """The same, and the mean of the coarse codes of the same step."""
    nodes, weights = backbone(config, rng)
    weights["coarse_codes"] = rng.standard_normal((config.codebook_size, WIDTH))
    state = next(i for i, each in enumerate(nodes) if each.op_type == "Sum")
    nodes[state].input.append("below")
    nodes[state:state] = [
        node("Gather", ["coarse_codes", "coarse"], "given", axis=0),  # [B, K', T, D]
        node("ReduceMean", ["given", "books"], "below", keepdims=1),  # [B, 1, T, D]
    ]
    return nodes, weights


GRAPHS = {
    "visual_encoder": visual_encoder,
    "backbone": backbone,
    "codec_decoder": codec_decoder,
    "fine_backbone": fine_backbone,
}


def node(op: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], **attributes)


def save_graph(path: Path, nodes_and_weights, contract: GraphContract) -> None:
    nodes, weights = nodes_and_weights
    initializers = [
        numpy_helper.from_array(w.astype(np.float32) if w.dtype == np.float64 else w, name)
        for name, w in weights.items()
    ]
    graph = helper.make_graph(
        nodes,
        path.stem,
        [value_info(tensor) for tensor in contract.inputs],
        [value_info(tensor) for tensor in contract.outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def value_info(tensor: Tensor) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor.name, TYPES[tensor.dtype], tensor.shape)
