"""The codecs learn in one loop, with and without a discriminator, and go on where they stopped."""

import json
import signal

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
import numpy as np
from checkpoints import tiny_config
from toml_files import toml_of

from training import codec_training, fitting, foleyworld, reconstruction
from training.codec_training import backward, random_crops, train_codec
from training.codecs.codec import build_codec
from training.codecs.discriminator import Adversary
from training.codecs.recordings import Recordings
from training.codecs.settings import read_training
from training.evaluation.classifier import AudioClassifier
from training.evaluation.evaluator import Evaluator
from vab_rt.audio import Audio
from vab_rt.errors import DataError, OptionError

CPU = torch.device("cpu")
SETTINGS = {
    "encodec": {"num_filters": 2, "ratios": [20, 16], "lstm_layers": 1},
    "spectral": {"decoder_width": 16, "decoder_blocks": 1},
    "dac": {"encoder_width": 2, "decoder_width": 8, "ratios": [5, 64]},
}
QUICK = {"batch": 2, "crop_s": 0.3, "sizes": [128, 512], "bands": 16, "fit_clips": 6}
WITHOUT = {"discriminator_from": 1.0}
WITH = {"discriminator_from": 0.25, "discriminator_filters": 2}


def config_of(codec: str):
    code_dim = 288 if codec == "spectral" else 8
    return tiny_config(codec=codec, code_dim=code_dim, num_codebooks=2, codebook_size=16)


def sounds(count: int = 6, samples: int = 8_000) -> Recordings:
    """Tones that fade, each a little noisy: int16 [count, samples]."""
    times = np.arange(samples) / 16_000
    random = np.random.default_rng(0)
    tones = [
        np.sin(2 * np.pi * p * times) * np.exp(-3 * times) for p in range(300, 300 * count, 250)
    ]
    noisy = 0.4 * np.array(tones[:count]) + 0.02 * random.standard_normal((count, samples))
    return Recordings(audio=np.round(noisy * 32767).astype(np.int16))


def losses_of(folder, codec: str, how: dict, stop_after: int | None = None) -> list[dict]:
    """The losses of each step; stopped by a signal after one of them, as a user would."""
    training, found = read_training(codec, QUICK | how), []
    steps = train_codec(folder, sounds(), config_of(codec), SETTINGS[codec], 1.0, 3, training)
    try:
        for step, progress, losses in steps:
            found += [losses] if progress < 1 else []
            if step == stop_after:
                signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        assert stop_after is not None
    return found


@pytest.fixture(autouse=True)
def report_every_step(monkeypatch):
    monkeypatch.setattr(fitting, "REPORT_EVERY", 1)


@pytest.mark.parametrize(
    "codec, how",
    [
        ("encodec", WITHOUT | {"steps": 24, "peak_rate": 1e-2}),
        ("encodec", WITHOUT | {"steps": 24, "peak_rate": 1e-2, "balanced": False, "mel": 1.0}),
        ("dac", WITHOUT | {"steps": 24, "peak_rate": 1e-2, "waveform": 0.0}),
        ("spectral", WITHOUT | {"steps": 16, "peak_rate": 1e-2, "precision": "fp32"}),
        ("spectral", WITHOUT | {"steps": 16, "peak_rate": 1e-2, "precision": "bf16"}),
    ],
)
def test_losses_fall(tmp_path, codec, how):
    found = losses_of(tmp_path, codec, how)
    name = "magnitude" if codec == "spectral" else "mel"  # of output: it begins with their level
    early, late = (np.mean([x[name] for x in part]) for part in (found[:4], found[-4:]))
    assert late < 0.85 * early
    expected = {"encodec": {"waveform", "mel", "commitment"}, "dac": {"mel", "commitment"}}
    spectral = {"log_mel", "convergence", "level", "magnitude", "frequency"}
    assert found[0].keys() == expected.get(codec, spectral)


@pytest.mark.parametrize("codec, how", [("encodec", WITH), ("dac", WITH), ("spectral", WITHOUT)])
def test_a_stopped_run_has_the_losses_of_one_that_was_not(tmp_path, codec, how):
    how = how | {"steps": 6}
    whole = losses_of(tmp_path / "whole", codec, how)
    first = losses_of(tmp_path / "parts", codec, how, stop_after=3)
    rest = losses_of(tmp_path / "parts", codec, how)
    assert len(first) == 3 and first + rest == whole
    saved = [torch.load(tmp_path / f / "codec.pt", weights_only=True) for f in ("whole", "parts")]
    for name, tensor in saved[0]["average"]["weights"].items():
        assert torch.equal(tensor, saved[1]["average"]["weights"][name]), name


def test_the_discriminator_takes_part_from_its_progress_on(tmp_path):
    found = losses_of(tmp_path, "encodec", WITH | {"steps": 4})
    assert ["adversarial" in losses for losses in found] == [False, True, True, True]
    assert {"features", "discriminator"} <= found[1].keys()


@pytest.mark.parametrize("codec", ["encodec", "dac", "spectral"])
def test_the_adversarial_gradient_reaches_the_decoder_alone(codec):
    torch.manual_seed(0)
    built = build_codec(config_of(codec), SETTINGS[codec])
    adversary = Adversary(2, 1e-3, (0.5, 0.9), CPU)
    audio = torch.from_numpy(sounds(2).audio[:, :4800] / np.float32(32767))
    output, _ = built.reconstruct(audio, torch.Generator(), 0.1, bfloat16=False)
    losses, _ = adversary.losses(output, audio)
    (gradient,) = torch.autograd.grad(losses["adversarial"], output)
    backward(output, gradient, {}, {})
    reached = [p.grad.abs().max() for p in built.decoder.parameters() if p.grad is not None]
    assert max(reached) > 0
    assert all(p.grad is None for p in adversary.network.parameters())


