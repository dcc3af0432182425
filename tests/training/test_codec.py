"""The spectral codec: an exact transform, and tokens as the contract wants them."""

import math

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
import numpy as np

from training import foleyworld
from training.codecs.bands import FINE_BANDS, LEVEL_BANDS, fine_bands, level_bands
from training.codecs.codebooks import fit_codebooks
from training.codecs.codec import build_codec
from training.codecs.spectra import NAMES, MultiScaleSpectra
from training.codecs.spectral import ENVELOPE_POINTS, Spectrum
from training.codecs.transform import Transform
from training.configs import read_recipe
from vab_rt.errors import OptionError

TINY = {"decoder_width": 16, "decoder_blocks": 1}


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    codec = build_codec(read_recipe("default").model, TINY)
    frames = codec.latents(torch.randn(8, 32_000) * 0.1).flatten(0, 1)
    list(fit_codebooks(codec.quantizer, frames, rounds=2))
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
    assert codec.codebooks.shape == (4, 512, 288)


def test_decoding_tokens_is_rendering_the_quantised_latents(codec):
    audio = torch.randn(1, 6400) * 0.1
    tokens = codec.encode(audio)
    quantised = codec.quantizer.vq.decode(tokens.transpose(0, 1)).transpose(1, 2)
    rendered = codec.render(codec.spectrum(quantised))
    torch.testing.assert_close(codec.decode(tokens), rendered)


def test_the_nearest_codes_are_the_tokens(codec):
    """The first codebook looks at levels and envelope alone."""
    audio = torch.randn(1, 6400) * 0.1
    latents, tokens = codec.latents(audio)[0], codec.encode(audio)[0]
    for k in range(4):
        assert torch.equal(codec.distances(latents, tokens[:k]).argmin(1), tokens[k].long())
    other = latents + 9 * (torch.arange(288) < FINE_BANDS)
    none = tokens[:0]
    torch.testing.assert_close(codec.distances(other, none), codec.distances(latents, none))


def test_bands_share_each_bin_out_and_none_is_empty():
    for bands, count in ((fine_bands(481), FINE_BANDS), (level_bands(481), LEVEL_BANDS)):
        assert bands.shape == (481, count) and bands.sum(0).min() >= 1 - 1e-6
        torch.testing.assert_close(bands.sum(1), torch.ones(481))


def test_a_band_has_the_level_of_its_codes_whatever_the_decoder_says_of_its_bins(codec):
    """Ten times as loud or as faint in fine bands: the level stands."""
    audio = torch.randn(1, 32_000) * 0.1
    spectrum = codec.spectrum(codec.latents(audio))
    logs = codec.latents(audio) / codec.weight
    _, level, envelope = logs.split([FINE_BANDS, LEVEL_BANDS, ENVELOPE_POINTS], 2)
    for change in (-1.2, 0.0, 1.2):
        told = msgspec.structs.replace(
            spectrum,
            log_magnitude=logs[..., :FINE_BANDS] @ codec.spread + change,
            level=level,
            envelope=envelope,
        )
        found = codec.latents(codec.render(told)) / codec.weight
        error = (found[..., FINE_BANDS : FINE_BANDS + LEVEL_BANDS] - level)[:, 2:-2].mean()
        assert 8.7 * error.abs() < 0.7


def test_level_survives_codes_of_sounds_and_a_decoder_that_knows_nothing():
    """What bins and frames of unfit phases cancel is made up for."""
    torch.manual_seed(0)
    codec = build_codec(read_recipe("default").model, TINY).eval()
    kinds = ("ball", "clock", "alarm", "bell", "rain", "engine")
    sounds = [foleyworld.make_scene(seed, kind).audio() for seed, kind in enumerate(kinds)]
    audio = torch.from_numpy(np.stack(sounds))  # [6, S]
    list(fit_codebooks(codec.quantizer, codec.latents(audio).flatten(0, 1), 4, codec.seen))
    with torch.no_grad():
        found = codec.decode(codec.encode(audio))
    levels_db = 10 * (found.square().mean(1) / audio.square().mean(1)).log10()
    assert levels_db.mean().abs() < 1 and levels_db.abs().max() < 2.5


def test_frames_that_move_begin_the_codebooks_and_few_of_the_rest(codec):
    audio = torch.full((1, 64_000), 1e-4) * torch.randn(1, 64_000)
    audio[:, 32_000:] += 0.1 * torch.sin(torch.arange(32_000) * 0.4)
    shares = codec.fit_shares(codec.latents(audio)[0])
    assert shares[:90].max() < 0.1 and (shares[98:102] == 1).any()
    assert (shares[110:190] < 0.2).all() and (shares[110:190] > 0.1).all()


