"""AudioLDM and a mapper out of others' files, into a checkpoint that exports."""

import json
import re
import shutil
import sys

import msgspec
import pytest
import torch
from torch.nn import functional as F
from v2a_checkpoints import MAPPER, UNET, VAE, VOCODER, tiny_parts, tiny_v2a_config

from export.import_weights import main
from export.weights import v2a_start
from export.weights.audioldm import LICENCE, null_embedding, read_audioldm
from export.weights.mapper import read_mapper
from export.weights.parts import Part
from training.recipes import CONFIGS
from training.v2a_mapper.checkpoint import read_v2a_checkpoint
from training.v2a_mapper.mapper import build_mapper
from training.v2a_mapper.parts import build_unet, build_vae, build_vocoder
from training.v2a_mapper.recipes import read_v2a_recipe
from training.v2a_mapper.settings import MapperSettings
from vab_rt.diffusion import cosine_alphas
from vab_rt.errors import BackendError, ExportError

diffusers = pytest.importorskip("diffusers", reason="pip install diffusers")
transformers = pytest.importorskip("transformers", reason="pip install transformers")

FIXED = {"image_size": 224, "image_encoder": "ViT-B-32-quickgelu", "visual_dim": 512}
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}
TEXT = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 40,
    "projection_dim": 24,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tiny AudioLDM as AudioLDMPipeline.save_pretrained lays it out, without a tokenizer."""
    folder = tmp_path_factory.mktemp("audioldm") / "tiny"
    torch.manual_seed(0)
    parts = {
        "unet": build_unet(UNET),
        "vae": build_vae(VAE),
        "vocoder": build_vocoder(VOCODER),
        "text_encoder": transformers.ClapTextModelWithProjection(
            transformers.ClapTextConfig(**TEXT)
        ),
        "scheduler": diffusers.DDIMScheduler(**SCHEDULER),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {"_class_name": "AudioLDMPipeline", "_diffusers_version": "0.15.0"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "audioldm")


@pytest.fixture
def config(tmp_path):
    """A recipe that the folder belongs to."""
    return write_recipe(tmp_path, {})


def write_recipe(folder, changes):
    """What is written in JSON here, TOML reads too."""
    mapper = msgspec.to_builtins(MAPPER)
    networks = {"mapper": mapper, "unet": UNET, "vae": VAE, "vocoder": VOCODER}
    tables = {"model": msgspec.to_builtins(tiny_v2a_config()) | changes}
    tables |= {f"networks.{name}": content for name, content in networks.items()}
    lines = []
    for table, content in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(x)}" for key, x in content.items())]
    path = folder / "v2a-mapper-test.toml"
    path.write_text("\n".join(lines))
    return path


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


def second(folder):
    edit(folder / "model_index.json", _class_name="AudioLDM2Pipeline")


def second_without_an_index(folder):
    (folder / "model_index.json").unlink()
    (folder / "language_model").mkdir()


def no_text_encoder(folder):
    shutil.rmtree(folder / "text_encoder")


def other_noise(folder):
    edit(folder / "scheduler/scheduler_config.json", beta_end=0.02, prediction_type="v_prediction")


def wide_clap(folder):
    edit(folder / "text_encoder/config.json", projection_dim=32)


def wide_unet(folder):
    edit(folder / "unet/config.json", projection_class_embeddings_input_dim=32)


def unet_of_text(folder):
    edit(folder / "unet/config.json", class_embed_type="timestep")


def narrow_weights(folder):
    edit(folder / "unet/config.json", block_out_channels=[8, 24], cross_attention_dim=[8, 24])


def no_scale(folder):
    edit(folder / "vae/config.json", scaling_factor=None)


def strange(folder):
    edit(folder / "unet/config.json", num_class_tokens=3)


def other_rate(folder):
    edit(folder / "vocoder/config.json", sampling_rate=48_000)


def slow_vocoder(folder):
    edit(folder / "vocoder/config.json", upsample_rates=[5, 4, 4, 2, 2])


def no_weights(folder):
    (folder / "vocoder/model.safetensors").unlink()


def no_levels(folder):
    shutil.rmtree(folder / "scheduler")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (second, "is of AudioLDM2Pipeline, expected AudioLDMPipeline: .* not on one CLAP"),
        (second_without_an_index, "is of AudioLDM2Pipeline, expected AudioLDMPipeline"),
        (no_text_encoder, "no text_encoder/config.json, expected one, for the null embedding"),
        (other_noise, "beta_end is 0.02, expected 0.0195, prediction_type is 'v_prediction', exp"),
        (wide_clap, "text_encoder/config.json .* projection_dim is 32, expected 24"),
        (wide_unet, "projection_class_embeddings_input_dim is 32, expected 24 for model tiny-v2a"),
        (unet_of_text, "class_embed_type is 'timestep', expected 'simple_projection'"),
        (narrow_weights, r"of another shape: down_blocks.1.* \[16\] instead of \[24\]"),
        (no_scale, "vae/config.json has no scaling_factor, expected it as in AudioLDM's"),
        (strange, "has num_class_tokens = 3, expected only what this diffusers knows"),
        (other_rate, "sampling_rate is 48000, expected 16000"),
        (slow_vocoder, "vocoder upsampling is 320, expected 160"),
        (no_weights, "holds none of .*model.safetensors, .* expected one of them"),
        (no_levels, "no scheduler/scheduler_config.json, expected the noise levels"),
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


def prior_of(settings=MAPPER):
    torch.manual_seed(1)
    return build_mapper(tiny_v2a_config(), settings).state_dict()


def test_mappers_are_read_under_our_names_and_those_of_dalle2(tmp_path):
    weights = prior_of()
    theirs = {f"net.{name}": x for name, x in weights.items()}
    theirs |= {
        "net.causal_transformer.layers.0.0.rotary_emb.freqs": torch.zeros(16),
        "noise_scheduler.alphas_cumprod": torch.from_numpy(cosine_alphas(1000)).float(),
        "noise_scheduler.betas": torch.zeros(1000),
    }
    for name, content in (("a.pt", weights), ("b.pt", theirs), ("c.pt", {"state_dict": theirs})):
        torch.save(content, tmp_path / name)
        found, source = read_mapper(tmp_path / name, tiny_v2a_config(), MAPPER)
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], x) for key, x in weights.items())
        assert source.startswith(f"prior, imported from {name}, sha256 ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("learned_query"), "missing: learned_query"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected: extra"),
        (lambda w: w.update(learned_query=torch.zeros(32)), r"learned_query \[32\] instead of \[2"),
        (
            lambda w: w.update({"noise_scheduler.alphas_cumprod": torch.linspace(1, 0, 1000)}),
            "trained with 1000 noise levels from 1 to 0, expected the 1000 of the cosine schedule",
        ),
    ],
)
def test_mappers_that_do_not_fit_are_refused(tmp_path, change, message):
    weights = prior_of()
    change(weights)
    torch.save(weights, tmp_path / "m.pt")
    with pytest.raises(ExportError, match=message):
        read_mapper(tmp_path / "m.pt", tiny_v2a_config(), MAPPER)


def test_a_model_without_a_mapper_takes_none(tmp_path):
    torch.save(prior_of(), tmp_path / "m.pt")
    with pytest.raises(ExportError, match="takes no mapper, expected regression or prior"):
        read_mapper(tmp_path / "m.pt", tiny_v2a_config(mapper="none"), MAPPER)
    with pytest.raises(ExportError, match="is not a file, expected a mapper"):
        read_mapper(tmp_path / "other.pt", tiny_v2a_config(), MAPPER)


def run(capsys, *words):
    main([*map(str, words)])
    return capsys.readouterr().out


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([*map(str, words)])
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_the_command_fills_a_checkpoint_part_by_part(folder, config, tmp_path, capsys, monkeypatch):
    recipe = read_v2a_recipe(str(config))
    encoder = tiny_parts(recipe.model, recipe.networks)["image_encoder"].state_dict()
    part = Part(name="image_encoder", weights=encoder, source="somewhere")
    monkeypatch.setattr(v2a_start, "read_clip", lambda source, config, offline: part)
    into = tmp_path / "v2a.pt"
    words = "--config", config, "--into", into
    out = run(capsys, "audioldm", folder, *words)
    assert f"licence {LICENCE}: AudioLDM's weights are for non-commercial use alone" in out
    assert "lacks the mapper; next: python -m export.import_weights mapper" in out
    assert "has a part unet already" in refusal(capsys, "audioldm", folder, *words)
    torch.save(prior_of(), tmp_path / "m.pt")
    out = run(capsys, "mapper", tmp_path / "m.pt", *words, "--licence", "MIT")
    assert "lacks the image_encoder; next: python -m export.import_weights clip" in out
    out = run(capsys, "clip", "a-name", *words, "--licence", "MIT")
    assert "whole; next: python -m export.build_engines" in out
    checkpoint = read_v2a_checkpoint(into)
    assert checkpoint.header.licence == f"audioldm: {LICENCE}; mapper: MIT; clip: MIT"
    assert {*checkpoint.header.provenance} == {"audioldm", "mapper", "clip"}
    for load in (checkpoint.unet, checkpoint.vae, checkpoint.vocoder, checkpoint.mapper):
        assert load() is not None
    assert torch.equal(checkpoint.image_encoder().visual.proj, encoder["visual.proj"])
    assert abs(checkpoint.null_embedding.norm() - 1) < 1e-5


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("encodec", None, "encodec is no part of the model .* expected audioldm, mapper, clip"),
        ("audioldm", "vab-encodec", "audioldm is no part of the model .* v2a-mapper-audioldm"),
    ],
)
def test_kinds_of_another_system_are_refused(folder, config, tmp_path, capsys, kind, name, message):
    words = kind, folder, "--config", name or config, "--into", tmp_path / "v2a.pt"
    assert re.search(message, refusal(capsys, *words))


def test_a_checkpoint_of_another_model_is_refused(folder, config, tmp_path, capsys):
    into = tmp_path / "v2a.pt"
    run(capsys, "audioldm", folder, "--config", config, "--into", into)
    torch.save(prior_of(), tmp_path / "m.pt")
    (tmp_path / "other").mkdir()
    other = write_recipe(tmp_path / "other", {"clip_s": 2.0})
    words = "mapper", tmp_path / "m.pt", "--config", other, "--into", into
    assert "is of the model tiny-v2a, expected tiny-v2a with the same facts" in refusal(
        capsys, *words
    )
    torch.save({"vab": {}}, into)
    words = "mapper", tmp_path / "m.pt", "--config", config, "--into", into
    assert "holds 'vab', expected a checkpoint of a V2A-Mapper" in refusal(capsys, *words)


def test_the_recipe_of_the_paper_is_there():
    recipe = read_v2a_recipe(str(CONFIGS / "v2a-mapper-audioldm.toml"))
    facts = msgspec.to_builtins(recipe.model)
    assert facts == facts | FIXED
    assert recipe.model.latent_shape == (8, 250, 16)
