"""DAC behind the codecs' contract: tokens, latents and sound are those of DacModel."""

import sys

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("transformers", reason="the codec dac needs transformers")

import msgspec
from checkpoints import tiny_config
from weight_files import owned_dac, sweep

from training.codecs.codec import build_codec
from training.configs import read_recipe
from vab_rt.errors import BackendError, OptionError

SETTINGS = {"encoder_width": 4, "decoder_width": 32, "ratios": [2, 4, 5, 8]}
SHORT = 8  # samples that the stride of 5 takes off DacModel's end, times the strides after it
CONFIG = tiny_config(codec="dac", num_codebooks=5, codebook_size=32, code_dim=8)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    return build_codec(CONFIG, SETTINGS).eval()


@pytest.fixture(scope="module")
def owner(codec):
    """DacModel itself, with the same weights."""
    model = owned_dac()
    model.load_state_dict(codec.state_dict())
    return model


@pytest.fixture(scope="module")
def audio():
    return sweep(CONFIG)


def seeded():
    return torch.Generator().manual_seed(1)


@torch.no_grad()
def test_tokens_latents_and_sound_are_those_of_dacmodel(codec, owner, audio):
    theirs = owner.encode(audio[:, None]).audio_codes  # [B, K, T]
    tokens = codec.encode(audio)
    assert tokens.dtype == torch.int32 and tokens.shape == (2, 5, CONFIG.num_token_steps)
    assert torch.equal(tokens, theirs.int()) and len(tokens.unique()) > 20
    torch.testing.assert_close(codec.latents(audio).transpose(1, 2), owner.encoder(audio[:, None]))
    sound, expected = codec.decode(tokens), owner.decode(audio_codes=theirs).audio_values
    assert sound.shape == (2, CONFIG.num_samples)
    assert expected.shape[1] == CONFIG.num_samples - SHORT
    torch.testing.assert_close(sound[:, :-SHORT], expected, atol=1e-6, rtol=0)
    assert not sound[:, -SHORT:].any() and sound.std() > 1e-4


@torch.no_grad()
def test_the_first_levels_alone(codec, owner, audio):
    """Each level refines the ones before: fewer of them are the first tokens of all."""
    few = build_codec(msgspec.structs.replace(CONFIG, num_codebooks=2), SETTINGS).eval()
    few.load_state_dict({n: codec.state_dict()[n] for n in few.state_dict()})
    tokens = codec.encode(audio)
    assert torch.equal(few.encode(audio), tokens[:, :2])
    expected = owner.decode(audio_codes=tokens[:, :2].long()).audio_values
    for sound in (few.decode(tokens[:, :2]), codec.decode(tokens[:, :2])):
        torch.testing.assert_close(sound[:, :-SHORT], expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_nearest_code_is_the_token(codec, audio):
    tokens = codec.encode(audio)[0].long()  # [K, T]
    latents = codec.latents(audio)[0]  # [T, width]
    for k in range(CONFIG.num_codebooks):
        distances = codec.distances(latents, tokens[:k])
        assert distances.shape == (CONFIG.num_token_steps, CONFIG.codebook_size)
        assert (distances.argmin(1) == tokens[k]).float().mean() > 0.98  # but for equal ones


def test_training_moves_encoder_codes_and_decoder(codec, audio):
    output, losses = codec.reconstruct(audio, seeded(), 0.1, bfloat16=False)
    with torch.no_grad():
        expected = codec.decode(codec.encode(audio))
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    codec.zero_grad()
    (output.square().mean() + losses["commitment"]).backward()
    for weight in (
        codec.encoder.conv1.weight,
        codec.quantizer.quantizers[4].codebook.weight,
        codec.quantizer.quantizers[0].in_proj.weight,
        codec.decoder.conv2.weight,
    ):
        assert weight.grad is not None and weight.grad.abs().max() > 0
    codec.zero_grad()


def test_codebooks_begin_where_the_latents_are(audio):
    torch.manual_seed(0)
    built = build_codec(CONFIG, SETTINGS).eval()
    with torch.no_grad():
        latents = built.latents(audio).flatten(0, 1)
        none = torch.zeros(0, len(latents), dtype=torch.long)
        before = built.distances(latents, none).amin(1).mean()
        list(built.fit(latents))
        assert built.distances(latents, none).amin(1).mean() < 0.6 * before


def test_the_papers_size():
    """76 M parameters at 16 kHz (descript's model card), in 12 levels; VAB-DAC has the first 4."""
    fine = read_recipe("vab-dac-coarse2fine").model
    with torch.device("meta"):
        codec, coarse = build_codec(fine), build_codec(read_recipe("vab-dac").model)
    assert codec.codebooks.shape == (12, 1024, 8) and coarse.codebooks.shape == (4, 1024, 8)
    assert codec.encoder.conv2.out_channels == 1024
    assert 70e6 < sum(p.numel() for p in codec.parameters()) < 80e6


def test_sizes_that_do_not_go_together(monkeypatch):
    with pytest.raises(OptionError, match=r"ratios \(2, 4, 8, 8\) multiply to 512, expected the"):
        build_codec(CONFIG, {"ratios": [2, 4, 8, 8]})
    with pytest.raises(OptionError, match="codebook_size is 37, expected a power of 2"):
        build_codec(msgspec.structs.replace(CONFIG, codebook_size=37), SETTINGS)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        BackendError, match=r"expected transformers.*pip install 'vab-rt\[export\]'"
    ):
        build_codec(CONFIG, SETTINGS)
