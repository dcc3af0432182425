"""A V2A-Mapper's checkpoint to a bundle, against torch: each graph, and the chain from a start to
the waveform."""

import json
import re
import sys

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from cuda_kernels import off_the_gpu
from torch import nn
from v2a_checkpoints import LICENSE, LOUDER, SCHEDULER, VOCODER, tiny_v2a_config, write_tiny_v2a

import vab_rt
from export import onnx_graphs
from export.build_engines import main
from export.tolerances import TOLERANCES
from export.v2a_mapper.bundle import build_v2a_graph, verify_widened
from export.v2a_mapper.graphs import TYPED_V2A, Vocoder, v2a_inputs, v2a_module, verify_v2a
from export.verify import open_session, run_torch
from training.v2a_mapper.checkpoint import read_v2a_checkpoint
from training.v2a_mapper.engines import open_system
from training.v2a_mapper.parts import build_vocoder
from vab_rt import GenerateOptions
from vab_rt.bundle import open_bundle
from vab_rt.cli import main as info
from vab_rt.engines.device_loop import gpu_precision
from vab_rt.engines.tensorrt import compile_graph, tensorrt_rtx
from vab_rt.errors import ExportError
from vab_rt.v2a_mapper.contract import v2a_contract_of
from vab_rt.v2a_mapper.system import latent_noise

diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
transformers = pytest.importorskip("transformers", reason="pip install transformers")

GRAPHS = ("visual_encoder", "mapper", "unet", "vae_decoder", "vocoder")
PARITY = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """ckpt.pt and what the command makes of it, ckpt."""
    folder = tmp_path_factory.mktemp("v2a")
    main([str(write_tiny_v2a(folder / "ckpt.pt")), "--precision", "fp32,fp16"])
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder):
    return read_v2a_checkpoint(folder / "ckpt.pt")


@pytest.fixture(scope="module")
def pipeline(folder):
    return vab_rt.load(folder / "ckpt", threads=1)


@pytest.fixture(scope="module")
def unet(checkpoint):
    return v2a_module("unet", checkpoint, "fp32")


def assert_is_torch(name, module, path, config):
    contract = v2a_contract_of(config)[name]
    assert verify_v2a(name, module, path, contract, config) < PARITY
    inputs = v2a_inputs(contract, config, batch=2)
    expected, found = run_torch(module, inputs), open_session(path).run(None, inputs)[0]
    assert 0.02 < expected.std() < 10  # nothing equals nothing
    assert np.abs(expected - found).max() < PARITY * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_are_torch(folder, checkpoint, name):
    module = v2a_module(name, checkpoint, "fp32")
    assert_is_torch(name, module, folder / "ckpt" / f"{name}.onnx", checkpoint.config)


@pytest.mark.parametrize("name", ["unet", "vae_decoder", "vocoder"])
def test_graphs_are_torch_at_another_length(tmp_path, name):
    config = tiny_v2a_config(clip_s=1.6)
    module = v2a_module(
        name, read_v2a_checkpoint(write_tiny_v2a(tmp_path / "c.pt", config)), "fp32"
    )
    onnx_graphs.save(
        onnx_graphs.trace(module, v2a_contract_of(config)[name]), tmp_path / f"{name}.onnx"
    )
    assert_is_torch(name, module, tmp_path / f"{name}.onnx", config)


def test_a_regression_between_widths_is_torch_too(tmp_path):
    config = tiny_v2a_config(mapper="regression", visual_dim=10)
    checkpoint = read_v2a_checkpoint(write_tiny_v2a(tmp_path / "r.pt", config))
    module, path = v2a_module("mapper", checkpoint, "fp32"), tmp_path / "mapper.onnx"
    onnx_graphs.save(onnx_graphs.trace(module, v2a_contract_of(config)["mapper"]), path)
    assert_is_torch("mapper", module, path, config)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def test_a_graph_that_is_not_torch_is_refused(folder, checkpoint):
    louder = nn.Sequential(v2a_module("vae_decoder", checkpoint, "fp32"), Doubled())
    contract = v2a_contract_of(checkpoint.config)["vae_decoder"]
    with pytest.raises(ExportError, match=r"vae_decoder differs from torch by .* expected at most"):
        path = folder / "ckpt" / "vae_decoder.onnx"
        verify_v2a("vae_decoder", louder, path, contract, checkpoint.config)
    assert {*GRAPHS} <= TOLERANCES.keys()


