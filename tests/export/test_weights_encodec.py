"""EnCodec's weights as audiocraft and as transformers keep them: the same tokens and sound."""

import sys
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the exporter needs the extra `export`")
pytest.importorskip("transformers", reason="the owner of one of the layouts")

import json

import msgspec
from checkpoints import tiny_config
from weight_files import XP_CFG, Payload, audiocraft_state, owned_encodec, sweep, write_audiocraft

from export.weights.encodec import facts_at, read_encodec, read_yaml
from training.codecs.codec import build_codec
from vab_rt.errors import BackendError, ExportError

NESTED = "a: &a [1]\n" + "".join(f"{b}: &{b} [{f'*{a}, ' * 9}]\n" for a, b in pairwise("abcdefghi"))
NESTED += "seanet: {n_filters: *i, ratios: *i, lstm: *i}"  # 9 to the 8th, written out
CONFIG = tiny_config(codec="encodec", num_codebooks=3, codebook_size=32, code_dim=16)


@pytest.fixture(scope="module")
def owner():
    """transformers' EncodecModel of AudioGen's shape, small, whose codes lie where latents do."""
    model = owned_encodec()
    with torch.no_grad():
        residual = model.encoder(sweep(CONFIG, 4)[:, None]).transpose(1, 2).flatten(0, 1)
        for layer in model.quantizer.layers:
            codes = residual[torch.randperm(len(residual))[:32]]
            layer.codebook.embed.copy_(codes)
            residual = residual - codes[torch.cdist(residual, codes).argmin(1)]
    return model


@pytest.fixture(scope="module")
def folder(owner, tmp_path_factory):
    path = tmp_path_factory.mktemp("transformers") / "encodec"
    owner.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def file(owner, tmp_path_factory):
    path = tmp_path_factory.mktemp("audiocraft") / "compression_state_dict.bin"
    return write_audiocraft(path, owner.state_dict())


@torch.no_grad()
def check_parity(part, owner):
    codec = build_codec(CONFIG, part.settings)
    codec.load_state_dict(part.weights)
    codec.eval()
    audio = sweep(CONFIG)
    encoded = owner.encode(audio[:, None], bandwidth=0.75)
    codes = encoded.audio_codes  # [1, B, K, T]
    tokens = codec.encode(audio)
    assert torch.equal(tokens, codes[0].int()) and len(tokens.unique()) > 20
    sound = owner.decode(codes, encoded.audio_scales).audio_values[:, 0]
    found = codec.decode(tokens)
    assert found.shape == sound.shape == (2, CONFIG.num_samples) and sound.abs().max() > 1e-3
    assert (found - sound).abs().max() < 1e-4


def test_a_folder_of_transformers(owner, folder):
    part = read_encodec(folder, CONFIG)
    assert part.settings == {"num_filters": 4, "ratios": [8, 5, 4, 2], "lstm_layers": 2}
    assert "encodec, imported from model.safetensors, sha256 " in part.source
    check_parity(part, owner)


