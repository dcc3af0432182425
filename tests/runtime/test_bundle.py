"""A sound bundle opens; every way of damaging one is refused with what to do about it."""

import json
import os
from pathlib import Path

import msgspec
import pytest
from tiny_bundle import RUNTIME_GRAPHS, make_bundle, tiny_config

from vab_rt import bundle as bundle_module
from vab_rt.bundle import open_bundle, shipped_models
from vab_rt.contract import contract_of
from vab_rt.errors import BundleError


def edit(folder: Path, *path: str | int, to: object) -> Path:
    """Set one value of the manifest; `to=None` removes the key."""
    manifest = folder / "vab.json"
    content = json.loads(manifest.read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    manifest.write_text(json.dumps(content))
    return folder


def refuse(folder: Path, *parts: str) -> None:
    """Opening and reading must fail, naming what was found, what was expected and what to do."""
    with pytest.raises(BundleError) as caught:
        bundle = open_bundle(folder)
        bundle.verify()
    message = str(caught.value)
    assert "\n" not in message and "expected" in message
    assert any(hint in message for hint in ("export the model", "copy", "upgrade", "check", "use"))
    for part in parts:
        assert part in message


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_a_sound_bundle(tiny_bundle):
    bundle = open_bundle(str(tiny_bundle))  # a string names a folder too
    assert bundle.config == tiny_config()
    assert bundle.manifest.license == "Apache-2.0"
    assert bundle.manifest.provenance == {"made_by": "tests/tiny_bundle.py"}
    for name in RUNTIME_GRAPHS:
        assert bundle.read_graph(name) == (tiny_bundle / f"{name}.onnx").read_bytes()
        assert bundle.manifest.graphs[name].contract == contract_of(tiny_config())[name]
    bundle.verify()


def test_the_manifest_reads_back_as_written(tiny_bundle):
    content = json.loads((tiny_bundle / "vab.json").read_text())
    assert content["format_version"] == 1 and content["kind"] == "vab"
    assert list(content["graphs"]) == list(RUNTIME_GRAPHS)
    assert msgspec.convert(content["model"], type(tiny_config())) == tiny_config()


def test_the_old_name_of_a_key_is_read(bundle_copy):
    edit(bundle_copy, "license", to=None)
    edit(bundle_copy, "licence", to="MIT")
    assert open_bundle(bundle_copy).manifest.license == "MIT"
    edit(bundle_copy, "license", to="MIT")
    refuse(bundle_copy, "unknown field `licence`")


def test_the_same_seed_makes_the_same_bytes(tiny_bundle, tmp_path):
    again = make_bundle(tmp_path / "again")
    for path in tiny_bundle.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_what_is_no_bundle(tiny_bundle, tmp_path):
    refuse(tmp_path / "none", "none is not there", "shipped model")
    refuse(tiny_bundle / "vab.json", "is a file", "bundle folder")
    refuse(tmp_path, "holds no vab.json")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"not json",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe\x00",
        b'{"format_version": "1"}',
        b'{"format_version": 1.5}',
        b'{"a": ' + b"[" * 100_000,
    ],
)
def test_what_is_no_manifest(bundle_copy, content):
    (bundle_copy / "vab.json").write_bytes(content)
    refuse(bundle_copy, "vab.json is not a manifest")


TENSOR = ["graphs", "backbone", "contract", "inputs", 1]


@pytest.mark.parametrize(
    ("path", "to", "parts"),
    [
        (["format_version"], 2, ["format_version 2, expected 1", "pip install --upgrade"]),
        (["format_version"], 0, ["format_version 0, expected 1", "export"]),
        # An unknown key is named with the allowed ones.
        (["extra"], 1, ["unknown field `extra`", "format_version, kind, model"]),
        (["model", "extra"], 1, ["unknown field `extra`", "image_size"]),
        (["graphs", "backbone", "extra"], 1, ["unknown field `extra`", "file, contract"]),
        (["graphs", "backbone", "contract", "extra"], 1, ["`extra`", "inputs, outputs"]),
        ([*TENSOR, "extra"], 1, ["unknown field `extra`", "name, dtype, shape"]),
        (["files", "backbone.onnx", "extra"], 1, ["unknown field `extra`", "size_bytes, sha256"]),
        # A missing key is named.
        (["kind"], None, ["kind None", "one of vab"]),
        (["license"], None, ["missing required field `license`"]),
        (["provenance"], None, ["missing required field `provenance`"]),
        (["model", "width"], None, ["missing required field `width`"]),
        (["files", "backbone.onnx", "sha256"], None, ["missing required field `sha256`"]),
        *[(["graphs", name], None, [f"no graph {name}"]) for name in RUNTIME_GRAPHS],
        # A wrong value is named with what fits.
        (["kind"], "tts", ["'tts'", "one of vab"]),
        (["kind"], 1, ["kind 1", "one of vab"]),
        (["model", "codec"], "mp3", ["'mp3'", "encodec, dac, spectral"]),
        (["model", "width"], "8", ["$.model.width"]),
        (["model", "width"], 0, ["width is 0", "vab.json"]),
        (["precision"], "fp4", ["'fp4'", "one of fp32, int8"]),
        (["provenance", "made_by"], 3, ["$.provenance"]),
        (["files", "backbone.onnx", "size_bytes"], 0, ["size_bytes 0"]),
        (["files", "backbone.onnx", "sha256"], "00", ["sha256 '00'", "64 hexadecimal"]),
        (["files", "backbone.onnx", "sha256"], "A" * 64, ["64 hexadecimal"]),
        (["graphs", "backbone", "file"], "other.onnx", ["'other.onnx'", "listed under files"]),
        (["model", "codebook_size"], 32, ["contract of graph backbone"]),
    ],
)
def test_a_manifest_that_does_not_fit(bundle_copy, path, to, parts):
    if path == ["format_version"]:
        edit(bundle_copy, "future_key", to=1)  # which another version may have
    refuse(edit(bundle_copy, *path, to=to), "vab.json", *parts)


