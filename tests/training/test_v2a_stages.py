"""The stages of V2A-Mapper's training, on a few clips: each learns, goes on, and refuses."""

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("diffusers", reason="pip install diffusers")
pytest.importorskip("transformers", reason="pip install transformers")

from torch.nn import functional as F
from v2a_checkpoints import MAPPER, UNET, VAE, VOCODER, tiny_v2a_config

from training import foleyworld
from training.fitting import averaged_weights, fit
from training.v2a_mapper import autoencoder, clap, denoiser, mapping, vocoder
from training.v2a_mapper.autoencoder import (
    AutoencoderSettings,
    load_autoencoder,
    scaling_factor,
    train_autoencoder,
    write_latents,
)
from training.v2a_mapper.clap import (
    ClapSettings,
    TextTable,
    TinyClap,
    load_clap,
    sound_vectors,
    striped,
    text_vectors,
    train_clap,
)
from training.v2a_mapper.config import read_v2a_recipe
from training.v2a_mapper.denoiser import (
    DenoiserSettings,
    Sounds,
    random_sounds,
    spread_times,
    train_denoiser,
)
from training.v2a_mapper.mapper import build_mapper
from training.v2a_mapper.mapping import Matched, load_mapper, train_mapper
from training.v2a_mapper.mel import FLOOR, LogMel
from training.v2a_mapper.pairs import Pairs
from training.v2a_mapper.settings import MappingSettings
from training.v2a_mapper.texts import class_text, sound_text, tokenise, vocabulary
from training.v2a_mapper.vocoder import Recorded, VocoderSettings, train_vocoder
from vab_rt.errors import DataError, ExportError

CONFIG = tiny_v2a_config()
FRAMES, CLIPS = 96, 16
DIM = 24


@pytest.fixture(scope="module")
def pairs():
    """Parts of the true sounds of clips, and features that know their class."""
    seeds = foleyworld.clip_seeds("validation", 0, CLIPS)
    scenes = [foleyworld.make_scene(seed) for seed in seeds]
    audio = torch.from_numpy(np.stack([s.audio()[: FRAMES * 160] for s in scenes]))
    random = np.random.default_rng(0)
    of_class = random.standard_normal((len(foleyworld.CLASSES), DIM))
    kinds = [foleyworld.CLASSES.index(scene.classes[0]) for scene in scenes]
    features = of_class[kinds][:, None] + 0.1 * random.standard_normal((CLIPS, 3, DIM))
    mels = LogMel(CONFIG)(audio).half().numpy()
    return Pairs(mels=mels, features=features.astype(np.float16), seeds=seeds)


@pytest.fixture
def steps(monkeypatch):
    """Have stages that count in minutes count in steps."""

    def count(module, number):
        def counted(path, parts, step, minutes, steps=None):
            return fit(path, parts, step, None, number)

        monkeypatch.setattr(module, "fit", counted)

    return count


def losses(stage, name):
    return [means[name] for *_, means in stage if name in means]


def test_spectra_have_a_frame_a_hop_in_its_middle():
    audio = torch.zeros(1, 1600)
    audio[0, 803] = 1.0
    log_mels = LogMel(CONFIG)(audio)
    assert log_mels.shape == (1, 10, 64)
    assert log_mels[0].mean(1).argmax() in (4, 5)  # hop 5 begins at 800
    assert LogMel(CONFIG)(torch.zeros(1, 1600)).max() == pytest.approx(np.log(FLOOR))