def test_each_codebook_takes_error_away():
    codec = build_codec(read_recipe("default").model, TINY)
    frames = codec.latents(torch.randn(8, 32_000) * 0.1).flatten(0, 1)
    list(fit_codebooks(codec.quantizer, frames, rounds=2))
    frames, vq = frames.T[None], codec.quantizer.vq
    errors = [(frames - vq.decode(vq.encode(frames, n_q=n))).square().mean() for n in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.9 * errors[0]


def test_a_decoder_may_learn_to_do_with_fewer_codebooks():
    """Half the clips have all, the others any number from the least on; the same ones again."""
    model = msgspec.structs.replace(read_recipe("default").model, num_codebooks=12)
    codec = build_codec(model, TINY | {"least_codebooks": 4})
    drawn = codec._num_kept(4000, torch.Generator().manual_seed(0))
    counts = drawn.bincount(minlength=13) / len(drawn)
    assert (counts[:4] == 0).all() and (counts[4:12] - 1 / 18).abs().max() < 0.02
    assert abs(counts[12] - (1 / 2 + 1 / 18)) < 0.03
    assert torch.equal(drawn, codec._num_kept(4000, torch.Generator().manual_seed(0)))
    list(
        fit_codebooks(
            codec.quantizer, codec.latents(torch.randn(4, 32_000)).flatten(0, 1), rounds=1
        )
    )
    tokens = codec.encode(torch.randn(3, 6400) * 0.1)
    kept = codec.dequantise(tokens, torch.tensor([4, 12, 7]))
    for clip, count in enumerate((4, 12, 7)):
        alone = codec.dequantise(tokens[clip : clip + 1, :count])
        torch.testing.assert_close(kept[clip], alone[0])
    assert codec.decode(tokens[:, :4]).shape == (3, 6400)


def test_a_codec_of_all_codebooks_draws_nothing():
    codec = build_codec(read_recipe("default").model, TINY)
    assert codec._num_kept(8, torch.Generator()) is None
    audio = torch.randn(2, 6400) * 0.1
    random = torch.Generator().manual_seed(0)
    found, _ = codec.reconstruct(audio, random, 0.1, bfloat16=False)
    torch.testing.assert_close(found, codec.render(codec(audio)))
    assert torch.equal(random.get_state(), torch.Generator().manual_seed(0).get_state())


def test_fewer_codebooks_than_none_and_more_than_all_are_refused():
    with pytest.raises(OptionError, match=r"least_codebooks is 5, expected 0 .* to 4"):
        build_codec(read_recipe("default").model, TINY | {"least_codebooks": 5})


def test_a_tone_runs_on_through_all_frames(codec):
    """A bin that is told its tone's frequency sums it up: one line, no seams between hops."""
    frames, k = 40, 60  # 1 kHz: the centre of a bin
    still = torch.zeros(1, frames, codec.bins)
    silence = torch.full((1, frames, codec.bins), -20.0)
    silence[..., k] = 3.7
    offset = still + torch.pi * (torch.arange(codec.bins) % 2)
    level = ((2 * silence).exp() @ codec.level + 4e-4).log() / 2
    flat = torch.full((1, frames, ENVELOPE_POINTS), math.log(math.exp(3.7) / 240 / 2**0.5))
    audio = codec.render(Spectrum(silence, still, offset, still + 1, level, flat))[0, 3200:-3200]
    power = torch.fft.rfft(audio * torch.hann_window(len(audio))).abs().square()
    line = round(1000 * len(audio) / 16_000)
    assert power[line - 3 : line + 4].sum() / power.sum() > 0.99


@pytest.mark.parametrize("sizes", [(32, 2048), (256, 512)])
def test_distances_are_zero_on_equals_and_survive_silence(sizes):
    distance = MultiScaleSpectra(16_000, sizes, 64, torch.device("cpu"))
    audio, silence = torch.randn(2, 16_000) * 0.1, torch.zeros(2, 16_000, requires_grad=True)
    assert all(x == 0 for x in distance(audio, audio, NAMES).values())
    found = distance(silence, audio, NAMES)
    assert found.keys() == NAMES and all(torch.isfinite(x) and x > 0.5 for x in found.values())
    (gradient,) = torch.autograd.grad(sum(found.values()), silence)
    assert torch.isfinite(gradient).all()
    assert distance(silence, audio, frozenset({"waveform"})) == {}


def test_a_band_holds_the_mean_of_its_magnitudes():
    """White noise has the same in each band of each window, so that one floor serves all."""
    distance = MultiScaleSpectra(16_000, (64, 1024), 64, torch.device("cpu"))
    noise = torch.randn(1, 64_000)
    for n in (64, 1024):
        bands = distance._magnitude(noise, n) @ distance.filters[n]
        assert bands.shape[2] == min(64, n // 8)
        torch.testing.assert_close(
            bands.mean(), torch.tensor(torch.pi).sqrt() / 2, atol=0.05, rtol=0
        )


def test_level_tells_a_gain_and_hardly_another_noise():
    """Of noise against noise 6 dB louder it is that, in nepers squared."""
    distance = MultiScaleSpectra(16_000, (256, 1024), 40, torch.device("cpu"))
    one, other = torch.randn(2, 4, 64_000) * 0.1
    found = [distance(other * g, one, frozenset({"level"}))["level"].item() for g in (0.5, 1, 2)]
    assert found[1] < 0.03
    assert found[0] == pytest.approx(found[2], rel=0.2) == pytest.approx(0.48, rel=0.1)


def test_unknown_codec_settings_are_named():
    with pytest.raises(OptionError, match="decoder_widht.*expected some of: n_fft, decoder_width"):
        build_codec(read_recipe("default").model, {"decoder_widht": 8})
    with pytest.raises(OptionError, match="code_dim is 8, expected 288"):
        build_codec(msgspec.structs.replace(read_recipe("default").model, code_dim=8))
    with pytest.raises(OptionError, match="ratio.*expected some of: encoder_width, decoder_width"):
        build_codec(read_recipe("vab-dac").model, {"ratio": 8})
