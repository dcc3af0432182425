"""Bundles that name weights of others: nothing is stored twice, and the same is computed."""

import json

import pytest

torch = pytest.importorskip("torch", reason="the exporter needs torch")

import numpy as np
from checkpoints import saved_checkpoint, tiny_config
from safetensors.torch import save_file

from export.build_engines import build_graphs, main
from export.modules import graph_module
from export.options import parse_arguments
from export.references import own_references, reference_to
from export.vab_bundle import build_graph
from export.verify import fixed_inputs, run_torch
from training.efficientnet import ENTRY
from vab_rt.bundle import open_bundle
from vab_rt.contract import contract_of
from vab_rt.engines.sessions import SessionEngine
from vab_rt.errors import BundleError

SIZES = {"visual_encoder": 0.5, "codec_decoder": 0.6}
"""Of what stays in the graph, in the bytes of all weights."""


def make_checkpoint(folder, **changes):
    return saved_checkpoint(folder, tiny_config(**changes))


def run_graph(folder, name, config, weights, inputs):
    graph = (folder / f"{name}.onnx").read_bytes()
    engine = SessionEngine(name, graph, contract_of(config)[name], 1, "here", weights=weights)
    return engine(**inputs)


@pytest.mark.parametrize(
    ("part", "graph", "changes", "suffix"),
    [
        ("image_encoder", "visual_encoder", {}, ".safetensors"),
        ("codec", "codec_decoder", {"codec": "encodec", "code_dim": 128}, ".pth"),
    ],
)
def test_what_a_file_has_is_not_in_the_graph(tmp_path, part, graph, changes, suffix):
    """Under the file's names, whatever they are; weight norm and batch norm stay apart as there."""
    checkpoint = make_checkpoint(tmp_path, **changes)
    theirs = {f"their.{n}": w.contiguous().clone() for n, w in checkpoint.weights[part].items()}
    file = tmp_path / f"theirs{suffix}"
    if suffix == ".pth":
        torch.save(theirs, file, _use_new_zipfile_serialization=False)
    else:
        save_file(theirs, file)
    referred = reference_to(file, checkpoint.weights[part].values())
    module = graph_module(graph, checkpoint, "fp32")
    inputs = fixed_inputs(graph, checkpoint.config, batch=2)
    naming = build_graph(graph, checkpoint, tmp_path, "fp32", "fp16", [referred])
    whole_bytes = sum(tensor.nbytes for tensor in module.state_dict().values())
    assert naming.size_bytes < SIZES[graph] * whole_bytes
    names = naming.weights[file.name]
    assert names and {*names} <= theirs.keys()
    weights = {name: referred.arrays[name] for name in names}
    found = run_graph(tmp_path, graph, checkpoint.config, weights, inputs)
    assert np.allclose(found, run_torch(module, inputs), atol=1e-4)


def test_a_bundle_names_a_file_and_looks_for_it(tmp_path):
    checkpoint = make_checkpoint(tmp_path, layers=1, expert_layers=0)
    file = tmp_path / "theirs.safetensors"
    save_file({n: w.clone() for n, w in checkpoint.weights["image_encoder"].items()}, file)
    out = tmp_path / "bundle"
    main([str(checkpoint.path), "--out", str(out), "--refer", str(file), "--precision", "fp32"])
    open_bundle(out).verify()
    manifest = json.loads((out / "vab.json").read_text())
    assert manifest["weights"][file.name]["size_bytes"] == file.stat().st_size
    assert manifest["graphs"]["visual_encoder"]["weights"][file.name]
    assert "weights" not in manifest["graphs"]["backbone"]
    file.unlink()
    with pytest.raises(BundleError, match=r"needs theirs\.safetensors"):
        open_bundle(out).verify()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("other.pth", {"weight": torch.zeros(100)}, "has none of the weights of this model"),
        ("other.pth", {"module": torch.nn.Linear(2, 2)}, "cannot be read as weights"),
        ("other one.pth", {"weight": torch.zeros(100)}, "rename the file"),
        ("missing.pth", None, "No such file"),
    ],
)
def test_a_file_that_is_not_of_the_model_is_refused(tmp_path, refused, name, content, message):
    checkpoint = make_checkpoint(tmp_path)
    if content is not None:
        torch.save(content, tmp_path / name)
    out = tmp_path / "bundle"
    assert message in refused(main, checkpoint.path, "--out", out, "--refer", tmp_path / name)
    assert not out.exists()


@pytest.mark.slow
def test_efficientnet_is_named_and_not_stored_unless_asked_for(tmp_path):
    kinds = tuple(f"kind {number}" for number in range(70))
    checkpoint = make_checkpoint(
        tmp_path, image_encoder="efficientnet-lite0", image_size=224, kinds=kinds, visual_dim=80
    )
    config = checkpoint.config
    assert checkpoint.path.stat().st_size < 3e6
    (own,) = own_references(config)
    assert own.entry == ENTRY
    graph = build_graph("visual_encoder", checkpoint, tmp_path, "fp32", "fp16", [own])
    assert graph.size_bytes < 1e6
    unused = {name for name in own.arrays if name.endswith("num_batches_tracked")}
    assert {*graph.weights[own.key]} == own.arrays.keys() - unused
    weights = {name: own.arrays[name] for name in graph.weights[own.key]}
    inputs = fixed_inputs("visual_encoder", config, batch=1)
    found = run_graph(tmp_path, "visual_encoder", config, weights, inputs)
    assert np.allclose(found, run_torch(checkpoint.image_encoder(), inputs), atol=1e-4)
    words = [str(checkpoint.path), "--weights-inside", "--store", "fp16"]
    inside = next(build_graphs(*parse_arguments(words), tmp_path / "inside"))
    assert inside.name == "visual_encoder" and not inside.weights and inside.size_bytes > 6e6
