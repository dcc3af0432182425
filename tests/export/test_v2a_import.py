"""A mapper out of others' files, and the command that makes a checkpoint of a V2A-Mapper."""

import re

import msgspec
import pytest
import torch
from toml_files import toml_of
from v2a_checkpoints import (
    MAPPER,
    UNET,
    VAE,
    VOCODER,
    tiny_parts,
    tiny_v2a_config,
    write_tiny_audioldm,
)

from export.import_weights import main
from export.v2a_mapper import start
from export.v2a_mapper.audioldm import LICENSE
from export.v2a_mapper.mapper import read_mapper
from export.weights.parts import Part
from training.configs import CONFIGS
from training.v2a_mapper.checkpoint import read_v2a_checkpoint
from training.v2a_mapper.config import read_v2a_recipe
from training.v2a_mapper.mapper import build_mapper
from vab_rt.errors import ExportError
from vab_rt.v2a_mapper.diffusion import cosine_alphas

pytest.importorskip("diffusers", reason="pip install diffusers")


FIXED = {"image_size": 224, "image_encoder": "ViT-B-32-quickgelu", "visual_dim": 512}


@pytest.fixture(scope="module")
def audioldm(tmp_path_factory):
    return write_tiny_audioldm(tmp_path_factory.mktemp("audioldm") / "tiny")


@pytest.fixture
def config(tmp_path):
    """A recipe that the folder belongs to."""
    return write_recipe(tmp_path, {})


def write_recipe(folder, changes):
    mapper = msgspec.to_builtins(MAPPER)
    networks = {"mapper": mapper, "unet": UNET, "vae": VAE, "vocoder": VOCODER}
    model = msgspec.to_builtins(tiny_v2a_config()) | changes
    path = folder / "v2a-mapper-test.toml"
    path.write_text(toml_of({"model": model, "networks": networks}))
    return path


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


def test_the_command_fills_a_checkpoint_part_by_part(
    audioldm, config, tmp_path, capsys, refused, monkeypatch
):
    recipe = read_v2a_recipe(str(config))
    encoder = tiny_parts(recipe.model, recipe.networks)["image_encoder"].state_dict()
    part = Part(name="image_encoder", weights=encoder, source="somewhere")
    monkeypatch.setattr(start, "read_clip", lambda source, config, offline: part)
    into = tmp_path / "v2a.pt"
    words = "--config", config, "--into", into
    out = run(capsys, "audioldm", audioldm, *words)
    assert f"license {LICENSE}: AudioLDM's weights are for non-commercial use alone" in out
    assert "lacks the mapper; next: python -m export.import_weights mapper" in out
    assert "has a part unet already" in refused(main, "audioldm", audioldm, *words)
    torch.save(prior_of(), tmp_path / "m.pt")
    out = run(capsys, "mapper", tmp_path / "m.pt", *words, "--license", "MIT")
    assert "lacks the image_encoder; next: python -m export.import_weights clip" in out
    out = run(capsys, "clip", "a-name", *words, "--license", "MIT")
    assert "whole; next: python -m export.build_engines" in out
    checkpoint = read_v2a_checkpoint(into)
    assert checkpoint.header.license == f"audioldm: {LICENSE}; mapper: MIT; clip: MIT"
    assert {*checkpoint.header.provenance} == {"audioldm", "mapper", "clip"}
    for load in (checkpoint.unet, checkpoint.vae, checkpoint.vocoder, checkpoint.mapper):
        assert load() is not None
    images = checkpoint.image_encoder().state_dict()
    assert all(torch.equal(images[name], weight) for name, weight in encoder.items())
    assert abs(checkpoint.null_embedding.norm() - 1) < 1e-5


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("encodec", None, "encodec is no part of the model .* expected audioldm, mapper, clip"),
        ("audioldm", "vab-encodec", "audioldm is no part of the model .* v2a-mapper-audioldm"),
    ],
)
def test_kinds_of_another_system_are_refused(
    audioldm, config, tmp_path, refused, kind, name, message
):
    words = kind, audioldm, "--config", name or config, "--into", tmp_path / "v2a.pt"
    assert re.search(message, refused(main, *words))


def test_a_checkpoint_of_another_model_is_refused(audioldm, config, tmp_path, capsys, refused):
    into = tmp_path / "v2a.pt"
    run(capsys, "audioldm", audioldm, "--config", config, "--into", into)
    torch.save(prior_of(), tmp_path / "m.pt")
    (tmp_path / "other").mkdir()
    other = write_recipe(tmp_path / "other", {"clip_s": 2.0})
    words = "mapper", tmp_path / "m.pt", "--config", other, "--into", into
    expected = "is of the model tiny-v2a, expected tiny-v2a with the same facts (clip_s is 1.0, "
    assert expected + "expected 2.0)" in refused(main, *words)
    torch.save({"vab": {}}, into)
    words = "mapper", tmp_path / "m.pt", "--config", config, "--into", into
    assert "holds 'vab', expected a checkpoint of a V2A-Mapper" in refused(main, *words)


def test_the_recipe_of_the_paper_is_there():
    recipe = read_v2a_recipe(str(CONFIGS / "v2a-mapper-audioldm.toml"))
    facts = msgspec.to_builtins(recipe.model)
    assert facts == facts | FIXED
    assert recipe.model.latent_shape == (8, 250, 16)
