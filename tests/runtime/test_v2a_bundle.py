"""Bundles of a V2A-Mapper: what is refused, what the manifest holds, what becomes an engine."""

import json

import msgspec
import pytest
from tiny_v2a import make_v2a_bundle, tiny_v2a_config

import vab_rt
from vab_rt.bundle import open_bundle
from vab_rt.engines.tensorrt import compile_bundle, tensorrt_rtx
from vab_rt.errors import BundleError, OptionError
from vab_rt.v2a_mapper.config import V2AConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual_dim": 7}, "visual_dim is 7 and audio_dim 6, expected the same with .* 'prior'"),
        ({"num_mels": 9}, "num_mels is 9 .* expected multiples of latent_factor"),
        ({"hop_samples": 642}, "hop_samples 642, expected multiples of latent_factor"),
        ({"audio_dim": 0}, "audio_dim is 0, expected at least 1"),
        ({"mapper_steps": 1000}, "mapper_steps is 1000 and mapper_timesteps 1000, expected"),
        ({"mapper_eta": 2.0}, "mapper_eta is 2.0 .* expected 0 to 1"),
        ({"mapper_guidance": -1.0}, "mapper_guidance -1.0, expected 0 to 1 and 0 to 100"),
        ({"timesteps": 1}, "timesteps is 1 and steps_offset 1, expected 2 to"),
        ({"steps_offset": 2}, "steps_offset 2, expected 2 to 100000 and 0 or 1"),
        ({"beta_start": 0.5}, "beta_start is 0.5 and beta_end 0.0195, expected"),
    ],
)
def test_configs_that_cannot_be_are_refused(changes, message):
    with pytest.raises(BundleError, match=message):
        tiny_v2a_config(**changes)


def test_the_paper_sizes_give_the_paper_lengths():
    c = V2AConfig(name="paper", image_encoder="ViT-B-32", image_size=224, visual_dim=512)
    assert (c.latent_shape, c.num_mel_frames, c.num_samples) == ((8, 250, 16), 1000, 160_000)
    assert (c.num_frames, c.num_overlap_hops, c.hop_rate_hz) == (10, 75, 25)


def edited(bundle, tmp_path, change):
    manifest = json.loads((bundle / "vab.json").read_text())
    change(manifest)
    copy = make_v2a_bundle(tmp_path / "edited")
    (copy / "vab.json").write_text(json.dumps(manifest))
    return copy


def widen(manifest):
    manifest["graphs"]["unet"]["contract"]["inputs"][2]["shape"][1] = 512


def without_null(manifest):
    del manifest["graphs"]["unet"]["contract"]["inputs"][3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (widen, r"contract of graph unet is .*'B', 512\).*expected .*embedding.*'B', 6\)"),
        (without_null, r"contract of graph unet is .*expected .*name='conditional'"),
        (lambda m: m["graphs"].pop("vocoder"), "no graph vocoder, expected .* unet, vae_decoder"),
        (lambda m: m["model"].pop("visual_dim"), "visual_dim.*expected the keys name, image_enc"),
        (lambda m: m["model"].update(codec="dac"), "unknown field `codec`.*latent_factor"),
        (lambda m: m["model"].update(mapper="mlp"), "'mlp'.*expected one of regression, prior"),
        (lambda m: m.update(options={"top_k": 3}), "top_k is 3, which tiny-v2a has no use for"),
    ],
)
def test_bundles_that_do_not_fit_are_refused(v2a_bundle, tmp_path, change, message):
    with pytest.raises((BundleError, OptionError), match=message):
        vab_rt.load(edited(v2a_bundle, tmp_path, change), threads=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_dim": 5, "visual_dim": 5}, r"unet .*embedding tensor\(float\) \[\?, 5\].*\?, 6\]"),
        ({"latent_channels": 2}, r"latent tensor\(float\) \[\?, 2, 50, 2\].*\[\?, 3, 50, 2\]"),
    ],
)
def test_a_graph_of_another_width_is_refused(tmp_path, changes, message):
    """The file holds another network than the manifest says."""
    ours = make_v2a_bundle(tmp_path / "ours")
    theirs = make_v2a_bundle(tmp_path / "theirs", tiny_v2a_config(**changes))
    (ours / "unet.onnx").write_bytes((theirs / "unet.onnx").read_bytes())
    manifest, other = (json.loads((f / "vab.json").read_text()) for f in (ours, theirs))
    manifest["files"]["unet.onnx"] = other["files"]["unet.onnx"]
    (ours / "vab.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        vab_rt.load(ours, threads=1)


def test_every_graph_becomes_an_engine(v2a_bundle, tmp_path):
    """TensorRT-RTX builds without a GPU."""
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    bundle = open_bundle(v2a_bundle)
    engines = dict(compile_bundle(bundle, tensorrt_rtx(), tmp_path / "cache"))
    assert list(engines) == ["visual_encoder", "mapper", "unet", "vae_decoder", "vocoder"]
    assert all(len(compiled.engine) > 1000 for compiled in engines.values())


def test_the_manifest_holds_the_config_in_full(v2a_bundle):
    manifest = json.loads((v2a_bundle / "vab.json").read_text())
    assert manifest["kind"] == "v2a-mapper"
    assert manifest["model"] == msgspec.to_builtins(tiny_v2a_config())
