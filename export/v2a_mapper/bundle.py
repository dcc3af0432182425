"""A V2A-Mapper's checkpoint to a bundle; `export.build_engines` is the command."""

from collections.abc import Collection, Iterator
from pathlib import Path

from export import onnx_graphs
from export.bundle_folder import BuiltGraph, built_from, folder_beside
from export.manifest import write_manifest
from export.modules import Store, stored_as
from export.typed_graphs import widened
from export.v2a_mapper.graphs import (
    TYPED_V2A,
    typed_v2a_module,
    v2a_inputs,
    v2a_module,
    verify_v2a,
    widened_v2a_module,
)
from export.verify import check_error, relative_error, run_torch
from training.v2a_mapper.checkpoint import V2ACheckpoint, read_v2a_checkpoint
from vab_rt.errors import ExportError
from vab_rt.v2a_mapper.contract import v2a_contract_of


def build_v2a_bundle(
    path: Path, out: Path, precisions: Collection[str], store: Store, force: bool
) -> Iterator[BuiltGraph]:
    """Export, verify and write every graph of the checkpoint `path`, one at a time, to the folder
    `out`, which appears when all of it is there. Raises ExportError.
    """
    if {*precisions} not in ({"fp32"}, {"fp32", "fp16"}):
        raise ExportError(
            f"{path} is of a V2A-Mapper and was asked for in {', '.join(precisions)}, expected "
            "fp32, which runs everywhere, or fp32,fp16, with graphs in fp16 beside it for GPUs; "
            "leave --precision out"
        )
    checkpoint = read_v2a_checkpoint(path)
    provenance = dict(checkpoint.header.provenance) | built_from(path, store)
    with folder_beside(out, force) as folder:
        for name in v2a_contract_of(checkpoint.config):
            graph = build_v2a_graph(name, checkpoint, folder, store)
            provenance |= graph.measured
            yield graph
        for name in TYPED_V2A if "fp16" in precisions else ():
            graph = build_v2a_variant(name, checkpoint, folder)
            provenance |= graph.measured
            yield graph
        write_manifest(
            folder,
            checkpoint.config,
            "fp32",
            checkpoint.header.license,
            provenance,
            options=checkpoint.header.options,
        )


def build_v2a_graph(name: str, checkpoint: V2ACheckpoint, folder: Path, store: Store) -> BuiltGraph:
    """Export one graph to `folder`/NAME.onnx and compare it with torch."""
    path, contract = folder / f"{name}.onnx", v2a_contract_of(checkpoint.config)[name]
    module = v2a_module(name, checkpoint, store)
    model = onnx_graphs.trace(module, contract)
    onnx_graphs.store_weights(model, stored_as(name, store))
    onnx_graphs.save(model, path)
    error = verify_v2a(name, module, path, contract, checkpoint.config)
    return BuiltGraph(name, path.stat().st_size, {f"verified_{name}": f"{error:.1e} off torch"})


def build_v2a_variant(name: str, checkpoint: V2ACheckpoint, folder: Path) -> BuiltGraph:
    """Export one of TYPED_V2A in 16 bits to `folder`/NAME.fp16.onnx.

    The graph, computed in float32, is compared with torch; what computing in 16 bits changes is
    measured in torch.
    """
    path, config = folder / f"{name}.fp16.onnx", checkpoint.config
    contract, module = v2a_contract_of(config)[name], typed_v2a_module(name, checkpoint)
    onnx_graphs.save(onnx_graphs.trace(module, contract), path)
    inputs = v2a_inputs(contract, config, batch=2)
    exact = run_torch(v2a_module(name, checkpoint, "fp32"), inputs)
    loss = relative_error(exact, run_torch(module, inputs))
    check_error(name, loss, "fp16")
    del module
    error = verify_widened(name, checkpoint, path)
    measured = f"{error:.1e} off torch before rounding; relative error {loss:.1e}"
    return BuiltGraph(path.stem, path.stat().st_size, {f"fp16_{name}": measured})


def verify_widened(name: str, checkpoint: V2ACheckpoint, path: Path) -> float:
    """The largest relative error of the 16-bit graph at `path`, computed in float32 as torch does.

    Raises ExportError.
    """
    config, module = checkpoint.config, widened_v2a_module(name, checkpoint)
    with widened(path) as wide:
        contract = v2a_contract_of(config)[name]
        return verify_v2a(name, module, wide, contract, config, is_rounded=True)
