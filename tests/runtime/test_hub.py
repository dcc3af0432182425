"""Models from a hub: pinned, only what the manifest lists, verified; else one line says why."""

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import GATED, serving
from manifests import add_file
from tiny_bundle import make_bundle

import vab_rt
from vab_rt.bundle import open_bundle
from vab_rt.errors import BackendError, BundleError, OptionError
from vab_rt.hub import open_model, parse_repository

constants = pytest.importorskip(
    "huggingface_hub.constants", reason='not installed: pip install "vab-rt[hub]"'
)
NAME = "hf:someone/tiny"


@pytest.fixture
def hub(tiny_bundle, tmp_path, monkeypatch):
    """A hub on this machine that holds the tiny bundle, and an empty cache."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "served"))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n\nMade by a test.\n")
    add_file(folder, "README.md")
    (folder / "not-listed.bin").write_bytes(b"x" * 100)
    with serving() as hub:
        hub.commit("someone/tiny", folder)
        point_at(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


def point_at(url, monkeypatch):
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", url)


@pytest.fixture
def nowhere():
    """An address at which nothing answers: its port is taken, and nobody listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def newest(hub):
    return hub.branches["someone/tiny", "main"]


def change(hub, file, content):
    (hub.commits["someone/tiny"][newest(hub)] / file).write_bytes(content)


def test_a_model_by_name(hub, videos, caplog):
    caplog.set_level("INFO", "vab_rt")
    pipeline = vab_rt.load(NAME, threads=1)
    assert f"{NAME}@{newest(hub)}" in caplog.text
    assert len(pipeline.generate(videos(25)).samples) == 16_000
    fetched = {line.rpartition("/")[2] for line in hub.asked if re.match("GET .*/resolve/", line)}
    assert fetched == {"vab.json", "README.md", *open_model(NAME).manifest.files}
    assert f"GET cdn/someone/tiny/resolve/{newest(hub)}/backbone.onnx" in hub.asked
    open_model(NAME).verify()


def test_a_commit_stays_what_it_was(hub, tmp_path):
    first = newest(hub)
    open_model(NAME)
    hub.commit("someone/tiny", make_bundle(tmp_path / "second", seed=1))
    now, before = open_model(NAME), open_model(f"{NAME}@{first}")
    assert now.folder.name == newest(hub) != first == before.folder.name
    assert now.read_graph("backbone") != before.read_graph("backbone")
    hub.asked.clear()
    open_model(f"{NAME}@{first}")
    assert hub.asked == []  # it cannot change, and it is there


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/1"])
def test_a_tag_is_a_revision_too(hub, tmp_path, revision):
    tagged = hub.commit("someone/tiny", make_bundle(tmp_path / "second", seed=1), revision)
    assert open_model(f"{NAME}@{revision}").folder.name == tagged
    assert open_model(f"{NAME}@{revision}", offline=True).folder.name == tagged


def test_offline_takes_what_was_fetched(hub, tmp_path, monkeypatch):
    fetched = open_model(NAME)
    hub.asked.clear()
    assert open_model(NAME, offline=True).folder == fetched.folder
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert open_model(NAME).folder == fetched.folder
    assert hub.asked == []