def test_texts_tell_what_is_heard_and_words_are_known():
    scene = foleyworld.make_scene(3, "ball")
    material = scene.sources[0].attributes()["material"]
    text = sound_text(scene)
    assert f"{material} ball" in text and scene.sources[0].place.distance_word in text
    assert "color" not in text and scene.sources[0].attributes()["color"] not in text.split()
    assert sound_text(scene, ()) == class_text("ball") == "the sound of a ball"
    ids = tokenise([text, class_text("bell"), ""])
    assert ids.shape == (3, 24) and (ids[2] != 0).sum() == 1
    assert max(ids.flatten()) < len(vocabulary()) + 2
    two = foleyworld.make_scene(0, num_sources=2)
    assert sound_text(two).count("the sound of a") == 2
    with pytest.raises(DataError, match="unknown word 'trumpet', expected fewer than 24 of"):
        tokenise(["the sound of a trumpet"])
    with pytest.raises(DataError, match="has 24 words"):
        tokenise(["a " * 24])


def test_every_text_of_the_world_can_be_told():
    seeds = foleyworld.clip_seeds("test", 0, 500)
    tokenise([sound_text(foleyworld.make_scene(seed)) for seed in seeds])


def test_clap_learns_goes_on_and_has_a_vector_of_no_text(pairs, tmp_path, steps):
    settings = ClapSettings(batch=16, stripe=2)
    steps(clap, 10)
    list(train_clap(tmp_path, pairs, DIM, settings, 1.0))
    steps(clap, 60)
    found = losses(train_clap(tmp_path, pairs, DIM, settings, 1.0), "loss")
    torch.manual_seed(0)
    untrained, trained = TinyClap(DIM).eval(), load_clap(tmp_path / "clap.pt", DIM)
    texts = [sound_text(foleyworld.make_scene(seed)) for seed in pairs.seeds]

    def matched(model):
        sounds = sound_vectors(model, pairs.mels)
        assert torch.allclose(sounds.norm(dim=1), torch.ones(CLIPS), atol=1e-5)
        likeness = sounds @ text_vectors(model, texts).T
        return (likeness.diagonal().mean() - likeness.mean()).item()

    assert matched(trained) > matched(untrained) + 0.1 and found[-1] < np.log(16)
    null = text_vectors(trained, [""])
    assert null.shape == (1, DIM) and null.norm().item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ExportError, match="expected"):
        load_clap(tmp_path / "clap.pt", DIM + 1)


def test_texts_of_a_batch_have_the_same_kinds_of_details(pairs):
    table = TextTable(pairs)
    rows = np.arange(CLIPS)
    seen = set()
    for i in range(20):
        ids, same = table.batch(rows, np.random.default_rng(i))
        assert torch.equal(same, same.T) and same.diagonal().all()
        seen.add(tuple((ids != 0).sum(1).tolist()))
    assert len(seen) > 2


def test_stripes_are_silent():
    log_mels = torch.zeros(8, FRAMES, 64)
    log_mels[:, 0, 0] = -9.0
    out = striped(log_mels.clone(), 12, np.random.default_rng(0))
    assert (out == -9).sum() > (log_mels == -9).sum() and out.max() == 0
    assert torch.equal(striped(log_mels.clone(), 0, np.random.default_rng(0)), log_mels)


@pytest.fixture(scope="module")
def encoded(pairs, tmp_path_factory):
    """An autoencoder of few steps, and the latents of all clips."""
    folder = tmp_path_factory.mktemp("vae")
    settings = AutoencoderSettings(batch=4, frames=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoencoder, "fit", lambda p, parts, s, m: fit(p, parts, s, None, 100))
        errors = losses(train_autoencoder(folder, pairs, VAE, settings, 1.0), "error")
    vae = load_autoencoder(folder / "vae.pt", VAE)
    write_latents(vae, pairs, folder / "latents.npy")
    return vae, np.load(folder / "latents.npy"), errors


