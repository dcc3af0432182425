"""The matrix products of an ONNX graph in int8: weights once, per output channel; what they are
multiplied with as it comes. And weights that only lie in the file in int8, in float32.

onnxruntime's kernels for it use VNNI and AMX, or their like on ARM, where the processor has them.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vab_rt.protobuf import (
    ATTRIBUTE,
    FLOAT,
    GRAPH_INPUT,
    GRAPH_OUTPUT,
    HALF,
    INITIALIZER,
    INPUT,
    INT8,
    NODE,
    OP_TYPE,
    OUTPUT,
    Field,
    as_attribute,
    as_initializer,
    as_node,
    edited,
    texts,
    values,
)

_LARGEST = 64
"""Of 127: with AVX2 but no VNNI, 16-bit sums of two products would saturate."""
_DIMS, _DTYPE, _TENSOR_NAME, _RAW = 1, 2, 8, 9  # of TensorProto
_DTYPES = {FLOAT: "<f4", HALF: "<f2", INT8: "<i1"}
_ONE: npt.NDArray[Any] | None = np.ones(1, np.float32)


class Weight(NamedTuple):
    """values: float32. made_by: outputs of the nodes that make it of what the graph holds."""

    values: npt.NDArray[np.float32]
    made_by: set[str]


class Node(NamedTuple):
    raw: memoryview
    op_type: str
    inputs: list[str]
    outputs: list[str]
    attributes: list[memoryview]


class Graph(NamedTuple):
    nodes: list[Node]
    held: dict[str, Field]
    inputs: set[str]
    outputs: list[str]
    fields: list[Field]


def in_int8(model: bytes) -> bytes:
    """The same model (a serialised ModelProto) with its products in int8: those of what its inputs
    reach with weights [N, M], in float32 or as `export --store` stores them.

    A graph without such products, and what is no model, stays what it is.
    """
    return edited(model, _quantised_graph)


def in_float32(model: bytes) -> bytes:
    """The same model with those weights in float32 that `export --store int8` stored, for a library
    that takes whole numbers for a quantisation of its own."""
    return edited(model, _widened_graph)


def _quantised_graph(fields: list[Field]) -> bytes:
    graph = _read(fields)
    found = _weights(graph, {n.inputs[1]: 0 for n in graph.nodes if n.op_type == "MatMul"})
    weights = {name: weight for name, weight in found.items() if weight.values.ndim == 2}
    products = [n for n in _reached(graph) if n.op_type == "MatMul" and n.inputs[1] in weights]
    spent = {node.inputs[1]: weights[node.inputs[1]] for node in products}
    held = [_quantised(name, weight.values) for name, weight in spent.items()]
    return _written(graph, {node.outputs[0]: _product(node) for node in products}, spent, held)


def _widened_graph(fields: list[Field]) -> bytes:
    graph = _read(fields)
    scaled = _weights(graph, [n.outputs[0] for n in graph.nodes if n.op_type == "Mul"])
    held = [
        as_initializer(name, FLOAT, weight.values.shape, weight.values.astype("<f4").tobytes())
        for name, weight in scaled.items()
    ]
    return _written(graph, dict.fromkeys(scaled, b""), scaled, held)


def _read(fields: list[Field]) -> Graph:
    held = {_name(f.value, _TENSOR_NAME): f for f in fields if f.number == INITIALIZER}
    return Graph(
        nodes=[_node(field) for field in fields if field.number == NODE],
        held=held,
        inputs={_name(f.value) for f in fields if f.number == GRAPH_INPUT} - held.keys(),
        outputs=[_name(f.value) for f in fields if f.number == GRAPH_OUTPUT],
        fields=fields,
    )


def _written(
    graph: Graph, replaced: dict[str, bytes], spent: dict[str, Weight], held: list[bytes]
) -> bytes:
    """With others in place of the nodes of these outputs, without what only made the weights that
    are spent, and with more that it holds."""
    if not spent:
        return b"".join(field.raw for field in graph.fields)
    rest = [node for node in graph.nodes if node.outputs[0] not in replaced]
    makers = {name for weight in spent.values() for name in weight.made_by}
    for _ in range(2):  # a product with steps goes before the cast that it uses
        used = _used(rest, graph.outputs)
        rest = [n for n in rest if n.outputs[0] in used or n.outputs[0] not in makers]
    gone = _used(graph.nodes, []) & graph.held.keys() - _used(rest, graph.outputs)
    kept = {node.outputs[0]: node.raw for node in rest} | replaced
    return b"".join(
        [
            *(f.raw for f in graph.fields if f.number not in (NODE, INITIALIZER)),
            *(f.raw for name, f in graph.held.items() if name not in gone),
            *held,
            *(kept[n.outputs[0]] for n in graph.nodes if n.outputs[0] in kept),
        ]
    )


def _node(field: Field) -> Node:
    node = field.value
    kind, inputs, outputs = _name(node, OP_TYPE), texts(node, INPUT), texts(node, OUTPUT)
    return Node(field.raw, kind, inputs, outputs, values(node, ATTRIBUTE))


def _name(message: memoryview, number: int = 1) -> str:
    return texts(message, number)[0]


def _used(nodes: list[Node], more: list[str]) -> set[str]:
    return {name for node in nodes for name in node.inputs}.union(more)


def _reached(graph: Graph) -> Iterator[Node]:
    """Those that the inputs of the graph have a part in; the others are folded at load."""
    reached = set(graph.inputs)
    for node in graph.nodes:
        if reached.intersection(node.inputs):
            reached.update(node.outputs)
            yield node


def _weights(graph: Graph, names: Iterable[str]) -> dict[str, Weight]:
    """Those of these names that are weights which the graph holds."""
    made = {node.outputs[0]: node for node in graph.nodes}
    found = ((name, _weight(name, made, graph.held)) for name in names)
    return {name: weight for name, weight in found if weight is not None}


def _weight(name: str, made: dict[str, Node], held: dict[str, Field]) -> Weight | None:
    """What the graph holds: as it is, cast, or cast and multiplied by its steps. None for what it
    does not, and for what is not finite, of which int8 would make something else."""
    made_by: set[str] = set()
    dtypes, steps = {FLOAT}, _ONE
    node = made.get(name)
    if node is not None and node.op_type == "Mul" and node.inputs[1] in held:
        made_by.add(name)
        steps, name = _array(held[node.inputs[1]], {FLOAT}), node.inputs[0]
        node = made.get(name)
    if node is not None and node.op_type == "Cast" and _is_to_float(node):
        made_by.add(name)
        dtypes, name = {FLOAT, HALF, INT8}, node.inputs[0]
    stored = _array(held[name], dtypes) if name in held else None
    if stored is None or steps is None:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = stored.astype(np.float32) * steps
    if numbers.shape != stored.shape or not np.isfinite(numbers).all():
        return None
    return Weight(numbers, made_by)


def _is_to_float(cast: Node) -> bool:
    return any(values(attribute, 3) == [FLOAT] for attribute in cast.attributes)


def _array(tensor: Field, dtypes: set[int]) -> npt.NDArray[Any] | None:
    """An initializer of one of these types; None for another."""
    shape, (dtype, *_), raw = (values(tensor.value, number) for number in (_DIMS, _DTYPE, _RAW))
    if dtype not in dtypes or not raw:
        return None
    return np.frombuffer(raw[0], _DTYPES[dtype]).reshape(shape)


def _quantised(name: str, weight: npt.NDArray[np.float32]) -> bytes:
    """A weight [N, M] in int8, and its scales [M]."""
    largest = np.maximum(weight.max(axis=0), -weight.min(axis=0))
    scales = np.maximum(largest, np.float32(1e-30)) / np.float32(_LARGEST)  # of zeros, not 0
    scaled = weight / scales
    whole = np.rint(scaled, out=scaled).astype(np.int8)
    return as_initializer(f"{name}.int8", INT8, whole.shape, whole.tobytes()) + as_initializer(
        f"{name}.scales", FLOAT, scales.shape, scales.astype("<f4").tobytes()
    )


def _product(node: Node) -> bytes:
    """What it multiplies is quantised to eight bits in one scale for all of it."""
    (x, weight), y = node.inputs, node.outputs[0]
    own = {part: f"{y}.{part}" for part in ("x", "scale", "zero", "sums", "wide", "scales")}
    quantised = [own["x"], own["scale"], own["zero"]]
    nodes = [
        as_node("DynamicQuantizeLinear", [x], quantised),
        as_node("MatMulInteger", [own["x"], f"{weight}.int8", own["zero"]], own["sums"]),
        as_node("Cast", [own["sums"]], own["wide"], as_attribute("to", FLOAT)),
        as_node("Mul", [own["scale"], f"{weight}.scales"], own["scales"]),
        as_node("Mul", [own["wide"], own["scales"]], y),
    ]
    return b"".join(nodes)
