"""The files of V2A-Mapper's recipes: what is read, and what is refused before any work."""

import tomllib

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("diffusers", reason="pip install diffusers")
pytest.importorskip("transformers", reason="pip install transformers")

from toml_files import toml_of

from recipes.train import main as recipe_command
from training.configs import CONFIGS
from training.v2a_mapper.config import is_v2a_recipe, read_v2a_recipe
from vab_rt.errors import OptionError


def test_a_recipe_is_of_a_mapper_by_what_it_holds(tmp_path):
    for name in ("v2a-mapper", "default"):
        (tmp_path / f"mine-{name[:2]}.toml").write_bytes((CONFIGS / f"{name}.toml").read_bytes())
    assert is_v2a_recipe(str(tmp_path / "mine-v2.toml"))
    assert not is_v2a_recipe(str(tmp_path / "mine-de.toml"))


def test_recipes_read_and_fit():
    names = [path.stem for path in CONFIGS.glob("v2a-mapper*.toml")]
    assert "v2a-mapper" in names and is_v2a_recipe("v2a-mapper")
    assert not is_v2a_recipe("default") and is_v2a_recipe("elsewhere/v2a-mapper-mine.toml")
    for name in names:
        read_v2a_recipe(name)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("clap_minutes", "clap_minuets", "clap_minuets"),
        ("in_channels = 16", "in_channels = 8", "unet in_channels is 8, expected 16"),
        ("audio_dim = 128", "audio_dim = 64", "visual_dim is 128 and audio_dim 64"),
        ("latent_factor = 8", "latent_factor = 4", "expected 4 for model|factor is 8"),
    ],
)
def test_recipes_that_do_not_fit_name_their_file(tmp_path, before, after, message):
    text = (CONFIGS / "v2a-mapper.toml").read_text()
    assert before in text
    path = tmp_path / "v2a-mapper-mine.toml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(OptionError, match=rf"v2a-mapper-mine\.toml: .*({message})"):
        read_v2a_recipe(str(path))
    with pytest.raises(OptionError, match="expected a .toml file or one of: v2a-mapper"):
        read_v2a_recipe("v2a-mapper-none")
    with pytest.raises(OptionError, match=r"default\.toml: it has no .networks., expected a rec"):
        read_v2a_recipe("default")


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("", "vocoder_minutes", 0.0, "vocoder_minutes is 0, expected more than 0"),
        ("", "clap_minutes", float("nan"), "clap_minutes is nan, expected more than 0"),
        ("", "vocoder_clips", 0, "vocoder_clips is 0, expected at least 1"),
        ("", "evaluated_clips", 1, "evaluated_clips is 1, expected at least 2"),
        ("clap", "batch", 0, "clap batch is 0, expected at least 1"),
        ("clap", "stripe", -1, "clap stripe is -1, expected 0 or more"),
        ("autoencoder", "kl", -0.1, "autoencoder kl is -0.1, expected 0 or more"),
        ("denoiser", "null_share", 1.5, "denoiser null_share is 1.5, expected 0 to 1"),
        ("vocoder", "sizes", [4], r"vocoder sizes are \(4,\), expected some, of at least 8"),
        ("prior", "drop", 2.0, "mapper drop is 2.0, expected 0 to 1"),
        ("prior", "max_norm", 0.0, "mapper max_norm is 0.0, expected more than 0"),
        ("regression", "peak_rate", 0.0, "mapper peak_rate is 0.0, expected more than 0"),
        ("regression", "seed", -1, "mapper seed is -1, expected 0 or more"),
    ],
)
def test_settings_that_cannot_be_name_their_file_and_key(tmp_path, table, key, value, message):
    facts = tomllib.loads((CONFIGS / "v2a-mapper.toml").read_text())
    (facts.setdefault(table, {}) if table else facts)[key] = value
    path = tmp_path / "mine.toml"
    path.write_text(toml_of(facts))
    with pytest.raises(OptionError, match=rf"mine\.toml: {message}"):
        read_v2a_recipe(str(path))


@pytest.mark.parametrize(
    ("stage", "key", "value", "message"),
    [
        ("clap", "stripe", 65, "clap stripe is 65, expected at most 64, for clips of 10 s"),
        ("autoencoder", "frames", 12, "frames is 12, expected a multiple .*latent_factor .8"),
        ("autoencoder", "frames", 1008, "autoencoder frames is 1008, expected at most 1000"),
        ("vocoder", "columns", 124, "vocoder columns is 124, expected at most 123"),
    ],
)
def test_parts_of_clips_longer_than_a_clip_are_refused(stage, key, value, message):
    recipe = read_v2a_recipe("v2a-mapper")
    recipe.check_crops()
    settings = msgspec.structs.replace(getattr(recipe, stage), **{key: value})
    with pytest.raises(OptionError, match=message):
        msgspec.structs.replace(recipe, **{stage: settings}).check_crops()


def test_minutes_of_the_command_are_checked_too(tmp_path, refused):
    said = refused(recipe_command, "v2a-mapper", "--out", tmp_path / "run", "--minutes", "0")
    assert "denoiser_minutes is 0, expected more than 0" in said
    assert not (tmp_path / "run").exists()


def test_encoders_of_others_are_not_trained_on_foleyworld(tmp_path, refused):
    error = refused(recipe_command, "v2a-mapper-audioldm", "--out", tmp_path / "run")
    assert "has the image encoder ViT-B-32-quickgelu, expected resnet-tiny-64" in error
    assert "python -m export.import_weights" in error