def test_the_autoencoder_learns_and_its_latents_are_scaled(pairs, encoded):
    vae, latents, errors = encoded
    assert errors[-1] < 0.9 * errors[0] < 0.9  # of the spread of log mels, whose mean is known
    assert latents.shape == (CLIPS, FRAMES // 4, 8, 16)
    log_mels = torch.from_numpy(pairs.mels[:1].astype(np.float32))
    with torch.no_grad():
        mean = vae.encode(log_mels[:, None]).latent_dist.mean
    assert np.abs(mean[0].transpose(0, 1).numpy() - latents[0].astype(np.float32)).max() < 0.05
    assert (scaling_factor(latents) * latents.astype(np.float32)).std() == pytest.approx(
        1, rel=0.01
    )


@pytest.fixture
def sounds(encoded):
    vectors = F.normalize(
        torch.randn(CLIPS, DIM, generator=torch.Generator().manual_seed(0)), dim=1
    )
    return Sounds(encoded[1], scaling_factor(encoded[1]), vectors, vectors[0] * 0 + DIM**-0.5)


def test_the_denoiser_learns(sounds, tmp_path, steps):
    steps(denoiser, 100)
    settings = DenoiserSettings(batch=4, columns=8, peak_rate=3e-3)
    found = losses(train_denoiser(tmp_path, sounds, CONFIG, UNET, settings, 1.0), "loss")
    assert found[-1] < 0.9  # of the noise itself; nothing learnt is 1
    assert (tmp_path / "unet.pt").exists()


def test_what_the_denoiser_is_shown(sounds):
    s = DenoiserSettings(batch=60, columns=8, null_share=0.3)
    clean, condition = random_sounds(sounds, s, 0.0, np.random.default_rng(0))
    assert clean.shape == (60, 8, 8, 16) and condition.shape == (60, DIM)
    untold = (condition == sounds.null).all(1)
    assert 5 < untold.sum() < 35
    known = (condition[:, None] == sounds.vectors[None]).all(2).any(1)
    assert (known | untold).all()
    whole, _ = random_sounds(sounds, s, 0.9, np.random.default_rng(0))
    assert whole.shape == (20, 8, 24, 16)
    scaled = torch.from_numpy(sounds.latents.astype(np.float32)).transpose(1, 2) * sounds.scale
    assert (whole[:, None] == scaled[None]).flatten(2).all(2).any(1).all()


def test_times_are_spread_over_the_schedule():
    times = spread_times(10, 1000, np.random.default_rng(0))
    assert (times // 100).tolist() == list(range(10))


def test_the_vocoder_learns(encoded, pairs, tmp_path, steps):
    vae, latents, _ = encoded
    audio = np.stack([foleyworld.make_scene(seed).audio() for seed in pairs.seeds[:4]])
    recorded = Recorded((audio[:, : FRAMES * 160] * 32767).astype(np.int16), latents[:4])
    settings = VocoderSettings(batch=2, columns=6, sizes=(256, 512), bands=16)
    steps(vocoder, 100)
    stage = train_vocoder(tmp_path, recorded, vae, CONFIG, VOCODER, settings, 1.0)
    found = losses(stage, "log_mel")
    assert found[-1] < 0.9 * found[0]
    assert torch.isfinite(averaged_weights(tmp_path / "vocoder.pt")["conv_post.weight"]).all()


@pytest.mark.parametrize("kind", ["regression", "prior"])
def test_mappers_learn_which_sound_belongs_to_a_picture(pairs, tmp_path, kind):
    """From features that know the class, vectors of the class; the loss is below that of knowing
    the mean alone."""
    config = tiny_v2a_config(mapper=kind)
    features = torch.from_numpy(pairs.features.astype(np.float32))
    random = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(DIM, DIM, generator=random)).Q
    vectors = F.normalize(features.mean(1) @ turn, dim=1)
    settings = MappingSettings(steps=300, batch=32, peak_rate=3e-3, average=0.99, drop=0.05)
    found = losses(
        train_mapper(tmp_path, Matched(features, vectors, config), MAPPER, settings), "loss"
    )
    assert found[-1] < 0.5 * found[0]
    mapper = load_mapper(tmp_path / f"{kind}.pt", config, MAPPER)
    if kind == "regression":
        with torch.no_grad():
            mapped = F.normalize(mapper(features.mean(1)), dim=1)
        assert (mapped * vectors).sum(1).mean() > 0.9
    with pytest.raises(ExportError):
        load_mapper(
            tmp_path / f"{kind}.pt",
            tiny_v2a_config(mapper=kind, audio_dim=12, visual_dim=12),
            MAPPER,
        )


def test_a_mapper_that_was_stopped_ends_as_one_that_was_not(pairs, tmp_path):
    features = torch.from_numpy(pairs.features.astype(np.float32))
    vectors = F.normalize(features.mean(1), dim=1)
    matched = Matched(features, vectors, tiny_v2a_config(aggregator="random"))
    settings = MappingSettings(steps=6, batch=4)
    for _ in train_mapper(tmp_path / "whole", matched, MAPPER, settings):
        pass
    with pytest.MonkeyPatch.context() as patch:
        half = lambda p, parts, s, m, n: fit(p, parts, lambda i, x: s(i, i / n), m, 3)
        patch.setattr(mapping, "fit", half)
        list(train_mapper(tmp_path / "parts", matched, MAPPER, settings))
    list(train_mapper(tmp_path / "parts", matched, MAPPER, settings))
    whole, parts = (averaged_weights(tmp_path / x / "prior.pt") for x in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_vectors_of_other_encoders_are_refused():
    features, vectors = torch.zeros(3, 2, DIM), torch.zeros(3, DIM)
    with pytest.raises(DataError, match=r"vectors \[3, 12\], expected \[N, F, 24\] and \[N, 24\]"):
        Matched(features, vectors[:, :12], CONFIG)
    with pytest.raises(DataError, match=r"features are \[3, 24\]"):
        Matched(features[:, 0], vectors, CONFIG)
    with pytest.raises(DataError, match="of the same N, at least 1"):
        Matched(features[:0], vectors[:0], CONFIG)
    with pytest.raises(DataError, match="of the same N"):
        Matched(features, vectors[:2], CONFIG)


def test_vectors_of_ones_own_train_a_mapper(tmp_path, refused):
    random, recipe = np.random.default_rng(0), read_v2a_recipe("v2a-mapper")
    dim = recipe.model.audio_dim
    features, vectors = random.standard_normal((8, 3, dim)), random.standard_normal((8, dim))
    np.savez(tmp_path / "pairs.npz", features=features, vectors=vectors)
    command = ["--config", "v2a-mapper", "--out", str(tmp_path), "--pairs"]
    for kind in ("regression", "prior"):
        few = ["--mapper", kind, "--steps", "2", "--batch", "4", "--aggregator", "middle"]
        mapping.main([*command, str(tmp_path / "pairs.npz"), *few])
        weights = torch.load(tmp_path / "mapper.pt", weights_only=True)
        config = msgspec.structs.replace(recipe.model, mapper=kind)
        build_mapper(config, recipe.networks.mapper).load_state_dict(weights)
    np.savez(tmp_path / "damaged.npz", features=features, vectors=vectors * np.nan)
    np.savez(tmp_path / "zero.npz", features=features, vectors=vectors * 0)
    np.savez(tmp_path / "half.npz", features=features)
    np.savez(tmp_path / "narrow.npz", features=features, vectors=vectors[:, :5])
    (tmp_path / "text.npz").write_text("no numbers")
    messages = {
        "text": "cannot be read (it is no .npz), expected",
        "damaged": "vectors hold NaN or infinity, expected finite numbers",
        "zero": "a vector has no length",
        "half": "expected an .npz of features [N, F, 128] and vectors [N, 128]",
        "narrow": "vectors [8, 5], expected [N, F, 128] and [N, 128]",
        "missing": "cannot be read",
    }
    for name, message in messages.items():
        assert message in refused(mapping.main, *command, tmp_path / f"{name}.npz", "--steps", "1")


def test_pairs_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataError, match="expected mels, features and seeds"):
        Pairs.load(tmp_path)
