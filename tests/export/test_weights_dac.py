"""DAC's weights as descript and as transformers keep them: the same tokens and sound."""

import json

import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the extra `export`")
transformers = pytest.importorskip("transformers", reason="the owner of one of the layouts")

import msgspec
from checkpoints import tiny_config
from torch.nn import functional as F
from weight_files import DescriptDac, Payload, owned_dac, sweep, write_descript

from export.weights.dac import read_dac
from training.codecs.codec import build_codec
from vab_rt.errors import ExportError

CONFIG = tiny_config(codec="dac", num_codebooks=5, codebook_size=32, code_dim=8)
COARSE = msgspec.structs.replace(CONFIG, num_codebooks=2)
SHORT = 8  # samples that the decoder's stride of 5 takes off the end


@pytest.fixture(scope="module")
def owner():
    return owned_dac()


@pytest.fixture(scope="module")
def folder(owner, tmp_path_factory):
    path = tmp_path_factory.mktemp("transformers") / "dac"
    owner.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def descript():
    torch.manual_seed(0)
    return DescriptDac(4, 32, [2, 4, 5, 8], 5).eval()


@pytest.fixture(scope="module")
def file(descript, tmp_path_factory):
    path = tmp_path_factory.mktemp("descript") / "weights_16khz.pth"
    return write_descript(path, descript.state_dict())


def loaded(part, config):
    codec = build_codec(config, part.settings)
    codec.load_state_dict(part.weights)
    return codec.eval()


@torch.no_grad()
@pytest.mark.parametrize("config", [CONFIG, COARSE], ids=["all levels", "the first"])
def test_a_folder_of_transformers(owner, folder, config):
    part = read_dac(folder, config)
    assert f"the first {config.num_codebooks} of 5 levels, imported from model." in part.source
    codec, audio = loaded(part, config), sweep(CONFIG)
    codes = owner.encode(audio[:, None], n_quantizers=config.num_codebooks).audio_codes
    tokens = codec.encode(audio)
    assert torch.equal(tokens, codes.int()) and len(tokens.unique()) > 20
    sound = owner.decode(audio_codes=codes).audio_values
    assert (codec.decode(tokens)[:, :-SHORT] - sound).abs().max() < 1e-4


@torch.no_grad()
def test_weight_norm_kept_apart(owner, tmp_path):
    """As DacModel keeps it while it trains, in torch's newer spelling."""
    model = transformers.DacModel(owner.config).eval()
    model.load_state_dict(owner.state_dict())
    model.apply_weight_norm()
    assert any("parametrizations" in name for name in model.state_dict())
    (tmp_path / "config.json").write_text(json.dumps(owner.config.to_dict()))
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    codec, audio = loaded(read_dac(tmp_path, CONFIG), CONFIG), sweep(CONFIG)
    assert torch.equal(codec.encode(audio), model.encode(audio[:, None]).audio_codes.int())


@torch.no_grad()
def test_the_file_of_descript(descript, file):
    codec, audio = loaded(read_dac(file, CONFIG), CONFIG), sweep(CONFIG)
    residual, summed, expected = descript.encoder.block(audio[:, None]), 0, []
    for level in descript.quantizer.quantizers:  # dac/nn/quantize.py
        seen = level.in_proj(residual).transpose(1, 2)
        directions = F.normalize(level.codebook.weight)
        expected.append((F.normalize(seen, dim=2) @ directions.T).argmax(2))
        code = level.out_proj(level.codebook(expected[-1]).transpose(1, 2))
        residual, summed = residual - code, summed + code
    tokens = codec.encode(audio)
    assert torch.equal(tokens, torch.stack(expected, 1).int()) and len(tokens.unique()) > 10
    sound = descript.decoder.model(summed)[:, 0]
    assert sound.abs().max() > 1e-3
    assert (codec.decode(tokens)[:, :-SHORT] - sound).abs().max() < 1e-4


