"""Pairs of your own clips: frames by CLIP, sound by the CLAP of AudioLDM, to train a mapper."""

import json
import shutil

import msgspec
import numpy as np
import pytest
from media import make_video

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("diffusers", reason="pip install diffusers")
transformers = pytest.importorskip("transformers", reason="pip install transformers")

from torch.nn import functional as F
from v2a_checkpoints import MAPPER, TEXT, tiny_v2a_config

from training.datasets.media_sets import Segment, list_folder
from training.v2a_mapper import mapping
from training.v2a_mapper.extract import extract, main, open_encoders, spread_places
from training.v2a_mapper.mapping import read_matched, train_mapper
from training.v2a_mapper.parts import PictureEncoder
from training.v2a_mapper.real_clap import open_clap
from training.v2a_mapper.settings import MappingSettings
from vab_rt.audio import Audio
from vab_rt.errors import DataError, ExportError, MediaError

CONFIG = tiny_v2a_config()  # clips of 1 s, 2 pictures
AUDIO = {
    "patch_embeds_hidden_size": 8,
    "hidden_size": 16,
    "depths": [1, 1],
    "num_attention_heads": [1, 2],
}


@pytest.fixture(scope="module")
def clap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap") / "clap"
    torch.manual_seed(0)
    config = transformers.ClapConfig(text_config=TEXT, audio_config=AUDIO, projection_dim=24)
    transformers.ClapModel(config).save_pretrained(folder)
    extractor = transformers.ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50)
    extractor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(clap):
    return transformers.ClapModel.from_pretrained(clap).eval()


@pytest.fixture(scope="module")
def null(model):
    """As transformers itself makes it."""
    with torch.no_grad():
        found = model.get_text_features(torch.tensor([[0, 2]])).pooler_output
    return F.normalize(found, dim=-1)[0]


@pytest.fixture(scope="module")
def checkpoint(null, tmp_path_factory):
    """As an import of AudioLDM and CLIP leaves it, but for what is not read."""
    path = tmp_path_factory.mktemp("begun") / "v2a.pt"
    torch.manual_seed(1)
    weights = PictureEncoder(CONFIG).state_dict()
    content = {"kind": "v2a-mapper", "config": msgspec.to_builtins(CONFIG)}
    torch.save(content | {"image_encoder": weights, "null_embedding": {"text": null}}, path)
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Two and a half seconds of sounding video, and a file that is none."""
    folder = tmp_path_factory.mktemp("media")
    silent = make_video(folder / "silent.mp4", num_frames=65)
    noise = 0.1 * np.random.default_rng(0).standard_normal(int(2.6 * 16_000)).astype(np.float32)
    (folder / "in").mkdir()
    Audio(noise, 16_000).save(folder / "in" / "sound.mp4", video=silent)
    return folder / "in"


def test_vectors_are_those_of_transformers(clap, model, null):
    """A sound of 10 s at CLAP's own rate, where nothing is resampled or repeated."""
    found = open_clap(clap, CONFIG, null)
    audio = np.random.default_rng(1).standard_normal(480_000).astype(np.float32)
    extractor = transformers.ClapFeatureExtractor.from_pretrained(clap)
    inputs = extractor(audio, sampling_rate=48_000, return_tensors="pt")
    with torch.no_grad():
        expected = model.get_audio_features(**inputs).pooler_output[0]
    vector = found.vector(audio, 48_000)
    assert inputs["input_features"].shape == (1, 1, 1001, 64)
    assert np.abs(vector - F.normalize(expected, dim=-1).numpy()).max() < 1e-6
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) and vector.std() > 0.05
    longer = np.concatenate([audio, np.zeros(48_000, np.float32)])
    np.testing.assert_array_equal(found.vector(longer, 48_000), vector)
    assert np.abs(found.vector(0.5 * audio[:240_000], 48_000) - vector).max() > 1e-4


def test_a_folder_becomes_pairs_that_a_mapper_learns_from(clap, checkpoint, media, tmp_path):
    folder, out = shutil.copytree(media, tmp_path / "media"), tmp_path / "out"
    segments = list_folder(folder, CONFIG.clip_s).segments
    damaged = [*segments, msgspec.structs.replace(segments[0], path="bad.mp4")]
    (folder / "bad.mp4").write_bytes(b"no video")
    assert extract(out, folder, damaged, checkpoint, clap) == len(segments) >= 2
    matched = read_matched(out, CONFIG)
    assert matched.features.shape == (len(segments), CONFIG.num_frames, CONFIG.visual_dim)
    assert matched.vectors.shape == (len(segments), CONFIG.audio_dim)
    assert torch.allclose(matched.vectors.norm(dim=1), torch.ones(len(segments)), atol=1e-5)
    assert matched.features.std(0).mean() > 0  # pictures differ
    notes = [json.loads(line) for line in (out / "notes.jsonl").read_text().splitlines()]
    assert ["skipped" in note for note in notes] == [False] * len(segments) + [True]
    settings = MappingSettings(steps=2, batch=4)
    list(train_mapper(tmp_path / "run", matched, MAPPER, settings))
    assert (tmp_path / "run" / "prior.pt").exists()


