"""The spectral codec: an exact transform, and tokens as the contract wants them."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec

from training.codec import build_codec
from training.codec_training import SpectralLoss
from training.recipe import read_recipe
from training.spectral import Transform
from vab_rt.errors import OptionError

TINY = {"encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1}


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    codec = build_codec(read_recipe("default").model, TINY)
    codec.train()
    codec(torch.randn(8, 16_000) * 0.1)  # the first training batch fills the codebooks
    return codec.eval()


@pytest.mark.parametrize("n_fft", [640, 1280])
def test_synthesis_undoes_analysis(n_fft):
    audio = torch.randn(2, 3200)
    transform = Transform(n_fft, 320)
    real, imaginary = transform.analyse(audio)
    assert real.shape == (2, 10, n_fft // 2 + 1)
    torch.testing.assert_close(transform.synthesise(real, imaginary), audio, atol=1e-5, rtol=0)


def test_the_exported_form_of_the_transform_is_the_same():
    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.transform = Transform(1280, 320)

        def forward(self, audio):
            real, imaginary = self.transform.analyse(audio)
            return real, imaginary, self.transform.synthesise(real, imaginary * 0.5)

    module, audio = Both(), torch.randn(2, 3200)
    exported = torch.export.export(module, (audio,)).module()
    for ours, theirs in zip(module(audio), exported(audio), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-4)


def test_tokens_and_samples_have_the_contracts_shapes(codec):
    config = read_recipe("default").model
    tokens = codec.encode(torch.randn(2, 6400) * 0.1)
    assert tokens.shape == (2, config.num_codebooks, 20) and tokens.dtype == torch.int32
    assert 0 <= tokens.min() and tokens.max() < config.codebook_size
    assert codec.decode(tokens).shape == (2, 6400)
    assert codec.codebooks.shape == (4, 512, 64)


def test_decoding_tokens_is_decoding_the_quantised_latents(codec):
    audio = torch.randn(1, 6400) * 0.1
    latents = codec.latents(audio).transpose(1, 2)
    quantised, _, _ = codec.quantizer.vq(latents)
    torch.testing.assert_close(
        codec.decode(codec.encode(audio)), codec.waveform(quantised.transpose(1, 2))
    )


def test_loss_is_zero_on_equals_and_survives_silence():
    loss = SpectralLoss(16_000)
    audio = torch.randn(2, 16_000) * 0.1
    assert sum(loss(audio, audio).values()) == 0
    silent = sum(loss(audio, torch.zeros(2, 16_000)).values())
    assert torch.isfinite(silent) and silent > 1


def test_unknown_codec_settings_are_named():
    with pytest.raises(msgspec.ValidationError, match="encoder_widht"):
        build_codec(read_recipe("default").model, {"encoder_widht": 8})
    dac = msgspec.structs.replace(read_recipe("default").model, codec="dac")
    with pytest.raises(OptionError, match="expected spectral or encodec"):
        build_codec(dac)
