"""Weights that a bundle names and does not hold: found, hashed, read and handed to the graph."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from outside_weights import FILE, TENSOR, install, make_outside_bundle, safetensors

from vab_rt.bundle import open_bundle
from vab_rt.engines import open_engines
from vab_rt.errors import BundleError
from vab_rt.torch_file import Unreadable
from vab_rt.weights import VARIABLE, read_safetensors

PACKAGE = {"package": "tiny-weights", "version": "1.0", "file": f"tiny_weights/{FILE}"}
FRAMES = np.random.default_rng(0).integers(256, size=(3, 8, 8, 3), dtype=np.uint8)


def features(folder: Path) -> np.ndarray:
    return open_engines(open_bundle(folder), "cpu", threads=1)["visual_encoder"](frames=FRAMES)


def refuse(folder: Path, *parts: str) -> None:
    with pytest.raises(BundleError) as caught:
        open_bundle(folder).verify()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("place", ["inside", "beside", "named"])
def test_a_file_of_ones_own_gives_the_same_features(tiny_bundle, tmp_path, monkeypatch, place):
    weights = make_outside_bundle(tmp_path / "bundle")
    folder = {"inside": tmp_path / "bundle", "beside": tmp_path, "named": tmp_path / "far"}[place]
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(safetensors(weights))
    if place == "named":
        monkeypatch.setenv(VARIABLE, str(folder))
    assert np.array_equal(features(tmp_path / "bundle"), features(tiny_bundle))


def test_a_file_of_a_package_is_read_without_importing_it(tiny_bundle, tmp_path, monkeypatch):
    weights = make_outside_bundle(tmp_path / "bundle", **PACKAGE)
    refuse(
        tmp_path / "bundle", "tiny-weights, which is not installed", "pip install tiny-weights==1.0"
    )
    install(tmp_path / "site", "tiny-weights", "1.0", PACKAGE["file"], safetensors(weights))
    (tmp_path / "site/tiny_weights/__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert np.array_equal(features(tmp_path / "bundle"), features(tiny_bundle))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_another_file_of_the_package_says_what_to_install(tmp_path, monkeypatch, version):
    weights = make_outside_bundle(tmp_path / "bundle", **PACKAGE)
    changed = safetensors(weights | {TENSOR: weights[TENSOR] + 1})
    install(tmp_path / "site", "tiny-weights", version, PACKAGE["file"], changed)
    monkeypatch.syspath_prepend(tmp_path / "site")
    there = [] if version == "1.0" else ["there is 2.0"]
    advice = "pip install --force-reinstall tiny-weights==1.0"
    refuse(tmp_path / "bundle", "cut short, changed or another", advice, *there)
    (tmp_path / "site" / PACKAGE["file"]).unlink()
    refuse(tmp_path / "bundle", "cannot be read (No such file", advice)


def test_a_cut_or_changed_file_is_told_at_every_byte(tmp_path):
    weights = make_outside_bundle(tmp_path / "bundle")
    path, whole = tmp_path / FILE, safetensors(weights)
    refuse(tmp_path / "bundle", "is in none of", FILE, VARIABLE)
    for content in (whole[:-1], whole + b"\0", whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        path.write_bytes(content)
        refuse(tmp_path / "bundle", "cut short, changed or another", VARIABLE)
    path.unlink()
    path.mkdir()
    refuse(tmp_path / "bundle", "is in none of")


def test_a_bundle_whose_weights_are_missing_still_says_what_it_is(tmp_path):
    make_outside_bundle(tmp_path / "bundle", **PACKAGE)
    assert open_bundle(tmp_path / "bundle").config.name == "tiny"


def test_a_tensor_that_the_file_does_not_have_is_named(tmp_path):
    weights = make_outside_bundle(tmp_path / "bundle")
    (tmp_path / FILE).write_bytes(safetensors(weights))
    change_manifest(tmp_path / "bundle", "graphs", "visual_encoder", "weights", theirs=["lost"])
    refuse(tmp_path / "bundle", "has no tensor lost")


def test_a_tensor_that_the_graph_does_not_lack_is_one_line(tmp_path):
    weights = make_outside_bundle(tmp_path / "bundle")
    (tmp_path / FILE).write_bytes(safetensors(weights))
    names = ["other", TENSOR]
    change_manifest(tmp_path / "bundle", "graphs", "visual_encoder", "weights", theirs=names)
    with pytest.raises(BundleError, match="graph visual_encoder of .* cannot be loaded"):
        features(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"file": "../secret"}, "the file '../secret'"),
        ({"file": "/etc/passwd"}, "the file '/etc/passwd'"),
        ({"file": "deeper/mine.bin"}, "the file 'deeper/mine.bin'"),
        ({**PACKAGE, "file": "a/../../b"}, "the file 'a/../../b'"),
        ({"file": ".hidden"}, "the file '.hidden'"),
        ({"package": "tiny-weights"}, "expected both or none"),
        ({**PACKAGE, "package": "tiny --pre"}, "expected the name or version of a package"),
        ({**PACKAGE, "version": "1;2"}, "expected the name or version of a package"),
        ({"sha256": "0" * 63}, "sha256"),
        ({"size_bytes": 0}, "size_bytes 0"),
        ({"format": "pickle"}, "expected one of torch, safetensors"),
        ({"url": "https://example.org"}, "expected the keys package, version, file"),
    ],
)
def test_an_entry_that_names_no_plain_file_is_refused(tmp_path, entry, message):
    make_outside_bundle(tmp_path / "bundle")
    change_manifest(tmp_path / "bundle", "weights", "theirs", **entry)
    refuse(tmp_path / "bundle", message)


def test_a_graph_that_refers_to_no_entry_is_refused(tmp_path):
    make_outside_bundle(tmp_path / "bundle")
    change_manifest(tmp_path / "bundle", "graphs", "visual_encoder", "weights", ours=["x"])
    refuse(tmp_path / "bundle", "needs the weights 'ours', expected one of theirs")


def change_manifest(folder: Path, *keys: str, **changes: object) -> None:
    content = json.loads((folder / "vab.json").read_text())
    place = content
    for key in keys:
        place = place[key]
    place |= changes
    (folder / "vab.json").write_text(json.dumps(content))


def test_nothing_of_it_is_loaded_by_a_bundle_that_holds_all(tiny_bundle):
    code = (
        "import sys\nfrom vab_rt.bundle import open_bundle\n"
        "from vab_rt.engines import open_engines\n"
        "open_engines(open_bundle(sys.argv[1]), 'cpu', 1)\n"
        "assert not {'vab_rt.weights', 'vab_rt.torch_file'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_bundle)], check=True)


def header(text: str, data: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        header("[]"),
        header("{}")[:-1],
        header('{"w": 3}'),
        header('{"w": {"dtype": "F32", "shape": [2]}}', bytes(8)),
        header('{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', bytes(7)),
        header('{"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', bytes(8)),
        header('{"w": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}', bytes(8)),
        header('{"w": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}}', bytes(8)),
        header('{"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}', bytes(8)),
        header('{"w": {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}}', bytes(8)),
        header("[" * 100_000),
    ],
)
def test_a_damaged_safetensors_file_is_one_known_error(content):
    with pytest.raises(Unreadable):
        read_safetensors(content)


def test_what_numpy_has_no_type_for_is_left_out():
    text = '{"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
    assert read_safetensors(header(text, bytes(4))) == {}
