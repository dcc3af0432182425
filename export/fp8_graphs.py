"""Backbones that multiply in 8-bit floats (E4M3), for GPUs that can; all else is float16.

Every product of a layer with its weights gets a QuantizeLinear and a DequantizeLinear in front of
each side. A compiler that knows them multiplies the 8-bit numbers; what does not know them computes
the same from rounded ones. Weights have a scale an output channel, activations one for the whole
tensor, from the largest values seen in calibration. The way into the first layer and out of the
last, attention, norms and sums stay float16.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from export import onnx_graphs, verify
from export.modules import graph_module, typed_module
from export.typed_graphs import verify_widened, widened
from export.verify import Arrays
from training.checkpoint import Checkpoint
from training.datasets.shards import ShardedClips
from vab_rt.config import ModelConfig
from vab_rt.contract import contract_of
from vab_rt.errors import ExportError

E4M3 = ml_dtypes.float8_e4m3fn
MAX_E4M3 = float(ml_dtypes.finfo(E4M3).max)
LEAST_SCALE = float(np.finfo(np.float16).tiny)
"""Smaller ones would lose bits in float16; it only matters where a channel is all but zero."""
NOISE_CLIPS, CALIBRATION_CLIPS = 4, 16
MASKED_SHARE = 0.5


def write_fp8(
    checkpoint: Checkpoint, path: Path, calibration: Arrays | None = None
) -> dict[str, str]:
    """Export the backbone to `path`; returns what it loses.

    calibration: inputs of the backbone, such as those of `read_clips`; by default noise. The graph
    without rounding is compared with torch, and the rounded one, in float32 around its 8-bit
    products, with the exact model. Raises ExportError.
    """
    config = checkpoint.config
    inputs = calibration or verify.fixed_inputs("backbone", config, NOISE_CLIPS)
    module = typed_module("backbone", checkpoint, "fp16")
    model = onnx_graphs.trace(module, contract_of(config)["backbone"])
    onnx_graphs.save(model, path)
    error = verify_widened("backbone", checkpoint, path, "fp16")
    peaks = measure_peaks(ir.load(path), inputs)
    num_products = quantise_products(model, peaks)
    onnx_graphs.save(model, path)
    loss = measure_loss(checkpoint, path)
    verify.check_error("backbone", loss.relative_error, "fp8")
    calibrated = "noise" if calibration is None else f"{len(inputs['tokens'])} clips"
    return {
        "fp8_backbone": f"{error:.1e} off torch before rounding; {num_products} products in E4M3, "
        f"scales from {calibrated}; {loss}"
    }


def read_clips(shards: str, config: ModelConfig, seed: int = 0) -> Arrays:
    """Inputs of the backbone as decoding gives it: half of the tokens are [MASK], and every second
    clip is without its frames. Raises DataError.

    shards: a folder or URL that `training.extract` has written.
    """
    batch = ShardedClips(shards, config).batch(step=0, count=CALIBRATION_CLIPS, seed=seed)
    is_masked = np.random.default_rng(seed).random(batch.tokens.shape) < MASKED_SHARE
    return {
        "tokens": np.where(is_masked, np.int32(config.mask_id), batch.tokens),
        "features": batch.features,
        "conditional": (np.arange(len(batch)) % 2 == 0).astype(np.float32),
    }


def products(graph: ir.Graph) -> Iterator[ir.Node]:
    """The layers' products with weights [in, out]; those with a bias lead into or out of them."""
    for node in graph:
        if node.op_type != "MatMul" or len(_shape(node.inputs[1])) != 2:
            continue
        users = [user for user, _ in node.outputs[0].uses()]
        if not any(user.op_type == "Add" and _has_constant(user) for user in users):
            yield node