@pytest.mark.parametrize("codec", ["encodec", "dac", "spectral"])
def test_bfloat16_is_of_the_networks_alone(codec):
    torch.manual_seed(0)
    built = build_codec(config_of(codec), SETTINGS[codec]).eval()
    audio = torch.from_numpy(sounds(2).audio[:, :4800] / np.float32(32767))
    full, _ = built.reconstruct(audio, torch.Generator(), 0.1, bfloat16=False)
    half, losses = built.reconstruct(audio, torch.Generator(), 0.1, bfloat16=True)
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert all(x.dtype == torch.float32 for x in losses.values())
    assert (half - full).norm() < 0.2 * full.norm()


def test_commitment_reaches_the_encoder_and_not_the_decoder():
    built = build_codec(config_of("encodec"), SETTINGS["encodec"])
    output, before = built.reconstruct(torch.randn(2, 4800), torch.Generator(), 0.1, bfloat16=False)
    backward(output, torch.zeros_like(output), before, {"commitment": 1.0})
    assert max(p.grad.abs().max() for p in built.encoder.parameters()) > 0
    assert all(p.grad.abs().max() == 0 for p in built.decoder.parameters() if p.grad is not None)


def test_training_the_spectral_decoder_changes_no_token(tmp_path):
    list(losses_of(tmp_path, "spectral", WITHOUT | {"steps": 2}))
    before = torch.load(tmp_path / "codec.pt", weights_only=True)
    (tmp_path / "codec.pt").unlink()
    list(losses_of(tmp_path, "spectral", WITHOUT | {"steps": 3, "peak_rate": 1e-2}))
    after = torch.load(tmp_path / "codec.pt", weights_only=True)
    for name, tensor in before["codec"].items():
        assert torch.equal(tensor, after["codec"][name]) == name.startswith("quantizer"), name


def test_the_waveform_has_no_weight_where_tokens_hold_no_phase():
    assert read_training("spectral").waveform == 0 and read_training("encodec").waveform == 0.1
    assert read_training("encodec").discriminator_from == 0
    assert read_training("spectral").discriminator_from == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"comitment": 1.0}, "comitment.*expected some of: waveform, mel"),
        ({"mel": "much"}, "Expected `float`.*mel"),
        ({"crop_s": 0.1}, "crop_s is 0.1, expected at least 0.2"),
        ({"dead_below": 0.0}, "dead_below is 0.0"),
        ({"waveform": -1.0}, "expected 0 or more"),
        ({"waveform": 0.0, "mel": 0.0}, "above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        read_training("encodec", changes)


def test_a_crop_longer_than_the_recordings_is_refused():
    training = read_training("encodec", {"crop_s": 2.0})
    with pytest.raises(OptionError, match=r"crop_s is 2.0, expected at most .* 0.5 s"):
        random_crops(sounds().audio, config_of("encodec"), training, np.random.default_rng(0))


def test_a_checkpoint_of_another_codec_is_refused(tmp_path):
    losses_of(tmp_path, "encodec", WITHOUT | {"steps": 1})
    with pytest.raises(DataError, match="another model"):
        losses_of(tmp_path, "spectral", WITHOUT | {"steps": 1})


def test_si_sdr_is_that_of_its_definition():
    random = np.random.default_rng(0)
    true = random.standard_normal(16_000).astype(np.float32)
    noise = random.standard_normal(16_000).astype(np.float32)
    assert reconstruction.si_sdr(true, 0.3 * true) > 60
    assert reconstruction.si_sdr(true, 2 * true + 0.2 * noise) == pytest.approx(20, abs=0.3)
    assert reconstruction.si_sdr(true, noise) < -20
    assert abs(reconstruction.si_sdr(0 * true, 0 * true)) < 1e-6


def test_commands_train_on_a_folder_and_measure_what_it_held_out(tmp_path, capsys, refused):
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    for i in range(20):
        Audio(
            samples=np.resize(sounds().audio[i % 6] / np.float32(32767), 8_000 + 100 * i),
            sample_rate_hz=16_000,
        ).save(media / f"{i:02d}.wav")
    path = tmp_path / "mine.toml"
    model = msgspec.to_builtins(config_of("encodec"))
    how = QUICK | WITHOUT | {"steps": 2}
    tables = {"model": model, "codec": SETTINGS["encodec"], "codec_training": how}
    path.write_text(toml_of(tables))
    codec_training.main(["--config", str(path), "--media", str(media), "--out", str(out)])
    assert "commitment" in capsys.readouterr().err and (out / "codec.pt").exists()
    of_codec = ["--ckpt", str(out / "codec.pt"), "--recordings", str(out / "recordings"), "--json"]
    reconstruction.main(["--config", str(path), *of_codec])
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {"clips", "mel_distance", "si_sdr_db"} and result["mel_distance"] > 0
    said = refused(reconstruction.main, "--config", "default", *of_codec)
    assert "is not of this codec" in said


def test_reconstruction_has_the_measures_of_the_evaluation():
    torch.manual_seed(0)
    scenes = [foleyworld.make_scene(seed) for seed in foleyworld.clip_seeds("test", 0, 2)]
    evaluator = Evaluator(AudioClassifier().eval())
    codec = build_codec(config_of("spectral"), SETTINGS["spectral"]).eval()
    result = reconstruction.measure_scenes(codec, evaluator, scenes)
    assert result.keys() >= {"clips", "mel_distance", "si_sdr_db", "class_agreement", "fad", "kld"}
    assert result["clips"] == 2 and result["fad"] > 0
    same = reconstruction.sound_distances(*[np.ones((1, 4096), np.float32)] * 2, 16_000)
    assert same["mel_distance"] == 0
