"""From weights of others to a checkpoint that extraction, training and export begin with."""

import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the extra `export`")
open_clip = pytest.importorskip("open_clip", reason="the owner of one of the layouts")
pytest.importorskip("transformers", reason="the owner of one of the layouts")

import msgspec
import numpy as np
from checkpoints import tiny_config
from media import make_video
from weight_files import (
    CLIP_NAME,
    Payload,
    known_to_open_clip,
    owned_encodec,
    recipe_file,
    write_audiocraft,
    write_clip,
)

from export.import_weights import main
from export.weights.parts import Part
from export.weights.start import add_part
from training import extract
from training.checkpoint import read_checkpoint
from training.configs import Recipe, read_recipe
from training.datasets.shards import ShardedClips
from vab_rt.errors import ExportError, OutputError
from vab_rt.options import Tuning

CONFIG = tiny_config(
    codec="encodec",
    num_codebooks=3,
    codebook_size=32,
    code_dim=16,
    image_encoder=CLIP_NAME,
    image_size=224,
    visual_dim=24,
    visual_rate_hz=1.0,
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A recipe's file, audiocraft's file of its codec, open_clip's folder of its image encoder."""
    folder = tmp_path_factory.mktemp("sources")
    with known_to_open_clip(folder):
        weights = owned_encodec().state_dict()
        for name in weights:
            if name.endswith("embed"):
                weights[name] = 0.1 * torch.randn_like(weights[name])
        codec = write_audiocraft(folder / "compression_state_dict.bin", weights)
        (folder / "clip").mkdir()
        clip = write_clip(folder / "clip", open_clip.create_model(CLIP_NAME).state_dict())
        recipe = recipe_file(folder / "small.toml", CONFIG)
        with recipe.open("a") as file:
            file.write("[options]\nguidance = 5\n")
        yield recipe, codec, clip


@pytest.fixture(scope="module")
def start(sources, tmp_path_factory):
    recipe, codec, clip = sources
    path = tmp_path_factory.mktemp("start") / "start.pt"
    into = ["--config", str(recipe), "--into", str(path)]
    main(["encodec", str(codec), *into, "--license", "CC-BY-NC-4.0"])
    main(["clip", str(clip), *into, "--licence", "MIT"])
    return path


def test_two_commands_make_a_checkpoint(start, sources):
    checkpoint = read_checkpoint(start)
    assert checkpoint.config == CONFIG
    assert checkpoint.header.options == Tuning(guidance=5)
    expected = "codec: CC-BY-NC-4.0; image_encoder: MIT; transformer: Apache-2.0"
    assert checkpoint.header.license == expected
    assert checkpoint.header.provenance["codec"].startswith("encodec, imported from compression_s")
    assert "clip/open_clip_model.safetensors" in checkpoint.header.provenance["image_encoder"]
    vab = checkpoint.vab()
    assert torch.equal(vab.codebooks, checkpoint.codec().codebooks)
    logits = vab(
        torch.full((1, 3, 100), CONFIG.mask_id), torch.zeros(1, 2, 24), torch.ones(1)
    )  # [B, K, T, V]
    assert torch.isfinite(logits).all()


@torch.no_grad()
def test_extraction_begins_with_it(start, sources, tmp_path, capsys):
    media = tmp_path / "media"
    media.mkdir()
    make_video(media / "a.mp4", num_frames=50, size=(96, 64), with_sound=True)
    words = ["--media", media, "--config", sources[0], "--ckpt", start, "--out", tmp_path / "out"]
    extract.main([*map(str, words), "--workers", "1"])
    assert "1 clips, 0 skipped" in capsys.readouterr().out
    clips = ShardedClips(str(tmp_path / "out"), CONFIG).in_memory()
    assert clips.tokens.shape == (1, 3, 100) and clips.features.shape == (1, 2, 24)
    silence = torch.zeros(1, CONFIG.num_samples)
    expected = read_checkpoint(start).codec().encode(silence)[0].numpy()
    assert (np.asarray(clips.tokens[0]) == expected).mean() > 0.9  # AAC's silence is nearly that


def test_what_is_missing_is_told(sources, tmp_path, capsys):
    recipe, codec, clip = sources
    path = tmp_path / "start.pt"
    main(["clip", str(clip), "--config", str(recipe), "--into", str(path)])
    out = capsys.readouterr().out
    assert out.startswith("image_encoder: ") and f"tensors of {CLIP_NAME}, imported from" in out
    assert "lacks the codec; next: python -m export.import_weights encodec" in out
    with pytest.raises(ExportError, match="vab, codec are missing, expected"):
        read_checkpoint(path)
    main(["encodec", str(codec), "--config", str(recipe), "--into", str(path)])
    assert "a checkpoint to start from" in capsys.readouterr().out
    header = read_checkpoint(path).header
    assert header.license.startswith("image_encoder: not stated; codec: not stated; transformer: ")


def part(**changes):
    return Part(**{"name": "codec", "weights": {"x": torch.zeros(1)}, "source": "x"} | changes)


def test_a_part_that_is_there_stays(start, sources):
    before = start.read_bytes()
    with pytest.raises(ExportError, match="has a part codec already, expected one without"):
        add_part(start, read_recipe(str(sources[0])), part(), "MIT")
    assert start.read_bytes() == before


def test_a_model_with_a_motion_encoder_is_refused(tmp_path):
    model = msgspec.structs.replace(CONFIG, visual_rate_hz=25.0, motion_dim=8, motion_reach=3)
    with pytest.raises(ExportError, match="has motion_dim 8, expected 0: a motion encoder is not"):
        add_part(tmp_path / "start.pt", Recipe(model=model), part(), "MIT")
    assert not (tmp_path / "start.pt").exists()


def test_a_file_begun_for_another_model(start, sources, tmp_path):
    other = msgspec.structs.replace(CONFIG, name="other", layers=2)
    recipe = read_recipe(str(recipe_file(tmp_path / "other.toml", other)))
    with pytest.raises(
        ExportError, match="is of the model tiny-test, expected other with the same"
    ):
        add_part(start, recipe, part(name="image_encoder"), "MIT")


ODD = {"config": [], "licence": 1, "provenance": "", "codec_settings": {}}


@pytest.mark.parametrize("content", [{"x": 1}, {"config": {}, "weights": {}}, [1], ODD])
def test_a_file_of_something_else(sources, tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(
        ExportError, match="expected (a checkpoint that an import|names and values)"
    ):
        add_part(tmp_path / "x.pt", read_recipe(str(sources[0])), part(), "MIT")


def test_a_folder_that_is_not_there(sources, tmp_path):
    with pytest.raises(OutputError, match="expected"):
        add_part(tmp_path / "no" / "x.pt", read_recipe(str(sources[0])), part(), "MIT")


def test_the_place_is_looked_at_first(sources, start, tmp_path, refused):
    """Before a gigabyte is fetched and read for nothing."""
    config = ["--config", sources[0]]
    said = refused(main, "encodec", "none.bin", *config, "--into", tmp_path / "start.ckpt")
    assert "start.ckpt ends in '.ckpt', expected .pt; choose another file for --into" in said
    said = refused(main, "encodec", "none.bin", *config, "--into", tmp_path / "no" / "start.pt")
    assert "does not exist" in said
    said = refused(main, "clip", "none", *config, "--into", start)
    assert "has a part image_encoder already" in said


@pytest.mark.parametrize(
    ("kind", "source", "said"),
    [
        ("encodec", "clip/open_clip_model.safetensors", "open_clip_model.safetensors "),
        ("encodec", "clip", "holds none of config.json, expected one of them"),
        ("encodec", "small.toml", "cannot be read as torch ("),
        ("clip", "compression_state_dict.bin", "holds a dict under 'best_state', expected tensors"),
        ("clip", ".", "holds none of open_clip_config.json, expected one of them"),
        ("clip", "clip/open_clip_config.json", "cannot be read as torch ("),
        ("clip", "empty.bin", "cannot be read as torch ("),
        ("clip", "empty.safetensors", "cannot be read as safetensors ("),
        ("dac", "compression_state_dict.bin", "has the codec encodec, expected dac; choose"),
        ("audioldm", ".", "audioldm is no part of the model of --config"),
    ],
)
def test_things_mixed_up(sources, tmp_path, refused, kind, source, said):
    folder = sources[0].parent
    for name in ("empty.bin", "empty.safetensors"):
        (folder / name).write_bytes(b"")
    into = tmp_path / "start.pt"
    assert said in refused(main, kind, folder / source, "--config", sources[0], "--into", into)
    assert not into.exists()


def test_a_pickle_with_code_is_not_run_and_nothing_is_written(sources, tmp_path, refused):
    torch.save({"best_state": Payload(tmp_path / "ran"), "xp.cfg": ""}, tmp_path / "x.bin")
    into = ["--config", sources[0], "--into", tmp_path / "start.pt"]
    assert "nothing was run" in refused(main, "encodec", tmp_path / "x.bin", *into)
    assert not (tmp_path / "ran").exists() and not (tmp_path / "start.pt").exists()
