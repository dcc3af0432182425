"""Contrastive fine-tuning: pairs are found, each modality is alone, and what is kept fits."""

import argparse

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
from checkpoints import coded_vab, short_config

from training.command import add_finetuning, settings_of
from training.contrastive import (
    ContrastiveSettings,
    Retriever,
    finetune_contrastive,
    load_retriever,
    matching_loss,
    start_from,
)
from training.datasets.clips import TokenisedClips
from training.evaluation.retrieval import retrieval_result
from training.model import VAB
from training.representation import Encoder, augmented
from vab_rt.errors import DataError, ExportError, OptionError

QUICK = ContrastiveSettings(
    batch=8, epochs=12, peak_rate=1e-2, warm_up=0.03, standardise=True, dropout=0, mixup=0, roll=0
)


@pytest.fixture(scope="module")
def config():
    return short_config(layers=3, expert_layers=2)


@pytest.fixture(scope="module")
def vab(config):
    return coded_vab(config)


@pytest.fixture(scope="module")
def clips(config):
    """Sixteen kinds of clips: one code all along, and a picture that goes with it."""
    random = np.random.default_rng(0)
    kinds = np.arange(64) % 16
    tokens = np.broadcast_to(kinds[:, None, None], (64, 2, config.num_token_steps))
    seen = random.standard_normal((16, 8))[kinds][:, None].repeat(config.num_frames, 1)
    features = seen + 0.05 * random.standard_normal(seen.shape)
    return TokenisedClips(
        tokens=tokens.astype(np.int16),
        features=(features / np.linalg.norm(features, axis=2, keepdims=True)).astype(np.float32),
        labels=np.eye(16, dtype=np.float32)[kinds],
    )