def test_a_folder_with_a_pickle(owner, folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(owner.state_dict(), tmp_path / "pytorch_model.bin")
    check_parity(read_encodec(tmp_path, CONFIG), owner)


def test_the_file_of_audiocraft(owner, file):
    check_parity(read_encodec(file, CONFIG), owner)
    check_parity(read_encodec(file.parent, CONFIG), owner)  # the folder of a hub that holds it


def test_what_older_versions_write(owner, tmp_path):
    path = tmp_path / "old.bin"
    state = OrderedDict(audiocraft_state(owner.state_dict()))
    content = {"best_state": state, "xp.cfg": XP_CFG}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    check_parity(read_encodec(path, CONFIG), owner)


def test_every_tensor_is_accounted_for(owner, tmp_path):
    state = audiocraft_state(owner.state_dict())
    lost = "encoder.model.0.conv.conv.bias"
    wrong = "quantizer.vq.layers.2._codebook.embed"
    broken = "decoder.model.0.conv.conv.weight_g"
    changed = {n: t for n, t in state.items() if n != lost} | {
        wrong: torch.zeros(64, 16),
        broken: state[broken] * float("nan"),
        "encoder.extra": torch.zeros(1),
    }
    path = write_audiocraft(tmp_path / "x.bin", owner.state_dict(), best_state=changed)
    with pytest.raises(ExportError) as error:
        read_encodec(path, CONFIG)
    for part in (
        f"missing: {lost}",
        "unexpected: encoder.extra",
        f"of another shape: {wrong} [64, 16] instead of [32, 16]",
        f"not finite: {broken}",
        "expected its 112 tensors and no other",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_that_hold_something_else(owner, tmp_path):
    """Quantised, sparse or without values: never taken for floats."""
    state = audiocraft_state(owner.state_dict())
    name = "encoder.model.0.conv.conv.bias"
    bias = state[name]
    for odd, said in [
        (bias.to(torch.int8), "int8 strided cpu"),
        (bias.to(torch.float8_e4m3fn), "float8_e4m3fn strided cpu"),
        (bias.to_sparse(), "float32 sparse_coo cpu"),
        (bias.to("meta"), "float32 strided meta"),
        (bias.to(torch.complex64), "complex64 strided cpu"),
    ]:
        path = write_audiocraft(tmp_path / "x", owner.state_dict(), best_state=state | {name: odd})
        with pytest.raises(ExportError, match=f"model of --config: of another type: {name} {said}"):
            read_encodec(path, CONFIG)


def test_names_are_told_as_transformers_has_them(folder, owner, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    state = owner.state_dict()
    state.pop("decoder.layers.3.conv.bias")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"missing: decoder.layers.3.conv.bias; expected"):
        read_encodec(tmp_path, CONFIG)


def test_a_config_of_another_model(owner, folder, file, tmp_path):
    with pytest.raises(ExportError, match=r"rvq.n_q is 3, expected 4, rvq.bins is 32, expected 64"):
        read_encodec(file, msgspec.structs.replace(CONFIG, num_codebooks=4, codebook_size=64))
    causal = XP_CFG.replace("causal: false", "causal: true")
    path = write_audiocraft(tmp_path / "x.bin", owner.state_dict(), **{"xp.cfg": causal})
    with pytest.raises(ExportError, match="encodec.causal is True, expected False, seanet.causal"):
        read_encodec(path, CONFIG)
    other_decoder = XP_CFG.replace("    trim_right_ratio: 1.0", "    pad_mode: reflect")
    path = write_audiocraft(tmp_path / "x.bin", owner.state_dict(), **{"xp.cfg": other_decoder})
    with pytest.raises(ExportError, match="seanet.decoder.pad_mode is 'reflect', expected 'const"):
        read_encodec(path, CONFIG)
    facts = json.loads((folder / "config.json").read_text())
    for change, message in [
        ({"pad_mode": "reflect"}, "pad_mode is 'reflect', expected 'constant'"),
        ({"sampling_rate": 24000}, "sampling_rate is 24000, expected 16000"),
        ({"model_type": "dac"}, "model_type is 'dac', expected 'encodec'"),
        ({"num_filters": "4"}, "are '4', .* expected a number, a list of numbers and a number"),
        ({"num_filters": -4}, "are -4, .* from 1 to 4096"),
        ({"upsampling_ratios": [-8, -5, 4, 2]}, r"are 4, \[-8, -5, 4, 2\], 2, expected"),
        ({"upsampling_ratios": [1] * 60 + [320]}, r"are 4, \[1, 1, .*\.\.\.\], 2, expected"),
        ({"num_lstm_layers": 10**9}, "1000000000, expected"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(facts | change))
        with pytest.raises(ExportError, match=message):
            read_encodec(tmp_path, CONFIG)
    with pytest.raises(ExportError, match="has the codec spectral, expected encodec"):
        read_encodec(file, tiny_config())


def test_a_pickle_with_code_is_refused_and_not_run(owner, tmp_path):
    path = tmp_path / "x.bin"
    for change in ({"xp.cfg": Payload(tmp_path / "ran")}, {"more": Payload(tmp_path / "ran")}):
        write_audiocraft(path, owner.state_dict(), **change)
        with pytest.raises(ExportError, match=r"holds \S+, which only running .* nothing was"):
            read_encodec(path, CONFIG)
    assert not (tmp_path / "ran").exists()


def test_half_a_file(file, folder, tmp_path):
    path = tmp_path / "half.bin"
    path.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ExportError, match=r"cannot be read as torch \(.*copy it again"):
        read_encodec(path, CONFIG)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    half = (folder / "model.safetensors").read_bytes()[:5000]
    (tmp_path / "model.safetensors").write_bytes(half)
    with pytest.raises(ExportError, match=r"cannot be read as safetensors \("):
        read_encodec(tmp_path, CONFIG)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ExportError, match=r"config.json cannot be read as JSON \("):
        read_encodec(tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pretrained": "facebook/encodec_32khz"}, "only names another model, 'facebook/encodec_"),
        ({"best_state": {}, "x": 1}, "holds 'best_state', 'x', expected 'best_state' and 'xp.cfg'"),
        ({"best_state": {}, "xp.cfg": {}}, "xp.cfg is a dict, expected YAML"),
        ({"best_state": {}, "xp.cfg": "a: [1"}, "xp.cfg is not YAML"),
        ({"best_state": {}, "xp.cfg": "a: 2024-13-45"}, r"xp.cfg is not YAML \(month must be in"),
        (
            {"best_state": {}, "xp.cfg": NESTED},
            r"seanet.n_filters, .*\[\[\.\.\.\], .* expected a num",
        ),
        ({"best_state": {}, "xp.cfg": "a: 1"}, r"seanet.n_filters, \S+ \S+ are None, None, None"),
        ({"best_state": {}, "xp.cfg": XP_CFG}, "best_state holds no names with tensors"),
        ({"best_state": {"x": "y"}, "xp.cfg": XP_CFG}, "best_state holds a str under 'x'"),
        (torch.zeros(1), "holds a Tensor, expected names and values in a dict"),
    ],
)
def test_files_of_something_else(tmp_path, content, message):
    path = tmp_path / "x.bin"
    torch.save(content, path)
    with pytest.raises(ExportError, match=message):
        read_encodec(path, CONFIG)


