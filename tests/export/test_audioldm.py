"""AudioLDM and a mapper out of others' files, into a checkpoint that exports."""

import json
import shutil
import sys

import pytest
import torch
from torch.nn import functional as F
from v2a_checkpoints import VAE, VOCODER, tiny_v2a_config, write_tiny_audioldm

from export.v2a_mapper.audioldm import null_embedding, read_audioldm
from training.v2a_mapper.config import read_v2a_recipe
from training.v2a_mapper.parts import build_unet, build_vae, build_vocoder
from training.v2a_mapper.settings import MapperSettings
from vab_rt.errors import BackendError, ExportError

diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
transformers = pytest.importorskip("transformers", reason="pip install transformers")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_tiny_audioldm(tmp_path_factory.mktemp("audioldm") / "tiny")


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "audioldm")


def edit(path, **changes):
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            content.pop(key, None)
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def test_every_tensor_comes_through(folder):
    found = read_audioldm(folder, tiny_v2a_config())
    expected = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()
    assert found.weights["unet"].keys() == expected.keys()
    assert all(torch.equal(found.weights["unet"][name], x) for name, x in expected.items())
    assert found.settings["vae"]["scaling_factor"] == VAE["scaling_factor"]  # learnt
    assert found.settings["vocoder"] == found.settings["vocoder"] | VOCODER
    assert {*found.weights} == {"unet", "vae", "vocoder"}


def test_the_null_embedding_is_that_of_the_padded_tokens_of_no_text(folder):
    found = null_embedding(folder, json.loads((folder / "text_encoder/config.json").read_text()))
    encoder = transformers.ClapTextModelWithProjection.from_pretrained(folder / "text_encoder")
    tokens = torch.tensor([[0, 2, *[1] * 20]])  # as RoBERTa's tokenizer pads ""
    with torch.no_grad():
        padded = encoder(tokens, attention_mask=(tokens != 1).long()).text_embeds
    assert torch.allclose(found, F.normalize(padded, dim=-1)[0], atol=1e-6)
    assert found.shape == (24,) and abs(found.norm() - 1) < 1e-6


def test_names_of_old_files_are_read_too(folder):
    """Autoencoders from before diffusers 0.16 call the parts of attention otherwise."""
    vae = diffusers.AutoencoderKL.from_pretrained(folder / "vae").state_dict()
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(name):
        for ours, theirs in new.items():
            name = name.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        return name

    for path in (folder / "vae").glob("*.safetensors"):
        path.unlink()
    torch.save(
        {old(name): x for name, x in vae.items()}, folder / "vae/diffusion_pytorch_model.bin"
    )
    found = read_audioldm(folder, tiny_v2a_config()).weights["vae"]
    assert all(torch.equal(found[name], x) for name, x in vae.items())


def other(path, **changes):
    return lambda folder: edit(folder / path, **changes)


def second_without_an_index(folder):
    (folder / "model_index.json").unlink()
    (folder / "language_model").mkdir()


def without(part):
    return lambda folder: shutil.rmtree(folder / part)


NOISE = other("scheduler/scheduler_config.json", beta_end=0.02, prediction_type="v_prediction")
NARROW = other("unet/config.json", block_out_channels=[8, 24], cross_attention_dim=[8, 24])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            other("model_index.json", _class_name="AudioLDM2Pipeline"),
            "is of AudioLDM2Pipeline, expected AudioLDMPipeline: .* not on one CLAP",
        ),
        (second_without_an_index, "is of AudioLDM2Pipeline, expected AudioLDMPipeline"),
        (
            without("text_encoder"),
            "no text_encoder/config.json, expected one, for the null embedding",
        ),
        (NOISE, "beta_end is 0.02, expected 0.0195, prediction_type is 'v_prediction', exp"),
        (
            other("text_encoder/config.json", projection_dim=32),
            "text_encoder/config.json .* projection_dim is 32, expected 24",
        ),
        (
            other("unet/config.json", projection_class_embeddings_input_dim=32),
            "projection_class_embeddings_input_dim is 32, expected 24 for model tiny-v2a",
        ),
        (
            other("unet/config.json", class_embed_type="timestep"),
            "class_embed_type is 'timestep', expected 'simple_projection'",
        ),
        (NARROW, r"of another shape: down_blocks.1.* \[16\] instead of \[24\]"),
        (
            other("vae/config.json", scaling_factor=None),
            "vae/config.json has no scaling_factor, expected it as in AudioLDM's",
        ),
        (
            other("unet/config.json", num_class_tokens=3),
            "has num_class_tokens = 3, expected only what this diffusers knows",
        ),
        (
            other("vocoder/config.json", sampling_rate=48_000),
            "sampling_rate is 48000, expected 16000",
        ),
        (
            other("vocoder/config.json", upsample_rates=[5, 4, 4, 2, 2]),
            "vocoder upsampling is 320, expected 160",
        ),
        (
            lambda folder: (folder / "vocoder/model.safetensors").unlink(),
            "holds none of .*model.safetensors, .* expected one of them",
        ),
        (without("scheduler"), "no scheduler/scheduler_config.json, expected the noise levels"),
    ],
)
def test_folders_that_do_not_fit_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ExportError, match=message):
        read_audioldm(folder, tiny_v2a_config())


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(ExportError, match="not a folder, expected one of AudioLDMPipeline"):
        read_audioldm(tmp_path / "missing", tiny_v2a_config())


@pytest.mark.parametrize("name", ["diffusers", "transformers"])
def test_a_missing_library_is_one_line_with_what_installs_it(folder, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendError, match=rf"needs {name}, .* install it with: pip install"):
        read_audioldm(folder, tiny_v2a_config())


def test_the_networks_of_s_full_have_the_sizes_of_its_card():
    """UNet 185.04M, VAE 55.38M, vocoder 55.26M; on the meta device, where they take no memory."""
    networks = read_v2a_recipe("v2a-mapper-audioldm").networks
    with torch.device("meta"):
        parts = (
            build_unet(networks.unet),
            build_vae(networks.vae),
            build_vocoder(networks.vocoder),
        )
    counts = [sum(x.numel() for x in part.parameters()) for part in parts]
    assert counts == [185_036_552, 55_376_873, 55_264_897]
    assert networks.mapper == MapperSettings()