def test_it_goes_on_with_the_same_clips_and_weights_alone(clap, checkpoint, media, tmp_path):
    out, segments = tmp_path / "out", list_folder(media, CONFIG.clip_s).segments
    extract(out, media, segments, checkpoint, clap)
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    partial = out.rename(tmp_path / "out.partial")
    lines = (partial / "notes.jsonl").read_text().splitlines(keepends=True)
    (partial / "notes.jsonl").write_text("".join(lines[:1]))
    extract(out, media, segments, checkpoint, clap)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == made
    other = [msgspec.structs.replace(segments[0], start_s=0.5), *segments[1:]]
    with pytest.raises(DataError, match="was begun with .* choose another --out"):
        extract(out, media, other, checkpoint, clap)
    with pytest.raises(DataError, match="holds something else, expected 1 clips or none"):
        extract(out, media, segments[:1], checkpoint, clap)


def test_places_are_spread_over_what_was_seen():
    assert spread_places(10, 10).tolist() == list(range(10))
    assert spread_places(3, 10).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert spread_places(1, 2).tolist() == [0, 0]


def test_media_that_is_gone_or_cannot_be_read_is_told(clap, checkpoint, media, tmp_path):
    gone = [Segment("gone.mp4", 0.0, 1.0)]
    with pytest.raises(MediaError, match=r"has lost gone\.mp4 since it was listed"):
        extract(tmp_path / "a", media, gone, checkpoint, clap)
    folder = shutil.copytree(media, tmp_path / "media")
    (folder / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match="none of the 1 clips could be read, for instance: "):
        extract(tmp_path / "b", folder, [Segment("bad.mp4", 0.0, 1.0)], checkpoint, clap)
    with pytest.raises(DataError, match="could not|cannot be read .*folder of an extraction"):
        read_matched(tmp_path, CONFIG)


def edited(folder, tmp_path, file, **changes):
    copy = shutil.copytree(folder, tmp_path / "edited")
    content = json.loads((copy / file).read_text())
    for key, value in changes.items():
        table, _, name = key.rpartition("__")
        (content[table] if table else content)[name] = value
    (copy / file).write_text(json.dumps(content))
    return copy


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("preprocessor_config.json", {"truncation": "fusion"}, "truncation 'fusion', expected 'r"),
        (
            "config.json",
            {"projection_dim": 32},
            "cannot be read as CLAP|projection_dim 32",
        ),
        ("config.json", {"audio_config__enable_fusion": True}, "enable_fusion True, expected Fal"),
        (
            "config.json",
            {"text_config__num_hidden_layers": 2},
            r"lacks text_model\.encoder.*all of",
        ),
    ],
)
def test_a_clap_that_does_not_fit_is_refused(clap, null, tmp_path, file, changes, message):
    with pytest.raises(DataError, match=message):
        open_clap(edited(clap, tmp_path, file, **changes), CONFIG, null)


def test_a_clap_of_another_width_or_training_is_refused(clap, null, tmp_path):
    with pytest.raises(DataError, match="projection_dim 24, expected 32, as the CLAP of AudioLDM"):
        open_clap(
            clap, tiny_v2a_config(audio_dim=32, visual_dim=32), F.normalize(torch.ones(32), dim=0)
        )
    with pytest.raises(DataError, match=r"of another CLAP than AudioLDM's: .* cosine -?0\.\d+"):
        open_clap(clap, CONFIG, null.flip(0))
    with pytest.raises(DataError, match="is not a folder, expected CLAP"):
        open_clap(tmp_path / "missing", CONFIG, null)
    with pytest.raises(DataError, match="cannot be read as CLAP .* preprocessor_config.json"):
        open_clap(tmp_path, CONFIG, null)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("null_embedding"), "no null_embedding.*import_weights audioldm"),
        (lambda c: c.pop("image_encoder"), "has no image_encoder.*import_weights clip"),
        (lambda c: c.update(kind="vab"), "has the kind 'vab', expected 'v2a-mapper'"),
        (lambda c: c["config"].update(image_size=64), "positional_embedding is"),
        (lambda c: c["config"].pop("name"), "missing required field `name`"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_refused(checkpoint, clap, tmp_path, change, message):
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "v2a.pt")
    with pytest.raises(ExportError, match=message):
        open_encoders(tmp_path / "v2a.pt", clap)


def test_the_command_says_what_is_next(clap, checkpoint, media, tmp_path, capsys, refused):
    words = ["--ckpt", checkpoint, "--clap", clap, "--media", media, "--workers", "1"]
    main([*map(str, [*words, "--out", tmp_path / "pairs"])])
    out = capsys.readouterr().out
    assert f"next: python -m training.v2a_mapper.mapping --pairs {tmp_path / 'pairs'}" in out
    said = refused(mapping.main, "--pairs", tmp_path / "pairs", "--out", tmp_path / "run")
    assert "expected [N, F, 512]" in said  # of another --config
    said = refused(main, *words[:-1], "0", "--out", tmp_path / "other")
    assert "workers is 0, expected at least 1" in said