def test_nothing_there(tmp_path):
    with pytest.raises(
        ExportError, match=r"x.bin is not there, expected audiocraft's compression_"
    ):
        read_encodec(tmp_path / "x.bin", CONFIG)
    with pytest.raises(ExportError, match=r"holds none of config.json, expected one of them"):
        read_encodec(tmp_path, CONFIG)


def test_what_is_no_config(folder, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ExportError, match=r"config.json holds a list, expected a JSON object"):
        read_encodec(tmp_path, CONFIG)
    monkeypatch.setattr("export.weights.reading.MAX_JSON_BYTES", 10)
    with pytest.raises(ExportError, match=r"config.json cannot be read as JSON \(\d+ bytes\)"):
        read_encodec(folder, CONFIG)


def test_without_the_libraries(folder, file, monkeypatch):
    for name, source in (("yaml", file), ("transformers", folder)):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            with pytest.raises(
                BackendError, match=r"install it with: pip install 'vab-rt\[export\]"
            ):
                read_encodec(source, CONFIG)


def test_references_are_followed_and_never_for_ever():
    content = read_yaml(Path("x"), "a: ${b.c}\nb: {c: '${d}'}\nd: 7\ne: ${f}\nf: ${e}\ng: ${h}")
    assert facts_at(content, ["a", "d", "b.c", "e", "g", "a.x", "z"]) == {"a": 7, "b.c": 7, "d": 7}
