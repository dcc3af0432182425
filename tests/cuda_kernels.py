"""What onnxruntime's CUDA provider has kernels for; what it has none for runs on the CPU.

A kernel serves the versions of an operator that it is registered for and no others, so that a graph
of a newer opset can lose the GPU. The table is that of onnxruntime-gpu 1.31.1, read from the calls
in its libonnxruntime_providers_cuda.so that register them: the last versions of each operator, a +
where the registration is open. (Log is as its source has it, half, float and double; AveragePool as
its docs/OperatorKernels.md.)
"""

from pathlib import Path

import onnx

REGISTERED = """
Abs 13+; Add 14+; Attention 23-23 24+; AveragePool 19-21 22+; Cast 23-24 25+; Clip 13+; Concat 13+;
Conv 11-21 22+; ConvTranspose 11-21 22+; Cos 7-21 22+; CumSum 14+;
DequantizeLinear 21-22 23-24 25+; Div 14+;
Equal 13-18 19+; Erf 13+; Exp 13+; Expand 13+; Floor 13+; Gather 13+; GatherND 13+; Gelu 20+;
Gemm 13+; Greater 13+; Identity 21-22 23-24 25+; LSTM 14-21 22+; LayerNormalization 17+;
LeakyRelu 16+; Less 13+; Log 13+; MatMul 13+; Max 13+; Min 13+; Mod 13+; Mul 14+; Neg 13+; Not 1+;
Pad 21-22 23-23 24-24 25+; Pow 15+; QuantizeLinear 21-22 23-24 25+; Range 11-26 27+; ReduceL2 18+;
ReduceMax 20+; ReduceMean 18+; ReduceSum 13+; Relu 14+; Reshape 21-22 23-24 25+; Resize 19+;
Shape 21-22 23-24 25+; Sigmoid 13+; Sin 7-21 22+; Slice 13+; Softmax 13+; Split 18+; Sqrt 13+;
Squeeze 21-22 23-23 24-24 25+; Sub 14+; Tanh 13+; Tile 13+; Transpose 21-22 23-24 25+;
Unsqueeze 21-22 23-23 24-24 25+; Where 16+
"""
NOT_IN_BF16 = {"Clip", "ConvTranspose", "CumSum", "LSTM", "Log", "Pad", "QuantizeLinear", "Resize"}


def off_the_gpu(path: Path) -> set[str]:
    """The operators of a graph, with their version, that the provider has no kernel for."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    (opset,) = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    missing = set()
    for node in model.graph.node:
        version = onnx.defs.get_schema(node.op_type, opset).since_version
        is_narrow = kinds.get(node.output[0]) == onnx.TensorProto.BFLOAT16
        if not is_registered(node.op_type, version) or (is_narrow and node.op_type in NOT_IN_BF16):
            missing.add(f"{node.op_type} {version}{' in bfloat16' * is_narrow}")
    return missing


def is_registered(op_type: str, version: int) -> bool:
    rows = (row.split() for row in REGISTERED.replace("\n", " ").split(";"))
    ranges = next((words[1:] for words in rows if words[0] == op_type), [])
    return any(_holds(each, version) for each in ranges)


def _holds(versions: str, version: int) -> bool:
    first, _, last = versions.rstrip("+").partition("-")
    return int(first) <= version <= int(last) if last else int(first) == version
