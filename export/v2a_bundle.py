"""A V2A-Mapper's checkpoint to a bundle; `export.build_engines` is the command."""

from collections.abc import Collection, Iterator
from pathlib import Path

from export import onnx_graphs
from export.bundle_folder import BuiltGraph, built_from, folder_beside
from export.modules import Store
from export.v2a_graphs import v2a_module, verify_v2a
from training.v2a_mapper.checkpoint import V2ACheckpoint, read_v2a_checkpoint
from vab_rt.bundle import write_manifest
from vab_rt.contract import v2a_contract_of
from vab_rt.errors import ExportError


def build_v2a_bundle(
    path: Path, out: Path, precisions: Collection[str], store: Store, force: bool = False
) -> Iterator[BuiltGraph]:
    """Export, verify and write every graph of the checkpoint `path`, one at a time, to the folder
    `out`, which appears when all of it is there. Raises ExportError.
    """
    if {*precisions} != {"fp32"}:
        raise ExportError(
            f"{path} is of a V2A-Mapper and was asked for in {', '.join(precisions)}, expected "
            "fp32 alone, in which its graphs run everywhere; leave --precision out"
        )
    checkpoint = read_v2a_checkpoint(path)
    provenance = dict(checkpoint.header.provenance) | built_from(path, store)
    with folder_beside(out, force) as folder:
        for name in v2a_contract_of(checkpoint.config):
            graph = build_v2a_graph(name, checkpoint, folder, store)
            provenance |= graph.measured
            yield graph
        write_manifest(
            folder,
            checkpoint.config,
            "fp32",
            checkpoint.header.licence,
            provenance,
            options=checkpoint.header.options,
        )


def build_v2a_graph(name: str, checkpoint: V2ACheckpoint, folder: Path, store: Store) -> BuiltGraph:
    """Export one graph to `folder`/NAME.onnx and compare it with torch."""
    path, contract = folder / f"{name}.onnx", v2a_contract_of(checkpoint.config)[name]
    module = v2a_module(name, checkpoint, store)
    model = onnx_graphs.trace(module, contract)
    if store == "fp16":
        onnx_graphs.store_half(model)
    onnx_graphs.save(model, path)
    error = verify_v2a(name, module, path, contract, checkpoint.config)
    return BuiltGraph(name, path.stat().st_size, {f"verified_{name}": f"{error:.1e} off torch"})
