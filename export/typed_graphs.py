"""Graphs for GPUs: 16 bits wide inside, float32 at their ends, verified without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from export import onnx_graphs, verify
from export.modules import Typed, graph_module, rounded_module, typed_module
from training.checkpoint import Checkpoint
from vab_rt.contract import BACKBONES, contract_of


def write_typed(name: str, checkpoint: Checkpoint, path: Path, precision: Typed) -> dict[str, str]:
    """Export one of TYPED_GRAPHS to `path`; returns what it loses.

    The graph, computed in float32, is compared with torch; what computing in 16 bits changes is
    measured in torch, as onnxruntime has no bfloat16 on the CPU. Raises ExportError.
    """
    module = typed_module(name, checkpoint, precision)
    onnx_graphs.save(onnx_graphs.trace(module, contract_of(checkpoint.config)[name]), path)
    inputs = verify.fixed_inputs(name, checkpoint.config, batch=2)
    exact = verify.run_torch(graph_module(name, checkpoint, "fp32"), inputs)
    loss = verify.measure_loss(exact, verify.run_torch(module, inputs))
    verify.check_error(name, loss.relative_error, precision)
    del module
    error = verify_widened(name, checkpoint, path, precision)
    measured = f"{error:.1e} off torch before rounding"
    changed = f"; {loss}" if name in BACKBONES else f"; relative error {loss.relative_error:.1e}"
    return {f"{precision}_{name}": measured + changed}


def verify_widened(name: str, checkpoint: Checkpoint, path: Path, precision: Typed) -> float:
    """The largest relative error of the graph at `path`, computed in float32 as torch does."""
    module = rounded_module(name, checkpoint, precision)
    with widened(path) as wide:
        return verify.verify(name, module, wide, checkpoint.config, is_rounded=True)


@contextmanager
def widened(path: Path) -> Iterator[Path]:
    """The 16-bit graph at `path`, computing in float32, in a file that the block may read."""
    wide = path.with_suffix(".wide")
    try:
        onnx_graphs.save(onnx_graphs.widen(ir.load(path)), wide)
        yield wide
    finally:
        wide.unlink(missing_ok=True)
