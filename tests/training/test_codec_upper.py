"""The upper half of the spectrum, which tokens do not hold."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import onnxruntime as ort
from checkpoints import tiny_config

from export.modules import CodecDecoder, CodecEncoder
from export.onnx_graphs import save, trace
from training.codec_training import train_codec
from training.codecs.codec import build_codec
from training.codecs.recordings import Recordings
from training.codecs.settings import read_training
from training.codecs.upper import FLOOR, POINTS, UPPER_BANDS, Upper
from training.fitting import averaged_weights
from vab_rt.contract import contract_of

RATE_HZ, HOP = 32_000, 640
SIZES = {"code_dim": 24, "num_codebooks": 2, "codebook_size": 16}
LOWER, WHOLE = tiny_config(**SIZES), tiny_config(**SIZES, sample_rate_hz=RATE_HZ, hop_samples=HOP)
SETTINGS = {
    "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1,
    "floor": 1e-3, "energy_floor": 2e-4, "masked": 1e-6, "masked_envelope": 1e-4,
}  # fmt: skip


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    """White [1, S], 30 dB louder in its second half."""
    audio = torch.randn(1, round(seconds * RATE_HZ), generator=torch.Generator().manual_seed(seed))
    audio[:, : audio.shape[1] // 2] /= 30
    return 0.1 * audio


@pytest.fixture(scope="module")
def upper():
    return Upper(8, HOP)


@pytest.mark.parametrize("hz, share", [(100, 1), (3_000, 1), (7_000, 1), (9_000, 0), (15_000, 0)])
def test_the_lower_half_is_kept_and_nothing_else(upper, hz, share):
    tone = torch.sin(2 * math.pi * hz * torch.arange(RATE_HZ, dtype=torch.float64) / RATE_HZ)
    found = upper.doubled(upper.halved(tone.float()[None]))[0]
    assert found.shape == tone.shape
    assert (found - share * tone)[400:-400].abs().max() < 5e-3


def test_noise_has_the_strengths_of_the_sound_where_they_were(upper):
    audio = noise(2)
    true = upper.strengths(audio)
    made = upper.sound(true)
    assert made.shape == audio.shape
    apart = (upper.strengths(made) - true).unflatten(2, (POINTS, UPPER_BANDS)).mean((0, 1, 2))
    assert apart.abs().max() < 0.1  # nepers
    click = torch.zeros(1, 20 * HOP)
    click[0, 6437] = 1.0
    power = upper.sound(upper.strengths(click))[0].square()
    assert abs((power * torch.arange(len(power))).sum() / power.sum() - 6437) < 80  # half a point
    assert upper.sound(torch.full_like(true, math.log(FLOOR))).abs().max() == 0


def test_what_was_recorded_at_a_lower_rate_teaches_nothing(upper):
    hum = 0.1 * torch.sin(2 * math.pi * 300 * torch.arange(RATE_HZ) / RATE_HZ)[None]
    wrong = torch.zeros_like(upper.strengths(hum))
    assert upper.loss(wrong, hum) == 0
    assert upper.loss(wrong, noise(1)) > 1
    assert upper.loss(upper.strengths(noise(1)), noise(1)) == 0


def test_tokens_are_those_of_the_lower_half():
    torch.manual_seed(0)
    lower, whole = build_codec(LOWER, SETTINGS), build_codec(WHOLE, SETTINGS | {"upper": True})
    audio = noise(2)
    list(lower.fit(lower.points(whole.upper.halved(audio)).flatten(0, 1)))
    whole.load_state_dict(whole.state_dict() | lower.state_dict())
    tokens = whole.encode(audio)
    torch.testing.assert_close(tokens, lower.encode(whole.upper.halved(audio)))
    sound = whole.decode(tokens)
    assert sound.shape == audio.shape
    wide = whole.upper.doubled(lower.decode(tokens))
    torch.testing.assert_close(lower_half(sound), lower_half(wide), atol=1e-4, rtol=0)


def lower_half(sound):
    """Without what rings at its ends."""
    spectrum = torch.fft.rfft(sound)
    spectrum[:, spectrum.shape[1] // 2 - 200 :] = 0
    return torch.fft.irfft(spectrum)[:, 2000:-2000]


def test_it_learns_with_the_codec_and_its_graphs_are_torchs(tmp_path):
    rows = torch.cat([noise(1, seed) for seed in range(6)]).numpy()
    audio = (rows * 32767).round().clip(-32767, 32767).astype(np.int16)
    training = read_training(
        "spectral",
        {"batch": 2, "crop_s": 0.3, "sizes": [1024], "bands": 16, "fit_clips": 6, "energies": 2.0,
         "spectra_floor": 1e-4, "peak_rate": 2e-2, "steps": 30},
    )  # fmt: skip
    settings = SETTINGS | {"upper": True}
    list(train_codec(tmp_path, Recordings(audio), WHOLE, settings, 1.0, 3, training))
    codec = build_codec(WHOLE, settings).eval()
    begun = codec.spectrum(codec.latents(noise(1))).upper
    codec.load_state_dict(averaged_weights(tmp_path / "codec.pt"))
    learned = codec.spectrum(codec.dequantise(codec.encode(noise(1)))).upper
    assert codec.upper.loss(learned, noise(1)) < 0.7 * codec.upper.loss(begun, noise(1))

    contracts = contract_of(WHOLE)
    sound = noise(WHOLE.num_samples / RATE_HZ)
    tokens = codec.encode(sound)
    for module, name, given in (
        (CodecDecoder(codec), "codec_decoder", {"tokens": tokens}),
        (CodecEncoder(codec), "codec_encoder", {"audio": sound}),
    ):
        save(trace(module, contracts[name]), tmp_path / "graph.onnx")
        session = ort.InferenceSession(tmp_path / "graph.onnx")
        (found,) = session.run(None, {key: x.numpy() for key, x in given.items()})
        expected = codec.decode(tokens) if name == "codec_decoder" else tokens
        np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)
