"""A VAB's checkpoint, or a coarse and a fine one, to a bundle."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_ir as ir
import torch
from torch import nn

from export import onnx_graphs, verify
from export.bundle_folder import BuiltGraph, built_from, folder_beside
from export.fp8_graphs import write_fp8
from export.manifest import write_manifest
from export.modules import TYPED_GRAPHS, Store, graph_module, stored_as
from export.options import Precision
from export.references import Referred, names_by_file, weights_outside
from export.typed_graphs import write_typed
from training.checkpoint import Checkpoint
from vab_rt.config import ModelConfig
from vab_rt.contract import (
    BACKBONES,
    STREAMS,
    GraphContract,
    Variant,
    check_pair,
    contract_of,
    pair_contract_of,
)
from vab_rt.errors import ExportError
from vab_rt.options import Tuning
from vab_rt.quantisation import in_int8


class Models(NamedTuple):
    """What a bundle is made of: a model, and one for the codebooks after its own."""

    coarse: Checkpoint
    fine: Checkpoint | None = None

    def contracts(self) -> dict[str, GraphContract]:
        return pair_contract_of(self.coarse.config, self.fine and self.fine.config)

    def owner(self, graph: str) -> Checkpoint:
        """Whose graph it is: the codec is the fine one's, which has all codebooks."""
        if self.fine is None or graph in (*STREAMS, "backbone"):
            return self.coarse
        return self.fine

    def check(self) -> None:
        """Raises BundleError for sizes that do not fit each other, ExportError for weights."""
        check_pair(self.coarse.config, self.fine and self.fine.config)
        if self.fine is not None:
            check_same_codes(self.coarse, self.fine)
            check_same_visual_encoders(self.coarse, self.fine)

    def license(self) -> str:
        licenses = [m.header.license for m in (self.coarse, self.fine) if m is not None]
        return "; ".join(dict.fromkeys(licenses))

    def options(self) -> Tuning:
        """How the models want to be decoded: as the coarse one says, and the fine one of itself."""
        of_fine = Tuning() if self.fine is None else self.fine.header.options
        return Tuning(**of_fine.named() | self.coarse.header.options.named())

    def provenance(self, store: Store) -> dict[str, str]:
        """With the fine model's own, under names that begin with `fine_`."""
        found = dict(self.coarse.header.provenance) | built_from(self.coarse.path, store)
        if self.fine is None:
            return found
        sha256 = built_from(self.fine.path, store)["checkpoint_sha256"]
        of_fine = self.fine.header.provenance | {"checkpoint_sha256": sha256}
        return found | {f"fine_{name}": value for name, value in of_fine.items()}


def check_same_codes(coarse: Checkpoint, fine: Checkpoint) -> None:
    """The fine model must mean the same sound by the coarse model's tokens. Raises ExportError."""
    own, other = coarse.codec().codebooks, fine.codec().codebooks[: coarse.config.num_codebooks]
    if not torch.equal(own, other):
        raise ExportError(
            f"{fine.path}: the first {len(own)} codebooks of its codec are not those of "
            f"{coarse.path}, expected one codec for both; train the fine model on the tokens of "
            "the coarse model's codec"
        )


def check_same_visual_encoders(coarse: Checkpoint, fine: Checkpoint) -> None:
    """There is one visual encoder for both. Raises ExportError."""
    own, other = (m.visual_encoder().state_dict() for m in (coarse, fine))
    different = [name for name, weight in own.items() if not torch.equal(weight, other[name])]
    if different:
        raise ExportError(
            f"{fine.path}: {different[0]} of its visual encoder is not that of {coarse.path} "
            f"({len(different)} of {len(own)} tensors differ), expected one visual encoder for "
            "both; train the fine model on the coarse model's features"
        )


def build_bundle(
    models: Models,
    out: Path,
    precision: Precision,
    store: Store,
    force: bool,
    typed: tuple[Variant, ...],
    calibration: verify.Arrays | None,
    referred: Sequence[Referred],
) -> Iterator[BuiltGraph]:
    """Export, verify and write every graph of `models`, one at a time, to the folder `out`.

    precision: of the backbones that CPUs run. typed: of further graphs, for GPUs.
    calibration: see `write_fp8`. referred: files whose weights the bundle names instead of holding
    them. `out` appears when all of it is there. Raises ExportError, and BundleError for models that
    do not belong together.
    """
    models.check()
    provenance, names = models.provenance(store), list(models.contracts())
    outside: dict[str, dict[str, tuple[str, ...]]] = {}
    with folder_beside(out, force) as folder:
        for name in names:
            graph = build_graph(name, models.owner(name), folder, precision, store, referred)
            provenance |= graph.measured
            outside |= {name: dict(graph.weights)} if graph.weights else {}
            yield graph
        for width, name in product(typed, TYPED_GRAPHS):
            if name not in names or not has_variant(name, width):
                continue
            if name in outside or (name in STREAMS and models.coarse.config.kinds):
                continue  # it would hold what the main one names; probabilities stay float32
            graph = build_variant(name, models.owner(name), folder, width, store, calibration)
            provenance |= graph.measured
            yield graph
        more: dict[str, object] = {} if models.fine is None else {"fine": models.fine.config}
        more |= {"options": models.options()}
        used = {key for weights in outside.values() for key in weights}
        more |= {"weights": {file.key: file.entry for file in referred if file.key in used}}
        license = models.license()
        config = models.coarse.config
        write_manifest(folder, config, precision, license, provenance, outside, **more)