def test_the_null_embedding_is_in_the_graph(folder, checkpoint):
    inputs = v2a_inputs(v2a_contract_of(checkpoint.config)["unet"], checkpoint.config, batch=1)
    session = open_session(folder / "ckpt" / "unet.onnx")
    (null,) = session.run(None, inputs | {"conditional": np.zeros(1, np.float32)})
    given = {"embedding": checkpoint.null_embedding.numpy()[None]}
    (expected,) = session.run(None, inputs | given)
    (other,) = session.run(None, inputs)
    np.testing.assert_array_equal(null, expected)
    assert not np.allclose(null, other, atol=1e-3)


def test_the_vocoder_is_as_near_to_float64_as_float32_is(folder, checkpoint):
    """With weights of ordinary size; times 30 float32 itself would be off by 2e-3."""
    inputs = v2a_inputs(v2a_contract_of(checkpoint.config)["vocoder"], checkpoint.config, batch=1)
    exact = v2a_module("vocoder", checkpoint, "fp32").double()
    with torch.no_grad():
        expected = exact(torch.from_numpy(inputs["mel"]).double()).numpy()
    found = open_session(folder / "ckpt" / "vocoder.onnx").run(None, inputs)[0]
    assert LOUDER == 15 and 0.02 < expected.std() < 0.5
    assert np.abs(found - expected).max() < PARITY


def test_a_vocoder_that_makes_too_little_is_refused():
    short = build_vocoder(VOCODER | {"upsample_rates": [5, 2, 2, 2, 2]})
    with pytest.raises(ExportError, match=r"makes 80\d\d samples of 100 frames, expected at least"):
        Vocoder(short, tiny_v2a_config())(torch.zeros(1, 100, 64))


