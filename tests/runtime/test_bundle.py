"""A sound bundle opens; every way of damaging one is refused with what to do about it."""

import json
import os
from pathlib import Path

import msgspec
import pytest
from tiny_bundle import make_bundle, tiny_config

from vab_rt import bundle as bundle_module
from vab_rt.bundle import open_bundle, shipped_models
from vab_rt.contract import RUNTIME_GRAPHS, contract_of
from vab_rt.errors import BundleError


def edit(folder: Path, *path: str, to: object) -> Path:
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


def test_a_sound_bundle(tiny_bundle):
    bundle = open_bundle(tiny_bundle)
    assert bundle.config == tiny_config()
    assert bundle.manifest.license == "Apache-2.0"
    assert bundle.manifest.provenance == {"made_by": "tests/tiny_bundle.py"}
    for name in RUNTIME_GRAPHS:
        assert bundle.read_graph(name) == (tiny_bundle / f"{name}.onnx").read_bytes()
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


def test_a_string_names_a_folder_too(tiny_bundle):
    assert open_bundle(str(tiny_bundle)).config.name == "tiny"


def test_a_missing_folder(tmp_path):
    refuse(tmp_path / "none", "none is not there", "shipped model")


def test_a_file_instead_of_a_folder(tiny_bundle):
    refuse(tiny_bundle / "vab.json", "is a file", "bundle folder")


def test_a_folder_without_a_manifest(tmp_path):
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


def test_a_truncated_manifest(bundle_copy):
    path = bundle_copy / "vab.json"
    path.write_bytes(path.read_bytes()[:-40])
    refuse(bundle_copy, "is not a manifest", "truncated")


def test_a_manifest_of_absurd_size(bundle_copy):
    with (bundle_copy / "vab.json").open("ab") as file:
        file.write(b" " * 1_000_000)
    refuse(bundle_copy, "at most 1000000")


@pytest.mark.parametrize(("version", "hint"), [(2, "pip install --upgrade"), (0, "export")])
def test_another_format_version(bundle_copy, version, hint):
    edit(bundle_copy, "future_key", to="anything")
    edit(bundle_copy, "format_version", to=version)
    refuse(bundle_copy, f"format_version {version}, expected 1", hint)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (["extra"], "format_version, kind, model"),
        (["model", "extra"], "image_size"),
        (["graphs", "backbone", "extra"], "file, contract"),
        (["graphs", "backbone", "contract", "extra"], "inputs, outputs"),
        (["files", "backbone.onnx", "extra"], "size_bytes, sha256"),
    ],
)
def test_an_unknown_key_is_named_with_the_allowed_ones(bundle_copy, path, allowed):
    edit(bundle_copy, *path, to=1)
    refuse(bundle_copy, "vab.json", "unknown field `extra`", allowed)


def test_an_unknown_key_of_a_tensor(bundle_copy):
    content = json.loads((bundle_copy / "vab.json").read_text())
    content["graphs"]["backbone"]["contract"]["inputs"][1]["extra"] = 1
    (bundle_copy / "vab.json").write_text(json.dumps(content))
    refuse(bundle_copy, "unknown field `extra`", "name, dtype, shape")


@pytest.mark.parametrize(
    "path",
    [
        ["license"],
        ["provenance"],
        ["model", "width"],
        ["files", "backbone.onnx", "sha256"],
    ],
)
def test_a_missing_key_is_named(bundle_copy, path):
    edit(bundle_copy, *path, to=None)
    refuse(bundle_copy, f"missing required field `{path[-1]}`")


@pytest.mark.parametrize(
    ("path", "bad", "parts"),
    [
        (["kind"], "tts", ["'tts'", "one of vab"]),
        (["kind"], 1, ["kind 1", "one of vab"]),
        (["kind"], None, ["kind None", "one of vab"]),
        (["model", "codec"], "mp3", ["'mp3'", "encodec, dac, spectral"]),
        (["model", "width"], "8", ["$.model.width"]),
        (["model", "width"], 0, ["width is 0", "vab.json"]),
        (["precision"], "fp4", ["'fp4'", "one of fp32, int8"]),
        (["provenance", "made_by"], 3, ["$.provenance"]),
        (["files", "backbone.onnx", "size_bytes"], 0, ["size_bytes 0"]),
        (["files", "backbone.onnx", "sha256"], "00", ["sha256 '00'", "64 hexadecimal"]),
        (["files", "backbone.onnx", "sha256"], "A" * 64, ["64 hexadecimal"]),
    ],
)
def test_a_wrong_value_is_named_with_what_fits(bundle_copy, path, bad, parts):
    edit(bundle_copy, *path, to=bad)
    refuse(bundle_copy, *parts)


@pytest.mark.parametrize("name", RUNTIME_GRAPHS)
def test_a_graph_missing_from_the_manifest(bundle_copy, name):
    edit(bundle_copy, "graphs", name, to=None)
    refuse(bundle_copy, f"no graph {name}")


def test_a_graph_that_nobody_knows(bundle_copy):
    graph = json.loads((bundle_copy / "vab.json").read_text())["graphs"]["backbone"]
    edit(bundle_copy, "graphs", "vocoder", to=graph)
    refuse(bundle_copy, "'vocoder'", "codec_encoder")