def has_variant(name: str, precision: Variant) -> bool:
    """Whether one of TYPED_GRAPHS has a file of its own: image encoders are float32 anyway, and
    fp8 is of the first backbone alone; the others are then those of fp16."""
    return name in {"fp32": BACKBONES, "fp8": ("backbone",)}.get(precision, TYPED_GRAPHS)


def build_graph(
    name: str,
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    store: Store,
    referred: Sequence[Referred] = (),
) -> BuiltGraph:
    """Export one graph to `folder`/NAME.onnx and compare it with torch."""
    path = folder / f"{name}.onnx"
    referred = () if name in BACKBONES else referred  # these are ours, and may be quantised
    module = graph_module(name, checkpoint, store, referred)
    model = onnx_graphs.trace(module, contract_of(checkpoint.config)[name], referred)
    weights = names_by_file(model)
    if name in BACKBONES and precision == "int8":
        measured = write_int8(name, module, model, path, checkpoint.config, store)
    else:
        outside = weights_outside(model, referred)
        as_stored = "fp32" if outside else stored_as(name, store)  # what files have is not rounded
        measured = write_exact(name, module, model, path, checkpoint.config, as_stored, outside)
    if name in BACKBONES and store != "fp32":
        unrounded = graph_module(name, checkpoint, "fp32")
        inputs = verify.fixed_inputs(name, checkpoint.config, batch=1)
        loss = verify.measure_loss(*(verify.run_torch(m, inputs) for m in (unrounded, module)))
        measured[named(f"{store}_storage", name)] = str(loss)
    return BuiltGraph(name, path.stat().st_size, measured, weights)


def build_variant(
    name: str,
    checkpoint: Checkpoint,
    folder: Path,
    precision: Variant,
    store: Store,
    calibration: verify.Arrays | None = None,
) -> BuiltGraph:
    """Export one graph to `folder`/NAME.PRECISION.onnx, beside the one that CPUs run."""
    path = folder / f"{name}.{precision}.onnx"
    if precision == "fp32":
        module = graph_module(name, checkpoint, store)
        model = onnx_graphs.trace(module, contract_of(checkpoint.config)[name])
        measured = write_exact(name, module, model, path, checkpoint.config, stored_as(name, store))
        measured = {f"{key}_fp32": text for key, text in measured.items()}
    elif precision == "fp8":
        measured = write_fp8(checkpoint, path, calibration)
    else:
        measured = write_typed(name, checkpoint, path, precision)
    return BuiltGraph(path.stem, path.stat().st_size, measured)


def write_exact(
    name: str,
    module: nn.Module,
    model: ir.Model,
    path: Path,
    config: ModelConfig,
    store: Store,
    outside: verify.Arrays | None = None,
) -> dict[str, str]:
    """outside: what the graph names and does not hold."""
    onnx_graphs.store_weights(model, store)
    onnx_graphs.save(model, path)
    error = verify.verify(name, module, path, config, weights=outside)
    return {f"verified_{name}": f"{error:.1e} off torch" if error else "equal to torch"}


def write_int8(
    name: str, module: nn.Module, model: ir.Model, path: Path, config: ModelConfig, store: Store
) -> dict[str, str]:
    """Verify the exact graph, write its int8 version, and measure what that loses and gains."""
    exact = path.with_suffix(".exact")
    measured = write_exact(name, module, model, exact, config, store="fp32")
    quantised = ir.from_proto(onnx.load_from_string(in_int8(exact.read_bytes())))
    onnx_graphs.store_weights(quantised, store)
    onnx_graphs.save(quantised, path)
    inputs = verify.fixed_inputs(name, config, batch=2)
    sessions = verify.open_session(exact), verify.open_session(path)
    loss = verify.measure_loss(*(session.run(None, inputs)[0] for session in sessions))
    verify.check_error("int8", loss.relative_error)
    before_s, after_s = (verify.seconds_per_run(session, inputs) for session in sessions)
    exact.unlink()
    took = f"a step takes {after_s:.3f} s, {before_s:.3f} s in fp32"
    return measured | {named("int8", name): f"{loss}; {took}"}


def named(measure: str, graph: str) -> str:
    """What the provenance calls a measure of one of BACKBONES."""
    return measure if graph == "backbone" else f"{measure}_{graph}"