def measure_peaks(model: ir.Model, inputs: Arrays) -> dict[str, float]:
    """The largest value, of either sign, in front of each product, by name; `model` is changed.

    It is computed in float32, a clip at a time.
    """
    graph = onnx_graphs.widen(model).graph
    names = list(dict.fromkeys(_name(node.inputs[0]) for node in products(graph)))
    values = {_name(value): value for node in products(graph) for value in node.inputs[:1]}
    del graph.outputs[:]
    for name in names:
        size = ir.node("Abs", [values[name]], name=f"{name}.size")
        peak = ir.node("ReduceMax", size.outputs, {"keepdims": 0}, name=f"{name}.peak")
        peak.outputs[0].dtype, peak.outputs[0].shape = ir.DataType.FLOAT, ir.Shape([])
        graph.extend([size, peak])
        graph.outputs.append(peak.outputs[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "peaks.onnx")
        onnx_graphs.save(model, path)
        session = verify.open_session(path)
    clips = range(len(next(iter(inputs.values()))))
    runs = [session.run(None, {n: x[i : i + 1] for n, x in inputs.items()}) for i in clips]
    peaks = np.max(np.array(runs, np.float64), axis=0)  # [values]
    for name, peak in zip(names, peaks, strict=True):
        if not np.isfinite(peak):
            raise ExportError(
                f"the backbone computes {peak} at {name}, expected finite values; the checkpoint "
                "is damaged, or calibrate with other clips"
            )
    return dict(zip(names, map(float, peaks), strict=True))


def quantise_products(model: ir.Model, peaks: dict[str, float]) -> int:
    """Round both sides of every product to E4M3; `model` is changed. Returns how many there are.

    peaks: of the values in front of the products, by name.
    """
    graph, rounded = model.graph, {}
    found = list(products(graph))
    for node in found:
        value, weight = node.inputs
        if _name(value) not in rounded:
            rounded[_name(value)] = _round_value(graph, value, peaks[_name(value)])
        node.replace_input_with(0, rounded[_name(value)])
        node.replace_input_with(1, _round_weight(graph, weight, before=node))
        if not weight.uses():
            del graph.initializers[_name(weight)]
    return len(found)


def rounded_weight(
    weight: NDArray[np.floating],
) -> tuple[NDArray[np.generic], NDArray[np.float16]]:
    """E4M3 numbers [in, out], and the scales [out] that give `weight` back when multiplied in."""
    peaks = np.abs(weight.astype(np.float32)).max(0)
    scales = scale_of(peaks)
    return (weight.astype(np.float32) / scales.astype(np.float32)).astype(E4M3), scales


def scale_of(peak: NDArray[np.floating]) -> NDArray[np.float16]:
    """The scale with which `peak` is E4M3's largest number; rounded up, so that none is beyond."""
    scale = np.maximum(peak / MAX_E4M3, LEAST_SCALE).astype(np.float16)
    too_small = scale.astype(np.float64) * MAX_E4M3 < peak
    return np.where(too_small, np.nextafter(scale, np.float16(np.inf)), scale)


def measure_loss(checkpoint: Checkpoint, path: Path) -> verify.Loss:
    """The loss of the logits of the graph at `path`, float32 around its 8-bit products, against
    torch's."""
    inputs = verify.fixed_inputs("backbone", checkpoint.config, batch=2)
    exact = verify.run_torch(graph_module("backbone", checkpoint, "fp32"), inputs)
    with widened(path) as wide:
        found = verify.open_session(wide).run(None, inputs)[0]
    return verify.measure_loss(exact, found)


def _round_value(graph: ir.Graph, value: ir.Value, peak: float) -> ir.Value:
    """`value` through E4M3 and back, right behind what computes it."""
    name = _name(value)
    scale = onnx_graphs.constant(graph, f"{name}.scale", scale_of(np.array(peak)))
    zero = onnx_graphs.constant(graph, f"{name}.zero", np.zeros((), E4M3))
    into = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}.quantise")
    back = ir.node("DequantizeLinear", [into.outputs[0], scale, zero], name=f"{name}.dequantise")
    into.outputs[0].dtype, back.outputs[0].dtype = ir.DataType.FLOAT8E4M3FN, value.dtype
    into.outputs[0].shape = back.outputs[0].shape = value.shape
    producer = value.producer()
    assert producer is not None, f"{name} is an input, expected what a norm or attention computes"
    graph.insert_after(producer, [into, back])
    return back.outputs[0]


def _round_weight(graph: ir.Graph, weight: ir.Value, before: ir.Node) -> ir.Value:
    """8-bit numbers in the file, and the node that turns them into what was there before."""
    name = _name(weight)
    numbers, scales = rounded_weight(weight.const_value.numpy())
    stored = onnx_graphs.constant(graph, f"{name}.e4m3", numbers)
    scale = onnx_graphs.constant(graph, f"{name}.scale", scales)
    zero = onnx_graphs.constant(graph, f"{name}.zero", np.zeros(scales.shape, E4M3))
    back = ir.node("DequantizeLinear", [stored, scale, zero], {"axis": 1}, name=f"{name}.dequant")
    back.outputs[0].dtype, back.outputs[0].shape = weight.dtype, weight.shape
    graph.insert_before(before, back)
    return back.outputs[0]


def _has_constant(node: ir.Node) -> bool:
    return any(value.const_value is not None for value in node.inputs if value is not None)


def _shape(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a constant; () for anything else."""
    return () if value is None or value.const_value is None else tuple(value.const_value.shape)


def _name(value: ir.Value | None) -> str:
    assert value is not None and value.name is not None
    return value.name