def test_offline_without_what_was_fetched(hub):
    with pytest.raises(BundleError, match=r"vab.json of hf:someone/tiny@main is not in the cache"):
        open_model(NAME, offline=True)
    folder = open_model(NAME).folder
    (folder / "backbone.onnx").unlink()
    with pytest.raises(
        BundleError, match=r"backbone.onnx of \S+ is not in the cache.*once without"
    ):
        open_model(NAME, offline=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:someone/nothing", "is not on the hub or is private, expected ORG/NAME"),
        ("hf:someone/tiny@v9", "hf:someone/tiny@v9 is no revision of someone/tiny, expected a"),
        (f"hf:{GATED}", "behind terms that its owner asks you to accept.*hf auth login"),
        ("hf:someone/other", "has no file vab.json, expected a repository that holds it"),
    ],
)
def test_what_the_hub_does_not_have(hub, tmp_path, name, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.bin").write_bytes(b"x")
    hub.commit("someone/other", tmp_path / "other")
    with pytest.raises(BundleError, match=message) as error:
        open_model(name)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_the_manifests(hub):
    folder = hub.commits["someone/tiny"][newest(hub)]
    content = bytearray((folder / "backbone.onnx").read_bytes())
    content[-1] ^= 1
    change(hub, "backbone.onnx", bytes(content))
    with pytest.raises(BundleError, match=r"backbone.onnx has the sha256 .* changed or damaged"):
        vab_rt.load(NAME)


def test_a_file_of_another_size(hub):
    change(hub, "backbone.onnx", b"short")
    with pytest.raises(BundleError, match=r"backbone.onnx has 5 bytes, expected \d+ as in vab.js"):
        open_model(NAME)


def test_a_manifest_that_names_files_elsewhere(hub):
    """Refused before any of them is asked for."""
    folder = hub.commits["someone/tiny"][newest(hub)]
    text = (folder / "vab.json").read_text().replace("README.md", "../../README.md")
    change(hub, "vab.json", text.encode())
    with pytest.raises(BundleError, match="expected a plain name inside the folder"):
        open_model(NAME)
    assert not [line for line in hub.asked if "README" in line]


def test_no_network(hub, nowhere, monkeypatch):
    point_at(nowhere, monkeypatch)
    with pytest.raises(BundleError, match=r"cannot be fetched \(.*check the network, or use what"):
        open_model(NAME)


def test_no_network_for_what_was_fetched_before(hub, nowhere, monkeypatch, caplog):
    caplog.set_level("INFO", "vab_rt")
    fetched = open_model(NAME)
    point_at(nowhere, monkeypatch)
    caplog.clear()
    assert open_model(NAME).folder == fetched.folder
    assert newest(hub) in caplog.text


@pytest.mark.parametrize(("num_good", "status"), [(0, 500), (1, 403), (2, 403)])
def test_a_hub_that_breaks_down(hub, monkeypatch, num_good, status):
    """At once, or after some answers."""
    find, asked = hub.find, []

    def first_only(path):
        asked.append(path)
        return find(path) if len(asked) <= num_good else (status, {}, b"")

    monkeypatch.setattr(hub, "find", first_only)
    with pytest.raises(BundleError, match=r"cannot be fetched \(.*check the network"):
        open_model(NAME)


def test_a_large_file_that_is_cut_short(hub, monkeypatch):
    """Where the hub sends for it; nothing of it stays in the cache as if it were whole."""
    find = hub.find

    def half(path):
        status, headers, content = find(path)
        return status, headers, content[: len(content) // 2] if "cdn/" in path else content

    monkeypatch.setattr(hub, "find", half)
    with pytest.raises(BundleError, match=r"hf:someone/tiny@\w+ cannot be fetched \("):
        open_model(NAME)
    monkeypatch.setattr(hub, "find", find)
    open_model(NAME).verify()


def test_a_cache_that_cannot_be_written(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file"))
    with pytest.raises(BundleError, match=r"cannot be kept \(.*file.*set HF_HUB_CACHE to another"):
        open_model(NAME)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CAS Client Error"), "cannot be fetched (CAS Client Error), expected"),
        (OSError(errno.ENOSPC, "No space left"), "cannot be kept ([Errno 28] No space left), exp"),
    ],
)
def test_a_download_that_breaks_off(hub, monkeypatch, error, said):
    """As hf_xet tells it, which fetches large files from the public hub; on a full disk."""

    def broken(*name, **more):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(BundleError, match=re.escape(said)):
        open_model(NAME)


def test_a_folder_of_the_cache_is_a_bundle(hub):
    """It holds links."""
    open_bundle(open_model(NAME).folder).verify()


@pytest.mark.parametrize(
    "name",
    [
        *("hf:tiny", "hf:a/b/c", "hf:a/b@", "hf:", "hf:a/b c", "hf:/b", "hf:a/b@/etc/hosts"),
        *("hf:a/b@../../c", "hf:../b", "hf:a/b@v1..v2"),
    ],
)
def test_what_is_no_name(name):
    with pytest.raises(OptionError, match="is no name on a hub, expected hf:ORG/NAME or"):
        parse_repository(name)


@pytest.mark.parametrize("name", ["hf:a--b/c", "hf:-a/b", "hf:a/b.git", f"hf:a/{'b' * 100}"])
@pytest.mark.parametrize("offline", [False, True])
def test_what_the_hub_takes_for_no_name(hub, name, offline):
    with pytest.raises(OptionError, match=r"is no name on a hub \(.*\), expected hf:ORG/NAME or"):
        open_model(name, offline=offline)
    assert hub.asked == []


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendError, match=r"pip install 'vab-rt\[hub\]'"):
        open_model(NAME)


def test_the_runtime_does_not_import_it():
    code = "import sys, vab_rt.pipeline, vab_rt.cli; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_line(hub, videos, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}

    def run(*words):
        command = [sys.executable, "-m", "vab_rt", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    missing = run("info", NAME, "--offline")
    assert missing.returncode == 1 and missing.stderr.count("\n") == 1
    assert missing.stderr.startswith("error: vab.json of hf:someone/tiny@main is not in the cache")
    shown = run("info", NAME)
    assert shown.returncode == 0, shown.stderr
    assert f"model: {NAME}@{newest(hub)}" in shown.stderr
    assert shown.stdout.endswith("# Tiny\n\nMade by a test.\n") and "license:" not in shown.stdout
    hub.asked.clear()
    made = run("generate", videos(25), tmp_path / "out.wav", "--model", NAME, "--offline")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "out.wav").stat().st_size > 30_000 and hub.asked == []
