"""ONNX files as protobuf lays them out, read and written field by field.

The runtime has no onnx to edit graphs with; all but what an edit replaces stays as it is, byte for
byte. Numbers of fields are those of onnx.proto.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}  # how protobuf lays fields out
_GRAPH = 7  # of ModelProto
NODE, INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, BETWEEN = 1, 5, 11, 12, 13  # of GraphProto
INPUT, OUTPUT, OP_TYPE, ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
FLOAT, INT8, HALF = 1, 3, 10  # of TensorProto.DataType


class Field(NamedTuple):
    """One field of a message. value: int, or the bytes it holds; raw: the field as it is."""

    number: int
    value: Any
    raw: memoryview


def edited(model: bytes, edit: Callable[[list[Field]], bytes]) -> bytes:
    """The same model (a serialised ModelProto) with another graph, of the fields of its own.

    What is no model stays what it is: onnxruntime says so.
    """
    try:
        return b"".join(
            as_field(_GRAPH, edit([*fields(field.value)])) if field.number == _GRAPH else field.raw
            for field in fields(memoryview(model))
        )
    except (IndexError, KeyError, TypeError, ValueError):
        return model


def texts(message: memoryview, number: int) -> list[str]:
    return [bytes(value).decode() for value in values(message, number)]


def values(message: memoryview, number: int) -> list[Any]:
    return [field.value for field in fields(message) if field.number == number]


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message in protobuf's wire format, in their order. Raises IndexError,
    KeyError or ValueError for what is none."""
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
        if position > len(message):
            raise IndexError("a field goes on after the end of its message")
        yield Field(key >> 3, value, message[begin:position])


def as_node(
    op_type: str, inputs: list[str], outputs: str | list[str], attribute: bytes = b""
) -> bytes:
    """A NodeProto as a field of the graph, named after what it gives first."""
    outputs = [outputs] if isinstance(outputs, str) else outputs
    names = [(INPUT, name) for name in inputs] + [(OUTPUT, name) for name in outputs]
    content = b"".join(as_field(n, text.encode()) for n, text in [*names, (3, outputs[0])])
    content += as_field(OP_TYPE, op_type.encode())
    return as_field(NODE, content + (as_field(ATTRIBUTE, attribute) if attribute else b""))


def as_attribute(name: str, value: float | list[int]) -> bytes:
    """An AttributeProto; its field 20 says which of its kinds of values it has."""
    if isinstance(value, float):
        kind, content = 1, _varint(2 << 3 | 5) + struct.pack("<f", value)
    elif isinstance(value, int):
        kind, content = 2, as_number(3, value)
    else:
        kind, content = 7, b"".join(as_number(8, one) for one in value)
    return as_field(1, name.encode()) + content + as_number(20, kind)


def as_initializer(name: str, dtype: int, shape: tuple[int, ...], content: bytes) -> bytes:
    """A TensorProto of raw numbers, as a field of the graph."""
    sizes = b"".join(as_number(1, size) for size in shape)
    facts = sizes + as_number(2, dtype) + as_field(8, name.encode())
    return as_field(INITIALIZER, facts + as_field(9, content))


def as_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def as_number(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):  # longer ones take time that grows as their square
        byte = message[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
    raise ValueError("a number of more than 64 bits")


def _varint(value: int) -> bytes:
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