def test_every_tensor_is_accounted_for(descript, tmp_path):
    state = descript.state_dict()
    lost, wrong = "encoder.block.2.block.1.block.3.weight_g", "decoder.model.5.alpha"
    unknown = "discriminator.weight"
    changed = {n: t for n, t in state.items() if n != lost}
    changed |= {wrong: torch.zeros(1, 3, 1), unknown: torch.zeros(1)}
    with pytest.raises(ExportError) as error:
        read_dac(write_descript(tmp_path / "x.pth", changed), CONFIG)
    for part in (
        "missing: encoder.block.2.block.1.block.3.weight;",
        f"unexpected: encoder.block.2.block.1.block.3.weight_v, {unknown};",
        f"of another shape: {wrong} [1, 3, 1] instead of [1, 2, 1];",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 44100}, "sample_rate_hz is 44100, expected 16000"),
        ({"codebook_size": 64}, "codebook_size is 64, expected 32"),
        ({"decoder_rates": [8, 8, 4, 2]}, r"decoder_ratios is \[8, 8, 4, 2\], expected \[8, 5, 4"),
        ({"n_codebooks": 4}, "has 4 levels, expected at least the 5 codebooks of --config"),
        ({"codebook_dim": [8, 8]}, "Expected `int`, got `array`.*expected whole numbers"),
        ({"encoder_dim": -4}, r"Expected `int` >= 1 - at `\$.encoder_width`, .*from 1 to 4096"),
        ({"n_codebooks": 10**9}, "Expected `int` <= 4096.*expected whole numbers from 1 to 4096"),
        ({"encoder_rates": [-2, -4, 5, 8]}, "Expected `int` >= 1.*expected whole numbers"),
        ({"encoder_rates": [1] * 60 + [320]}, "Expected `array` of length <= 8"),
    ],
)
def test_a_file_of_another_model(descript, tmp_path, change, message):
    path = write_descript(tmp_path / "x.pth", descript.state_dict(), **change)
    with pytest.raises(ExportError, match=message):
        read_dac(path, CONFIG)


def test_weight_norm_that_does_not_fit_together(descript, tmp_path):
    """Of another shape, quantised, or beside the weight itself: told under the file's own names."""
    state, first = descript.state_dict(), "encoder.block.0.weight"
    for name, tensor in [
        (f"{first}_g", torch.ones(5, 1, 1)),
        (f"{first}_v", torch.tensor(1.0)),
        (f"{first}_v", state[f"{first}_v"].to(torch.int8)),
        (first, torch.ones(4, 1, 7)),
    ]:
        path = write_descript(tmp_path / "x.pth", state | {name: tensor})
        with pytest.raises(ExportError, match=rf"unexpected: {first}_g, {first}_v; expected"):
            read_dac(path, CONFIG)


def test_files_of_something_else(descript, folder, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(descript.state_dict(), path)
    with pytest.raises(ExportError, match="expected 'state_dict' and 'metadata' with 'kwargs'"):
        read_dac(path, CONFIG)
    with pytest.raises(ExportError, match=r"y.pth is not there, expected descript's .pth file"):
        read_dac(tmp_path / "y.pth", CONFIG)
    facts = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(facts | {"model_type": "encodec"}))
    with pytest.raises(ExportError, match="model_type is 'encodec', expected 'dac'"):
        read_dac(tmp_path, CONFIG)
    with pytest.raises(ExportError, match="has the codec spectral, expected dac"):
        read_dac(path, tiny_config())


def test_a_pickle_with_code_is_refused_and_not_run(descript, tmp_path):
    path = write_descript(tmp_path / "x.pth", descript.state_dict(), tag=Payload(tmp_path / "ran"))
    with pytest.raises(ExportError, match=r"holds \S+, which only running .* nothing was"):
        read_dac(path, CONFIG)
    assert not (tmp_path / "ran").exists()


def test_half_a_file(file, tmp_path):
    path = tmp_path / "half.pth"
    path.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ExportError, match=r"cannot be read as torch \("):
        read_dac(path, CONFIG)