def test_a_graph_that_nobody_knows(bundle_copy):
    graph = json.loads((bundle_copy / "vab.json").read_text())["graphs"]["backbone"]
    refuse(edit(bundle_copy, "graphs", "vocoder", to=graph), "'vocoder'", "codec_encoder")


@pytest.mark.parametrize(
    "name",
    ["../backbone.onnx", "/etc/passwd", "a/b.onnx", "a\\b", "..", ".", ".hidden", "", "vab.json",
     "a.onnx\n", "C:x", "é.onnx"],
)  # fmt: skip
def test_a_path_that_leaves_the_folder(bundle_copy, name):
    files = json.loads((bundle_copy / "vab.json").read_text())["files"]
    edit(bundle_copy, "files", to=files | {name: files["backbone.onnx"]})
    refuse(bundle_copy, repr(name), "inside the folder")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lead_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.parent / "none")


@pytest.mark.parametrize(
    ("file", "damage", "parts"),
    [
        ("vab.json", lambda path: os.truncate(path, path.stat().st_size - 40),
         ["is not a manifest", "truncated"]),
        ("vab.json", lambda path: append(path, b" " * 1_000_000), ["at most 1000000"]),
        ("backbone.onnx", Path.unlink, ["backbone.onnx cannot be found"]),
        ("backbone.onnx", lead_nowhere, ["backbone.onnx cannot be found"]),
        ("backbone.onnx", become_a_folder, ["backbone.onnx is not a regular file"]),
        ("backbone.onnx", lambda path: append(path, b"x"), ["backbone.onnx has", "bytes, expe"]),
        ("codec_decoder.onnx", lambda path: flip(path, 100),
         ["codec_decoder.onnx has the sha256", "changed or damaged"]),
    ],
)  # fmt: skip
def test_a_damaged_file(bundle_copy, file, damage, parts):
    damage(bundle_copy / file)
    refuse(bundle_copy, *parts)


@pytest.mark.parametrize("name", ["backbone.onnx", "vab.json"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_linked_files_are_files(bundle_copy, tmp_path, name, link):
    """As caches, package installers and `cp -al` make them; what is hashed is where they lead."""
    (bundle_copy / name).rename(tmp_path / name)
    link(tmp_path / name, bundle_copy / name)
    bundle = open_bundle(bundle_copy)
    bundle.verify()
    flip(tmp_path / name, -1)
    if name == "backbone.onnx":
        refuse(bundle_copy, "backbone.onnx has the sha256", "changed or damaged")


def test_a_link_to_a_bundle(tiny_bundle, tmp_path):
    (tmp_path / "link").symlink_to(tiny_bundle, target_is_directory=True)
    open_bundle(tmp_path / "link").verify()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(lambda path: append(path, b"x"), "sha256"), (Path.unlink, "cannot be read")],
)
def test_a_file_that_changes_after_it_was_checked(bundle_copy, damage, message):
    bundle = open_bundle(bundle_copy)
    damage(bundle_copy / "backbone.onnx")
    with pytest.raises(BundleError, match=message):
        bundle.read_graph("backbone")


def test_other_files_may_be_listed_and_are_verified(bundle_copy):
    (bundle_copy / "NOTICE").write_text("thanks")
    edit(bundle_copy, "files", "NOTICE", to={"size_bytes": 6, "sha256": "1" * 64})
    open_bundle(bundle_copy)
    refuse(bundle_copy, "NOTICE has the sha256", "1" * 64)


def test_shipped_models_are_found_by_name(bundle_copy, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, "_shipped", lambda: tmp_path)
    assert shipped_models() == ["copy"]
    assert open_bundle("copy").folder == bundle_copy
    with pytest.raises(BundleError, match="model default is not there.*[(]copy[)]"):
        open_bundle()


@pytest.mark.parametrize(
    ("name", "reason"), [("n" * 300, "File name too long"), ("a\0b", "null (byte|character)")]
)
def test_a_name_that_cannot_be_one(name, reason):
    message = rf"is unusable \(.*{reason}.*\), expected a bundle folder or a shipped .*; check"
    with pytest.raises(BundleError, match=message):
        open_bundle(name)


@pytest.mark.parametrize(("call", "what"), [("open", "read"), ("stat", "found")])
def test_what_a_user_has_no_rights_to(tiny_bundle, monkeypatch, call, what):
    """Refused by a stand-in: root, who may run the tests, is refused nothing."""
    original = getattr(Path, call)

    def refused(path, *words, **more):
        if path.name == "vab.json":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *words, **more)

    monkeypatch.setattr(Path, call, refused)
    refuse(tiny_bundle, f"vab.json cannot be {what} (Permission denied)")