@pytest.fixture(scope="module")
def run(vab, clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    reports = list(finetune_contrastive(folder, vab, clips, QUICK, minutes=None))
    return folder, reports


def test_pairs_are_found(run, config, clips):
    folder, reports = run
    assert reports[-1][0] == 96, "12 epochs of 64 clips, 8 at a time"
    one_of_each = clips.take(np.arange(16))
    held_out = TokenisedClips(one_of_each.tokens, one_of_each.features, one_of_each.labels)
    trained = retrieval_result(load_retriever(folder / "contrastive.pt", config), held_out)
    assert trained["video_to_audio"]["r1"] > 0.6 and trained["audio_to_video"]["r1"] > 0.6
    torch.manual_seed(0)
    untrained = retrieval_result(Retriever(VAB(config)).eval(), held_out)
    assert untrained["video_to_audio"]["r1"] < 0.4


def test_it_begins_where_clips_differ_only_where_it_is_asked_to(vab, clips, config, tmp_path):
    """Off, as in the paper, the two learned means and scales are not there at all."""
    path, held = tmp_path / "contrastive.pt", {}
    for standardise in (True, False):
        path.unlink(missing_ok=True)
        settings = msgspec.structs.replace(QUICK, epochs=2 / 8, warm_up=1, standardise=standardise)
        list(finetune_contrastive(tmp_path, vab, clips, settings, minutes=None))
        retriever = load_retriever(path, config)
        held[standardise] = set(retriever.state_dict())
        found = retriever.audio(torch.from_numpy(clips.tokens[:16]).long())
        assert (found @ found.T).mean() < 0.3 if standardise else (found @ found.T).mean() > 0.3
    assert {name.split(".")[0] for name in held[True] - held[False]} == {"heard", "seen"}
    rate = torch.load(path, weights_only=True)["optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(QUICK.peak_rate), "two steps, the first of them to warm up"


def test_a_warm_up_that_the_run_does_not_outlast_is_refused(vab, clips, tmp_path):
    settings = msgspec.structs.replace(QUICK, warm_up=100_000)
    with pytest.raises(OptionError, match="contrastive warm_up is 100000 and the run has 96 steps"):
        next(finetune_contrastive(tmp_path, vab, clips, settings, minutes=None))


def test_the_pretrained_model_is_left_alone(run, vab):
    for name, weight in coded_vab(vab.config).state_dict().items():
        assert torch.equal(weight, vab.state_dict()[name]), name


def test_the_encoder_is_the_first_layers_and_holds_no_others(vab, clips):
    batch = clips.take(np.arange(3))
    tokens, features = torch.from_numpy(batch.tokens), torch.from_numpy(batch.features)
    encoder = Encoder(vab).eval()
    expected = torch.nn.functional.layer_norm(vab.encode(tokens, features, 2), (16,)).mean(1)
    torch.testing.assert_close(encoder(tokens, features), expected)
    assert len(encoder.vab.layers) == 2 and not hasattr(encoder.vab, "heads")


def test_sound_without_experts_ends_half_way(config):
    whole = VAB(msgspec.structs.replace(config, layers=4, expert_layers=0))
    assert len(Encoder(whole).vab.layers) == 2


def test_a_modality_alone_has_its_own_positions_and_no_others(vab, clips):
    batch = clips.take(np.arange(3))
    tokens, features = torch.from_numpy(batch.tokens), torch.from_numpy(batch.features)
    c = vab.config
    assert vab.encode(tokens, None, 2).shape == (3, c.num_token_steps, 16)
    assert vab.encode(None, features, 2).shape == (3, c.num_frames, 16)
    both = vab.encode(tokens, features, 2)[:, c.num_frames :]
    assert (vab.encode(tokens, None, 2) - both).abs().max() > 1e-3, "the picture was not absent"
    embedded = vab.encode(tokens, features, 0)
    torch.testing.assert_close(vab.encode(tokens, None, 0), embedded[:, c.num_frames :])
    torch.testing.assert_close(vab.encode(None, features, 0), embedded[:, : c.num_frames])


def test_loss_is_symmetric_and_small_for_pairs():
    same = torch.eye(4)
    loss, found = matching_loss(same, same, torch.tensor(100.0), 0.0)
    assert loss < 1e-6 and found == 1
    a, b = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=2)
    scale = torch.tensor(5.0)
    one, other = matching_loss(a, b, scale, 0.1), matching_loss(b, a, scale, 0.1)
    torch.testing.assert_close(one, other)
    worst, found = matching_loss(same, same.roll(1, 0), torch.tensor(100.0), 0.0)
    assert worst > 50 and found == 0


def test_labels_ride_with_the_frames_of_mixed_clips(clips):
    batch = clips.take(np.array([0, 1, 2, 3]))
    tokens, features, labels = augmented(batch, 1.0, 0.0, np.random.default_rng(0))
    assert features.shape == batch.features.shape and labels.shape == batch.labels.shape
    torch.testing.assert_close(labels.sum(1), torch.ones(4))
    share = (tokens[:, 0] == tokens[:, :1, 0]).float().mean(1)  # of the clip that begins
    torch.testing.assert_close(labels[torch.arange(4), torch.arange(4)], share, atol=0.13, rtol=0)
    assert (labels.amax(1) < 1).all(), "every clip was joined with another"


def test_training_goes_on_from_the_layers_that_were_tuned(run, vab, config):
    folder, _ = run
    fresh = VAB(config)
    before = {name: weight.clone() for name, weight in fresh.state_dict().items()}
    start_from(folder / "contrastive.pt", fresh)
    tuned = load_retriever(folder / "contrastive.pt", config).encoder.vab.state_dict()
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, tuned.get(name, before[name])), name
    assert "layers.2.qkv.weight" not in tuned


def test_weights_of_another_architecture_are_refused(run, config, tmp_path):
    folder, _ = run
    wide = msgspec.structs.replace(config, width=32)
    with pytest.raises(ExportError, match=r"contrastive\.pt: \S+ is float32 .*expected float32"):
        load_retriever(folder / "contrastive.pt", wide)
    with pytest.raises(DataError, match="nothing.pt cannot be read"):
        load_retriever(tmp_path / "nothing.pt", config)


def test_a_run_in_the_folder_of_another_model_is_refused(run, config, clips):
    folder, _ = run
    other = VAB(msgspec.structs.replace(config, width=32))
    with pytest.raises(DataError, match="of another model or stage"):
        list(finetune_contrastive(folder, other, clips, QUICK, minutes=None))


def test_one_clip_has_nothing_to_be_told_from():
    with pytest.raises(OptionError, match="batch is 1, expected at least 2"):
        ContrastiveSettings(batch=1)


def test_every_setting_is_an_option_of_the_command():
    parser = argparse.ArgumentParser()
    add_finetuning(parser, ContrastiveSettings())
    words = ["ckpt.pt", "--out", "run", "--crop-s", "2.5", "--batch", "4"]
    found = settings_of(parser.parse_args(words), ContrastiveSettings)
    assert found == ContrastiveSettings(crop_s=2.5, batch=4)
    assert settings_of(parser.parse_args(words[:3]), ContrastiveSettings).crop_s is None