def audioldm(checkpoint):
    """The deprecated pipeline of diffusers around the same networks."""
    if not hasattr(diffusers, "AudioLDMPipeline"):
        pytest.skip(f"diffusers {diffusers.__version__} has no AudioLDMPipeline any more")
    text = transformers.ClapTextConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    pipeline = diffusers.AudioLDMPipeline(
        vae=checkpoint.vae(),
        text_encoder=transformers.ClapTextModelWithProjection(text),
        tokenizer=None,
        unet=checkpoint.unet(),
        scheduler=diffusers.DDIMScheduler(**SCHEDULER),
        vocoder=checkpoint.vocoder(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(("steps", "guidance"), [(4, 2.5), (10, 1.0)])
def test_the_waveform_is_that_of_diffusers_from_the_same_start(
    checkpoint, pipeline, steps, guidance
):
    system, config = pipeline.system, pipeline.config
    features = np.random.default_rng(2).standard_normal((2, config.visual_dim), np.float32)
    embedding, start = system.embedding_of(features, 3), latent_noise(config, 3)
    options = system.options(GenerateOptions(steps=steps, guidance=guidance))
    *_, (_, latent) = system.denoise_latents(embedding, start, options)
    found = system.render(latent)
    expected = audioldm(checkpoint)(
        audio_length_in_s=config.clip_s,
        num_inference_steps=steps,
        guidance_scale=guidance,
        prompt_embeds=torch.from_numpy(embedding),
        negative_prompt_embeds=checkpoint.null_embedding[None],
        latents=torch.from_numpy(start),
    ).audios
    assert found.shape == expected.shape == (1, config.num_samples)
    assert 0.02 < expected.std() < 0.5
    assert np.abs(found - expected).max() < PARITY


def test_a_prior_is_the_one_of_training(checkpoint, pipeline):
    """From features to the pseudo CLAP embedding, with the network in torch."""
    features = np.random.default_rng(4).standard_normal((2, checkpoint.config.visual_dim))
    features = features.astype(np.float32)
    expected = open_system(checkpoint).embedding_of(features, 9)
    assert np.abs(pipeline.system.embedding_of(features, 9) - expected).max() < PARITY


def test_the_command_says_what_it_verified_and_the_bundle_runs(folder, pipeline, videos):
    manifest = json.loads((folder / "ckpt" / "vab.json").read_text())
    assert manifest["kind"] == "v2a-mapper"
    assert manifest["options"] == {"steps": 4}  # as the checkpoint recommends
    assert {f"verified_{name}" for name in GRAPHS} <= manifest["provenance"].keys()
    assert len(manifest["provenance"]["checkpoint_sha256"]) == 64
    audio = pipeline.generate(videos(50))
    assert audio.samples.shape == (32_000,) and audio.samples.std() > 0.01
    names = {path.name for path in (folder / "ckpt").iterdir()}
    graphs = {f"{name}.onnx" for name in GRAPHS} | {f"{name}.fp16.onnx" for name in TYPED_V2A}
    assert names == {"vab.json", "README.md", *graphs}


def test_the_license_is_shown(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vab-rt", "info", str(folder / "ckpt")])
    with pytest.raises(SystemExit) as end:
        info()
    assert not end.value.code
    assert re.search(f"license +{re.escape(LICENSE)}\n", capsys.readouterr().out)
    assert LICENSE in (folder / "ckpt" / "README.md").read_text()


@pytest.mark.parametrize("name", TYPED_V2A)
def test_graphs_for_gpus_compute_in_16_bits(folder, name):
    path = folder / "ckpt" / f"{name}.fp16.onnx"
    graph = ir.load(path).graph
    heavy = [n for n in graph if n.op_type in ("MatMul", "Gemm", "Attention", "Conv")]
    assert len(heavy) > 8
    for node in heavy:
        kinds = {value.dtype for value in node.inputs if value is not None and value.dtype}
        assert kinds == {ir.DataType.FLOAT16}, node
    assert path.stat().st_size < 0.65 * (folder / "ckpt" / f"{name}.onnx").stat().st_size
    measured = json.loads((folder / "ckpt" / "vab.json").read_text())["provenance"][f"fp16_{name}"]
    off, loss = map(float, re.findall(r"\d\.\de-\d\d", measured))
    assert off < 1e-3 and 1e-5 < loss < 2e-2


def test_gpus_take_them_and_the_others_as_they_are(folder):
    bundle = open_bundle(folder / "ckpt")
    bundle.verify()
    for name in GRAPHS:
        narrow = ".fp16" if name in TYPED_V2A else ""
        assert bundle.file_of(name, gpu_precision(bundle, name)) == f"{name}{narrow}.onnx"


def test_a_16_bit_graph_of_other_weights_is_refused(folder, tmp_path):
    other = read_v2a_checkpoint(write_tiny_v2a(tmp_path / "other.pt", seed=1))
    path = tmp_path / "unet.fp16.onnx"
    path.write_bytes((folder / "ckpt" / path.name).read_bytes())
    with pytest.raises(ExportError, match="unet differs from torch"):
        verify_widened("unet", other, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.pt", "unet.fp16.onnx"]


def test_every_node_has_a_kernel_of_the_cuda_provider(folder, tmp_path):
    """GroupNormalization has none, but is a function, which onnxruntime takes apart."""
    for name in GRAPHS:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(tmp_path / name)
        onnxruntime.InferenceSession(
            folder / "ckpt" / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
        )
        assert off_the_gpu(tmp_path / name) == set()
    for name in TYPED_V2A:
        missing = off_the_gpu(folder / "ckpt" / f"{name}.fp16.onnx")
        assert missing <= {"GroupNormalization 21"}


def test_weights_stored_in_half_are_exact_too(folder, tmp_path, checkpoint):
    built = build_v2a_graph("mapper", checkpoint, tmp_path, "fp16")
    whole = (folder / "ckpt" / "mapper.onnx").stat().st_size
    assert built.size_bytes < 0.75 * whole
    assert float(built.measured["verified_mapper"].split()[0]) < PARITY


@pytest.mark.parametrize("name", ["mapper", "unet", "vae_decoder", "vocoder"])
def test_rtx_builds_the_graphs(folder, tmp_path, name):
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    bundle = open_bundle(folder / "ckpt")
    compiled = compile_graph(bundle, name, "fp32", tensorrt_rtx(), tmp_path / "cache")
    assert len(compiled.engine) > 1000
