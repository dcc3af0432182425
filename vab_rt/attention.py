"""Attention in an ONNX graph, written as the products, mask and softmax that it stands for.

The operator came with opset 23: most execution providers leave it to the CPU, or refuse a graph
with it. The runtime has no onnx to edit graphs with, so this reads and writes the protobuf of a
file itself; all but the nodes that it replaces stays as it is. Numbers of fields are those of
onnx.proto.
"""

import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}  # how protobuf lays fields out
_GRAPH = 7  # of ModelProto
_NODE, _VALUES = 1, (11, 12, 13)  # of GraphProto: nodes; inputs, outputs and what is between
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
_FLOAT = 1  # of TensorProto.DataType


class Field(NamedTuple):
    """One field of a message. value: int, or the bytes it holds; raw: the field as it is."""

    number: int
    value: Any
    raw: memoryview


class Value(NamedTuple):
    """Type and shape of what goes between nodes; a size that is free is 0."""

    dtype: int
    shape: tuple[int, ...]


def spelled_out(model: bytes) -> bytes:
    """The same model (a serialised ModelProto) without Attention, as far as its nodes are of
    float32 queries, keys and values [B, H, P, D], with or without a mask that is added.

    What is no model stays what it is: onnxruntime says so.
    """
    try:
        return b"".join(
            _field(_GRAPH, _graph(field.value)) if field.number == _GRAPH else field.raw
            for field in _fields(memoryview(model))
        )
    except (IndexError, KeyError, TypeError, ValueError):
        return model


def _graph(graph: memoryview) -> bytes:
    fields = list(_fields(graph))
    values = dict(_value(field.value) for field in fields if field.number in _VALUES)
    return b"".join(
        _spelled_out(field, values) if field.number == _NODE else field.raw for field in fields
    )


def _value(info: memoryview) -> tuple[str, Value]:
    """The name in a ValueInfoProto, and what TypeProto and TensorShapeProto say of it."""
    tensors = [tensor for kind in _all(info, 2) for tensor in _all(kind, 1)]
    dtypes = [dtype for tensor in tensors for dtype in _all(tensor, 1)]
    sizes = [size for tensor in tensors for shape in _all(tensor, 2) for size in _all(shape, 1)]
    shape = tuple(next(iter(_all(size, 1)), 0) for size in sizes)
    return _texts(info, 1)[0], Value(next(iter(dtypes), 0), shape)


def _spelled_out(node: Field, values: dict[str, Value]) -> bytes | memoryview:
    """The nodes that an Attention stands for; any other node as it is."""
    if _texts(node.value, _OP_TYPE) != ["Attention"]:
        return node.raw
    inputs, outputs = _texts(node.value, _INPUT), _texts(node.value, _OUTPUT)
    used = [name for name in inputs if name]
    known = [values.get(name, Value(0, ())) for name in used]
    shapes = [value.shape for value in known[:3]]
    is_plain = (
        3 <= len(used) == len(inputs) <= 4  # no keys and values of before
        and len(outputs) == 1
        and all(value.dtype == _FLOAT for value in known)
        and all(len(shape) == 4 and shape[1] == shapes[0][1] for shape in shapes)
        and shapes[0][3] > 0
        and all(map(_is_nothing, _all(node.value, _ATTRIBUTE)))
    )
    return _attend(used, outputs[0], shapes[0][3]) if is_plain else node.raw


def _is_nothing(attribute: memoryview) -> bool:
    """Whether an AttributeProto is a number that is 0, as for no causality and no cap. One that is
    not set, such as the scale, is the operator's own, 1 / sqrt(D)."""
    return not any(_all(attribute, 2) + _all(attribute, 3))


def _attend(inputs: list[str], output: str, head_size: int) -> bytes:
    """softmax(q k^T / sqrt(D) + mask) v, as nodes."""
    q, k, v, *mask = inputs
    own = {part: f"{output}.{part}" for part in ("scale", "q", "k", "scores", "masked", "shares")}
    scores = own["masked"] if mask else own["scores"]
    nodes = [
        _node("Constant", [], own["scale"], _attribute("value_float", 1 / math.sqrt(head_size))),
        _node("Mul", [q, own["scale"]], own["q"]),
        _node("Transpose", [k], own["k"], _attribute("perm", [0, 1, 3, 2])),
        _node("MatMul", [own["q"], own["k"]], own["scores"]),
        *(_node("Add", [own["scores"], name], scores) for name in mask),
        _node("Softmax", [scores], own["shares"], _attribute("axis", 3)),
        _node("MatMul", [own["shares"], v], output),
    ]
    return b"".join(nodes)


def _node(op_type: str, inputs: list[str], output: str, attribute: bytes = b"") -> bytes:
    """A NodeProto as a field of the graph, named after what it gives."""
    names = [_field(_INPUT, name.encode()) for name in inputs]
    names += [_field(number, output.encode()) for number in (_OUTPUT, 3)]
    content = b"".join(names) + _field(_OP_TYPE, op_type.encode())
    return _field(_NODE, content + (_field(_ATTRIBUTE, attribute) if attribute else b""))


def _attribute(name: str, value: float | list[int]) -> bytes:
    """An AttributeProto; its field 20 says which of its kinds of values it has."""
    if isinstance(value, float):
        kind, content = 1, _varint(2 << 3 | 5) + struct.pack("<f", value)
    elif isinstance(value, int):
        kind, content = 2, _varint(3 << 3) + _varint(value)
    else:
        kind, content = 7, b"".join(_varint(8 << 3) + _varint(one) for one in value)
    return _field(1, name.encode()) + content + _varint(20 << 3) + _varint(kind)


def _texts(message: memoryview, number: int) -> list[str]:
    return [bytes(value).decode() for value in _all(message, number)]


def _all(message: memoryview, number: int) -> list[Any]:
    return [field.value for field in _fields(message) if field.number == number]


def _fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in protobuf's wire format, in their order."""
    position = 0
    while position < len(message):
        begin = position
        key, position = _read_varint(message, position)
        kind = key & 7
        value: Any
        if kind == _VARINT:
            value, position = _read_varint(message, position)
        elif kind == _BYTES:
            size, start = _read_varint(message, position)
            position = start + size
            value = message[start:position]
        else:
            end = position + _FIXED[kind]
            value, position = int.from_bytes(message[position:end], "little"), end
        yield Field(key >> 3, value, message[begin:position])


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content
