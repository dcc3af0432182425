"""Attention in an ONNX graph, written as the products, mask and softmax that it stands for.

The operator came with opset 23: most execution providers leave it to the CPU, or refuse a graph
with it.
"""

import math
from typing import NamedTuple

from vab_rt.protobuf import (
    ATTRIBUTE,
    BETWEEN,
    FLOAT,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    INPUT,
    NODE,
    OP_TYPE,
    OUTPUT,
    Field,
    as_attribute,
    as_node,
    edited,
    texts,
    values,
)


class Value(NamedTuple):
    """Type and shape of what goes between nodes; a size that is free is 0."""

    dtype: int
    shape: tuple[int, ...]


def spelled_out(model: bytes) -> bytes:
    """The same model (a serialised ModelProto) without Attention, as far as its nodes are of
    float32 queries, keys and values [B, H, P, D], with or without a mask that is added.

    What is no model stays what it is: onnxruntime says so.
    """
    return edited(model, _graph)


def _graph(graph: list[Field]) -> bytes:
    named = (GRAPH_INPUT, GRAPH_OUTPUT, BETWEEN)
    known = dict(_value(field.value) for field in graph if field.number in named)
    return b"".join(
        _spelled_out(field, known) if field.number == NODE else field.raw for field in graph
    )


def _value(info: memoryview) -> tuple[str, Value]:
    """The name in a ValueInfoProto, and what TypeProto and TensorShapeProto say of it."""
    tensors = [tensor for kind in values(info, 2) for tensor in values(kind, 1)]
    dtypes = [dtype for tensor in tensors for dtype in values(tensor, 1)]
    sizes = [size for tensor in tensors for s in values(tensor, 2) for size in values(s, 1)]
    shape = tuple(next(iter(values(size, 1)), 0) for size in sizes)
    return texts(info, 1)[0], Value(next(iter(dtypes), 0), shape)


def _spelled_out(node: Field, named: dict[str, Value]) -> bytes | memoryview:
    """The nodes that an Attention stands for; any other node as it is."""
    if texts(node.value, OP_TYPE) != ["Attention"]:
        return node.raw
    inputs, outputs = texts(node.value, INPUT), texts(node.value, OUTPUT)
    used = [name for name in inputs if name]
    known = [named.get(name, Value(0, ())) for name in used]
    shapes = [value.shape for value in known[:3]]
    is_plain = (
        3 <= len(used) == len(inputs) <= 4  # no keys and values of before
        and len(outputs) == 1
        and all(value.dtype == FLOAT for value in known)
        and all(len(shape) == 4 and shape[1] == shapes[0][1] for shape in shapes)
        and shapes[0][3] > 0
        and all(map(_is_nothing, values(node.value, ATTRIBUTE)))
    )
    return _attend(used, outputs[0], shapes[0][3]) if is_plain else node.raw


def _is_nothing(attribute: memoryview) -> bool:
    """Whether an AttributeProto is a number that is 0, as for no causality and no cap. One that is
    not set, such as the scale, is the operator's own, 1 / sqrt(D)."""
    return not any(values(attribute, 2) + values(attribute, 3))


def _attend(inputs: list[str], output: str, head_size: int) -> bytes:
    """softmax(q k^T / sqrt(D) + mask) v, as nodes."""
    q, k, v, *mask = inputs
    own = {part: f"{output}.{part}" for part in ("scale", "q", "k", "scores", "masked", "shares")}
    scores, scale = own["masked" if mask else "scores"], 1 / math.sqrt(head_size)
    nodes = [
        as_node("Constant", [], own["scale"], as_attribute("value_float", scale)),
        as_node("Mul", [q, own["scale"]], own["q"]),
        as_node("Transpose", [k], own["k"], as_attribute("perm", [0, 1, 3, 2])),
        as_node("MatMul", [own["q"], own["k"]], own["scores"]),
        *(as_node("Add", [own["scores"], name], scores) for name in mask),
        as_node("Softmax", [scores], own["shares"], as_attribute("axis", 3)),
        as_node("MatMul", [own["shares"], v], output),
    ]
    return b"".join(nodes)
