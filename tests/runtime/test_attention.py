"""Attention written as the operators that it stands for: the same numbers, and nothing else."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from vab_rt.attention import spelled_out

BATCH, HEADS, POSITIONS, SIZE = 2, 3, 300, 16  # more than 127 of something: numbers of two bytes
SHAPE = ("B", HEADS, POSITIONS, SIZE)
FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL


def attention(mask=None, shapes=(SHAPE,) * 3, dtype=FLOAT, **attributes) -> bytes:
    """A model of one Attention between two other nodes; its mask is of that type."""
    names = ["q", "k", "v"]
    inputs = [
        helper.make_tensor_value_info(n, dtype, s) for n, s in zip(names, shapes, strict=True)
    ]
    if mask is not None:
        names.append("mask")
        inputs.append(helper.make_tensor_value_info("mask", mask, (1, 1, POSITIONS, POSITIONS)))
    nodes = [
        helper.make_node("Neg", ["q"], ["q2"], name="first"),
        helper.make_node("Attention", ["q2", *names[1:]], ["mixed"], **attributes),
        helper.make_node("Neg", ["mixed"], ["out"]),
    ]
    between = [helper.make_tensor_value_info("q2", dtype, shapes[0])]
    out = helper.make_tensor_value_info("out", dtype, shapes[0])
    graph = helper.make_graph(nodes, "one", inputs, [out], value_info=between)
    opset = [helper.make_opsetid("", 23)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def operators(model: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(model).graph.node]


@pytest.mark.parametrize("mask", [None, FLOAT])
@pytest.mark.parametrize("attributes", [{}, {"is_causal": 0, "softcap": 0.0}])
def test_the_parts_give_what_the_whole_gives(mask, attributes):
    model = attention(mask, **attributes)
    parts = spelled_out(model)
    added = ["Add"] * (mask is not None)
    middle = ["Constant", "Mul", "Transpose", "MatMul", *added, "Softmax", "MatMul"]
    assert operators(parts) == ["Neg", *middle, "Neg"]
    onnx.checker.check_model(onnx.load_from_string(parts), full_check=True)
    random = np.random.default_rng(0)
    sizes = (BATCH, HEADS, POSITIONS, SIZE)
    given = {name: random.standard_normal(sizes).astype(np.float32) for name in "qkv"}
    if mask is not None:
        biases = random.standard_normal((1, 1, POSITIONS, POSITIONS)).astype(np.float32)
        given["mask"] = np.where(biases > 1, -np.inf, biases)
    whole, spelled = (
        InferenceSession(one, providers=["CPUExecutionProvider"]).run(None, given)[0]
        for one in (model, parts)
    )
    np.testing.assert_allclose(spelled, whole, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        attention(BOOL),
        attention(is_causal=1),
        attention(softcap=20.0),
        attention(scale=0.5),
        attention(dtype=TensorProto.FLOAT16),
        attention(shapes=(SHAPE, ("B", 1, POSITIONS, SIZE), ("B", 1, POSITIONS, SIZE))),
        attention(shapes=((BATCH, POSITIONS, 48),) * 3, q_num_heads=3, kv_num_heads=3),
        attention(shapes=(("B", HEADS, POSITIONS, "D"),) * 3),
    ],
    ids=["of bools", "causal", "capped", "scaled", "half", "shared heads", "flat", "free size"],
)
def test_attention_of_another_sort_stays(model):
    assert spelled_out(model) == model and "Attention" in operators(model)


@pytest.mark.parametrize("content", [b"", b"x", b"not a graph", b"\x08\x0a" * 50, b"\x3a\xff"])
def test_what_is_no_model_stays(content):
    assert spelled_out(content) == content


def test_a_model_without_attention_keeps_its_bytes():
    nodes = [helper.make_node("Neg", ["x"], ["y"], name="a" * 200)]
    values = [helper.make_tensor_value_info(name, FLOAT, [1]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "one", values[:1], values[1:]))
    assert spelled_out(model.SerializeToString()) == model.SerializeToString()
