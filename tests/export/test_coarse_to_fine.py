"""A coarse and a fine checkpoint in one bundle: its tokens are torch's; only a pair is taken."""

from pathlib import Path
from typing import Any, get_args

import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")

import numpy as np
import torch
from checkpoints import tiny_checkpoint, tiny_config

import vab_rt
from export.build_engines import main
from export.modules import TYPED_GRAPHS
from export.vab_bundle import build_graph, build_variant, has_variant
from training.checkpoint import read_checkpoint
from training.model import VAB
from vab_rt.bundle import open_bundle
from vab_rt.config import ModelConfig
from vab_rt.contract import BACKBONES, Variant, contract_of
from vab_rt.decoding import decode_masked
from vab_rt.options import TokenOptions
from vab_rt.sampling import sample_step
from vab_rt.systems.vab import FINE_SEED
from vab_rt.windows import Window

GRAPHS = ("visual_encoder", "backbone", "fine_backbone", "codec_decoder", "codec_encoder")
DAC = {"codec": "dac", "code_dim": 8, "codebook_size": 32}


def coarse_config(**changes: Any) -> ModelConfig:
    facts = {"name": "tiny-coarse", "num_codebooks": 4, "layers": 2, "expert_layers": 1}
    return tiny_config(**facts | changes)


def fine_config(**changes: Any) -> ModelConfig:
    facts = {"name": "tiny-fine", "num_codebooks": 12, "given_codebooks": 4, "width": 40}
    return tiny_config(**facts | {"layers": 1, "expert_layers": 0, "heads": 5} | changes)


def write_pair(folder: Path, **changes: Any) -> tuple[Path, Path]:
    """Two checkpoints with one image encoder and one codec, of which the coarse has the first 4."""
    fine = tiny_checkpoint(fine_config(**changes))
    coarse = tiny_checkpoint(coarse_config(**changes), seed=1)
    coarse["codec"] = {name: fine["codec"][name] for name in coarse["codec"]}
    codebooks = fine["vab"]["codebooks"]
    coarse["vab"]["codebooks"] = codebooks[:4].clone()
    coarse["image_encoder"] = fine["image_encoder"]
    coarse["options"], fine["options"] = {"guidance": 5.0}, {"fine_steps": 7}
    paths = folder / "coarse.pt", folder / "fine.pt"
    for path, content in zip(paths, (coarse, fine), strict=True):
        torch.save(content, path)
    return paths


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pytest.importorskip("transformers", reason="not installed: pip install 'vab-rt[export]'")
    return write_pair(tmp_path_factory.mktemp("pair"), **DAC)


@pytest.fixture(scope="module")
def bundle(pair):
    coarse, fine = map(str, pair)
    main([coarse, "--fine", fine, "--out", str(pair[0].with_name("bundle"))])
    return pair[0].with_name("bundle")


def test_the_bundle_holds_both_and_the_fine_ones_codec(bundle, pair):
    opened = open_bundle(bundle)
    opened.verify()
    manifest, (coarse, fine) = opened.manifest, map(read_checkpoint, pair)
    assert (manifest.model, manifest.fine) == (coarse.config, fine.config)
    assert list(manifest.graphs) == list(GRAPHS)
    assert manifest.graphs["codec_encoder"].contract.outputs[0].shape == ("B", 12, 100)
    assert all(f"verified_{name}" in manifest.provenance for name in GRAPHS)
    assert manifest.license == "Apache-2.0", "said once"
    assert manifest.defaults == TokenOptions(guidance=5, fine_steps=7)
    of_fine = {name for name in manifest.provenance if name.startswith("fine_")}
    assert of_fine == {"fine_data", "fine_checkpoint_sha256"}
    assert manifest.provenance["fine_checkpoint_sha256"] != manifest.provenance["checkpoint_sha256"]


def logits_of(vab: VAB, tokens, features, conditional):
    inputs = (tokens, features, np.full(len(tokens), conditional, np.float32))
    with torch.inference_mode():
        return vab(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs)).numpy()


