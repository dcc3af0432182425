"""Torch modules to ONNX files: traced, stripped, stored small."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnxscript.optimizer import optimize
from torch import nn

from export.modules import LARGEST_INT8, MIN_STORED_ELEMENTS, Store
from export.references import Referred, take_out
from vab_rt.contract import GraphContract, Tensor
from vab_rt.errors import ExportError

OPSET = 23
MAX_FILE_BYTES = 2**31 - 1
MAX_FOLDED_ELEMENTS = 8192
"""Larger tables are left to be computed by the runtime at load; they would only fill the file."""
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
TRACED_SIZE = 2
"""The size of free dimensions in the example; 0 and 1 would be taken for constants."""


def trace(
    module: nn.Module, contract: GraphContract, referred: Sequence[Referred] = ()
) -> ir.Model:
    """The graph of `module`, its inputs and outputs named and shaped as in `contract`.

    referred: files whose weights the graph names instead of holding them.
    """
    free = {letter: torch.export.Dim(letter) for letter in _letters(contract)}
    dynamic = tuple(
        {i: free[size] for i, size in enumerate(tensor.shape) if isinstance(size, str)}
        for tensor in contract.inputs
    )
    # Without gradients, or torch would take an LSTM apart, step by step, for its output's shape.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own deprecations, not of this model
        program = torch.onnx.export(
            module,
            tuple(_example(tensor) for tensor in contract.inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=[tensor.name for tensor in contract.inputs],
            output_names=[tensor.name for tensor in contract.outputs],
            dynamic_shapes=dynamic,
            verbose=False,
            optimize=False,
        )
    assert program is not None
    outside = take_out(program.model, referred)  # first: the optimizer would change their values
    optimize(program.model, output_size_limit=MAX_FOLDED_ELEMENTS)
    for value, tensor in outside:
        value.const_value = tensor
    strip(program.model)
    return program.model


def strip(model: ir.Model) -> None:
    """Drop the tracer's notes: they hold paths of this machine, and make equal graphs differ."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


def store_weights(model: ir.Model, store: Store) -> None:
    """Store every large weight that loses nothing by it as `store` says; the graph makes it float32
    again, once, at load: computing stays as it is.

    Weights are rounded before the export (`round_weights`); tables that were not keep their
    precision, and what int8 does not hold is stored as float16.
    """
    if store == "fp32":
        return
    graph = model.graph
    for value in list(graph.initializers.values()):
        weight = value.const_value.numpy()
        if weight.dtype != np.float32 or weight.size < MIN_STORED_ELEMENTS:
            continue
        if store == "int8" and (parts := _in_int8(weight)) is not None:
            whole, steps = (
                constant(graph, f"{value.name}.{name}", part)
                for name, part in zip(("int8", "steps"), parts, strict=True)
            )
            cast = ir.node("Cast", [whole], {"to": ir.DataType.FLOAT}, name=f"{value.name}.cast")
            made = [cast, ir.node("Mul", [*cast.outputs, steps], name=f"{value.name}.scaled")]
        elif np.array_equal((half := weight.astype(np.float16)).astype(np.float32), weight):
            stored = constant(graph, f"{value.name}.half", half)
            made = [ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{value.name}.cast")]
        else:
            continue
        graph.insert_before(graph[0], made)
        for node, index in value.uses():
            node.replace_input_with(index, made[-1].outputs[0])
        del graph.initializers[value.name]


def _in_int8(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Weights as whole numbers, and what one of them is, per output: of convolutions the first
    axis, of matrices either. None for others."""
    for output in {0, 1} if weight.ndim == 2 else {0} if weight.ndim == 4 else ():
        others = tuple(axis for axis in range(weight.ndim) if axis != output)
        steps = np.abs(weight).max(axis=others, keepdims=True) / np.float32(LARGEST_INT8)
        whole = np.rint(weight / np.where(steps > 0, steps, np.float32(1)))
        if np.array_equal(whole * steps, weight):
            return whole.astype(np.int8), steps
    return None


def constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """An initializer more."""
    tensor = ir.tensor(array, name=name)
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=kind, const_value=tensor)
    graph.register_initializer(value)
    return value


def widen(model: ir.Model) -> ir.Model:
    """The same graph with the same weights, computing in float32: `model` is changed.

    It tells a wrong graph from rounding, and runs where a CPU has no 16-bit arithmetic. What
    the graph itself casts to 16 bits is still rounded, as folded tables are.
    """
    graph = model.graph
    for value in list(graph.initializers.values()):
        if value.dtype in HALVES:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float32))
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        if node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()) in HALVES:
            back = ir.node("Cast", node.outputs, {"to": ir.DataType.FLOAT})
            for user, index in node.outputs[0].uses():
                if user is not back:
                    user.replace_input_with(index, back.outputs[0])
            graph.insert_after(node, back)
            continue
        constant = node.attributes.get("value")
        if constant is not None and constant.as_tensor().dtype in HALVES:
            wide = ir.tensor(constant.as_tensor().numpy().astype(np.float32))
            node.attributes["value"] = ir.AttrTensor("value", wide)
        for output in node.outputs:
            if output.dtype in HALVES:
                output.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def save(model: ir.Model, path: Path) -> None:
    """Write one self-contained file. Raises ExportError when protobuf cannot hold it."""
    size_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    if size_bytes > MAX_FILE_BYTES:
        raise ExportError(
            f"{path.stem} holds {size_bytes / 1e9:.1f} GB of weights, expected at most 2.1 GB in "
            "one ONNX file; use --store fp16"
        )
    ir.save(model, path)


def _letters(contract: GraphContract) -> set[str]:
    return {s for tensor in contract.inputs for s in tensor.shape if isinstance(s, str)}


def _example(tensor: Tensor) -> torch.Tensor:
    shape = [TRACED_SIZE if isinstance(size, str) else size for size in tensor.shape]
    return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))