def test_a_graph_file_that_is_not_listed(bundle_copy):
    edit(bundle_copy, "graphs", "backbone", "file", to="other.onnx")
    refuse(bundle_copy, "'other.onnx'", "listed under files")


def test_a_contract_that_is_not_the_models(bundle_copy):
    edit(bundle_copy, "model", "codebook_size", to=32)
    refuse(bundle_copy, "contract of graph backbone")


@pytest.mark.parametrize(
    "name",
    ["../backbone.onnx", "/etc/passwd", "a/b.onnx", "a\\b", "..", ".", ".hidden", "", "vab.json",
     "a.onnx\n", "C:x", "é.onnx"],
)  # fmt: skip
def test_a_path_that_leaves_the_folder(bundle_copy, name):
    files = json.loads((bundle_copy / "vab.json").read_text())["files"]
    edit(bundle_copy, "files", to=files | {name: files["backbone.onnx"]})
    refuse(bundle_copy, repr(name), "inside the folder")


def test_a_missing_graph_file(bundle_copy):
    (bundle_copy / "backbone.onnx").unlink()
    refuse(bundle_copy, "backbone.onnx cannot be found")


def test_a_folder_in_the_place_of_a_graph(bundle_copy):
    (bundle_copy / "backbone.onnx").unlink()
    (bundle_copy / "backbone.onnx").mkdir()
    refuse(bundle_copy, "backbone.onnx is not a regular file")


@pytest.mark.parametrize("name", ["backbone.onnx", "vab.json"])
@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_linked_files_are_files(bundle_copy, tmp_path, name, link):
    """As caches, package installers and `cp -al` make them; what is hashed is where they lead."""
    (bundle_copy / name).rename(tmp_path / name)
    link(tmp_path / name, bundle_copy / name)
    open_bundle(bundle_copy).verify()


def test_a_link_to_a_bundle(tiny_bundle, tmp_path):
    (tmp_path / "link").symlink_to(tiny_bundle, target_is_directory=True)
    open_bundle(tmp_path / "link").verify()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_a_changed_file(bundle_copy, tmp_path, link):
    path = bundle_copy / "backbone.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    (tmp_path / "other").write_bytes(content)
    link(tmp_path / "other", path)
    refuse(bundle_copy, "backbone.onnx has the sha256", "changed or damaged")


def test_a_link_that_leads_nowhere(bundle_copy, tmp_path):
    (bundle_copy / "backbone.onnx").unlink()
    (bundle_copy / "backbone.onnx").symlink_to(tmp_path / "none")
    refuse(bundle_copy, "backbone.onnx cannot be found")


def test_a_wrong_size(bundle_copy):
    with (bundle_copy / "backbone.onnx").open("ab") as file:
        file.write(b"x")
    refuse(bundle_copy, "backbone.onnx has", "bytes, expected")


def test_a_wrong_hash(bundle_copy):
    path = bundle_copy / "codec_decoder.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    refuse(bundle_copy, "codec_decoder.onnx has the sha256", "changed or damaged")


def test_a_file_that_grew_after_it_was_checked(bundle_copy):
    bundle = open_bundle(bundle_copy)
    with (bundle_copy / "backbone.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="sha256"):
        bundle.read_graph("backbone")


def test_a_file_that_vanished_after_it_was_checked(bundle_copy):
    bundle = open_bundle(bundle_copy)
    (bundle_copy / "backbone.onnx").unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.read_graph("backbone")


def test_other_files_may_be_listed_and_are_verified(bundle_copy):
    (bundle_copy / "NOTICE").write_text("thanks")
    digest = "1" * 64
    edit(bundle_copy, "files", "NOTICE", to={"size_bytes": 6, "sha256": digest})
    open_bundle(bundle_copy)
    refuse(bundle_copy, "NOTICE has the sha256", digest)


def test_shipped_models_are_found_by_name(bundle_copy, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_module, "_shipped", lambda: tmp_path)
    assert shipped_models() == ["copy"]
    assert open_bundle("copy").folder == bundle_copy
    with pytest.raises(BundleError, match="model default is not there.*[(]copy[)]"):
        open_bundle()


def test_contracts_are_stated_in_the_manifest(tiny_bundle):
    graphs = open_bundle(tiny_bundle).manifest.graphs
    assert {name: graph.contract for name, graph in graphs.items()} == {
        name: contract_of(tiny_config())[name] for name in RUNTIME_GRAPHS
    }


@pytest.mark.parametrize(
    ("name", "reason"), [("n" * 300, "File name too long"), ("a\0b", "null (byte|character)")]
)
def test_a_name_that_cannot_be_one(name, reason):
    message = rf"is unusable \(.*{reason}.*\), expected a bundle folder or a shipped .*; check"
    with pytest.raises(BundleError, match=message):
        open_bundle(name)


def test_an_unreadable_manifest(tiny_bundle, monkeypatch):
    """Refused as for a user without rights: root, who may run the tests, is refused nothing."""

    def refused(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refused)
    refuse(tiny_bundle, "vab.json cannot be read (Permission denied)")


def test_a_closed_folder(tiny_bundle, monkeypatch):
    stat = Path.stat

    def refused(path, **more):
        if path.name == "vab.json":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", refused)
    refuse(tiny_bundle, "vab.json cannot be found (Permission denied)")