def decoded_by_torch(pair, features, options, seed):
    """Both stages as they are written down: torch's own modules, all levels in, reference sampler.

    Yields the tokens [1, 12, T] after each step; fine ones are [MASK] until it is their turn.
    """
    coarse, fine = (read_checkpoint(path).vab() for path in pair)
    mask_id, steps = coarse.config.mask_id, coarse.config.num_token_steps
    tokens = np.full((1, 12, steps), mask_id, np.int32)
    for vab, part, count, own in (
        (coarse, slice(0, 4), options.steps, seed),
        (fine, slice(4, 12), options.fine_steps, (seed + FINE_SEED) % 2**64),
    ):
        before = tokens[:, : part.start]
        stage = TokenOptions(steps=count)

        def both_branches(found, vab=vab, before=before):
            whole = np.concatenate([before, found], 1)
            return tuple(logits_of(vab, whole, features, branch) for branch in (1.0, 0.0))

        loop = decode_masked(
            both_branches, tokens[:, part], np.array([own], np.uint64), stage, sample_step
        )
        for _, found in loop:
            tokens = tokens.copy()
            tokens[:, part] = found
            yield tokens


def test_the_tokens_of_all_52_steps_are_torchs(bundle, pair):
    pipeline, options = vab_rt.load(bundle, threads=1), TokenOptions(seed=11, fine_steps=36)
    c = pipeline.config
    rng = np.random.default_rng(4)
    features = rng.standard_normal((1, c.num_frames, c.visual_dim)).astype(np.float32)
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    window = Window(0, features[0], c.num_frames, slice(0, c.num_samples), is_last=True)
    found = list(pipeline.system.decode(window, None, options))
    expected = list(decoded_by_torch(pair, features, options, seed=11))
    assert len(found) == len(expected) == 52
    for (step, ours), theirs in zip(found, expected, strict=True):
        assert np.array_equal(ours, theirs), step
    finished = torch.from_numpy(found[-1][1])
    with torch.inference_mode():
        sound = read_checkpoint(pair[1]).codec().decode(finished).clamp(-1, 1).numpy()
    rendered = pipeline.render(found[-1][1])
    assert np.abs(rendered - sound).max() < 1e-4 * np.abs(sound).max() + 1e-6


def test_int8_and_16_bits_are_of_both_backbones(pair, tmp_path):
    fine = read_checkpoint(pair[1])
    measured = build_graph("fine_backbone", fine, tmp_path, "int8", "fp16").measured
    assert set(measured) == {
        "verified_fine_backbone", "int8_fine_backbone", "fp16_storage_fine_backbone",
    }  # fmt: skip
    assert (
        "same argmax"
        in build_variant("fine_backbone", fine, tmp_path, "fp16", "fp32").measured[
            "fp16_fine_backbone"
        ]
    )
    has = {p: {name for name in TYPED_GRAPHS if has_variant(name, p)} for p in get_args(Variant)}
    assert has == {
        "fp32": set(BACKBONES),
        "fp16": set(TYPED_GRAPHS),
        "bf16": set(TYPED_GRAPHS),
        "fp8": {"backbone"},
    }


def test_what_is_no_pair_is_refused(tmp_path, refused):
    (coarse, fine), out = write_pair(tmp_path), tmp_path / "b"
    alone = "tiny-fine predicts only the codebooks after the first 4, expected one"
    other = tmp_path / "other.pt"
    torch.save(tiny_checkpoint(fine_config(visual_rate_hz=5.0)), other)
    for words, said in (
        ([fine], alone),
        ([fine, "--fine", coarse], alone),
        ([coarse, "--fine", coarse], "tiny-coarse goes on from 0 codebooks, expected 4"),
        ([coarse, "--fine", other], "has visual_rate_hz 5.0, expected 2.5 as tiny-coarse has"),
    ):
        assert said in refused(main, *words, "--out", out)
        assert not out.exists()


@pytest.mark.parametrize(
    ("part", "name", "said"),
    [
        ("codec", "quantizer.vq.layers.0._codebook.embed", "codebooks of its codec are not those"),
        ("image_encoder", None, "of its visual encoder is not that of"),
    ],
)
def test_a_fine_model_of_another_codec_or_encoder_is_refused(tmp_path, refused, part, name, said):
    coarse, fine = write_pair(tmp_path)
    content = torch.load(fine, weights_only=True)
    name = name or next(iter(content[part]))
    content[part][name] = content[part][name] + 1
    if part == "codec":  # and the model with it, as its own checkpoint would have it
        content["vab"]["codebooks"][0] += 1
    torch.save(content, fine)
    found = refused(main, coarse, "--fine", fine, "--out", tmp_path / "b")
    assert said in found and str(fine) in found and "expected one" in found


def test_the_graph_of_the_fine_model_takes_its_tokens_apart():
    contract = contract_of(fine_config())["fine_backbone"]
    inputs = {tensor.name: tensor.shape for tensor in contract.inputs}
    assert inputs["coarse"] == ("B", 4, 100) and inputs["tokens"] == ("B", 8, 100)
    assert contract.outputs[0].shape == ("B", 8, 100, 37)
