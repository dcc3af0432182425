"""Engines are built once, and a file that is damaged or that others can write is never loaded."""

import logging
import os
from pathlib import Path

import msgspec
import pytest

from vab_rt.engines.engine_cache import EngineKey, cache_folder, cached_engine, forget_engine
from vab_rt.errors import BackendError

KEY = EngineKey(
    graph="backbone",
    graph_sha256="ab" * 32,
    library="tensorrt-rtx 1.7.1",
    gpu="Ampere and later",
    precision="fp16",
    settings="rows 1 to 32",
)


class Builder:
    """Counts its calls; every engine is another."""

    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return b"engine %d" % self.calls


@pytest.fixture
def build():
    return Builder()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cache" / "engines"


def file_of(folder):
    (path,) = folder.glob("*.engine")
    return path


def test_a_second_start_does_not_build(build, folder):
    assert cached_engine(KEY, build, folder) == b"engine 1"
    assert cached_engine(KEY, build, folder) == b"engine 1"
    assert build.calls == 1
    assert [path.suffix for path in folder.iterdir()] == [".engine"]


@pytest.mark.parametrize("field", EngineKey.__struct_fields__)
def test_whatever_an_engine_depends_on_is_in_its_key(build, folder, field):
    cached_engine(KEY, build, folder)
    other = msgspec.structs.replace(KEY, **{field: "other"})
    assert cached_engine(other, build, folder) == b"engine 2"
    assert cached_engine(KEY, build, folder) == b"engine 1"


def test_the_folder_and_its_files_are_the_users_alone(build, folder):
    cached_engine(KEY, build, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def rewritten(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


def become_a_link(path):
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


UNTRUSTED = {
    "damaged": rewritten(lambda content: content[:-1] + bytes([content[-1] ^ 1])),
    "cut": rewritten(lambda content: content[:-1]),
    "without its seal": rewritten(lambda content: content[48:]),
    "empty": rewritten(lambda content: b""),
    "of another version": rewritten(lambda content: content.replace(b"engine 2", b"engine 1", 1)),
    "writable by others": lambda path: path.chmod(0o666),
    "a link": become_a_link,
}


@pytest.mark.parametrize("change", UNTRUSTED.values(), ids=UNTRUSTED)
def test_what_cannot_be_trusted_is_built_again(build, folder, change, caplog):
    cached_engine(KEY, build, folder)
    change(file_of(folder))
    with caplog.at_level(logging.WARNING):
        assert cached_engine(KEY, build, folder) == b"engine 2"
    assert "it is built again" in caplog.text
    assert not file_of(folder).is_symlink()
    assert cached_engine(KEY, build, folder) == b"engine 2"


def test_an_engine_under_another_key_is_refused(build, folder):
    other = msgspec.structs.replace(KEY, graph_sha256="cd" * 32)
    cached_engine(KEY, build, folder)
    file_of(folder).rename(folder / other.file)
    assert cached_engine(other, build, folder) == b"engine 2"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_refused(build, folder, mode):
    folder.mkdir(parents=True)
    folder.chmod(mode)
    with pytest.raises(BackendError, match=r"can be written by others .*only you.*rm -r"):
        cached_engine(KEY, build, folder)


def test_a_folder_that_is_a_link_is_refused(build, folder, tmp_path):
    folder.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BackendError, match="such as a link"):
        cached_engine(KEY, build, folder)


def test_where_nothing_can_be_kept_an_engine_is_built_each_time(build, tmp_path, caplog):
    (tmp_path / "file").touch()
    assert cached_engine(KEY, build, tmp_path / "file" / "engines") == b"engine 1"
    assert cached_engine(KEY, build, tmp_path / "file" / "engines") == b"engine 2"
    assert "engines are not kept" in caplog.text


def test_what_is_in_the_way_of_a_file_costs_each_start_a_build(build, folder, caplog):
    cached_engine(KEY, build, folder)
    path = file_of(folder)
    path.unlink()
    path.mkdir()
    assert [cached_engine(KEY, build, folder) for _ in range(2)] == [b"engine 2", b"engine 3"]
    assert "is of another kind" in caplog.text and "the engine is not kept" in caplog.text


def test_a_file_that_cannot_be_read_is_built_again(build, folder, monkeypatch):
    cached_engine(KEY, build, folder)
    read, unreadable = Path.read_bytes, file_of(folder)

    def fail(path):
        if path == unreadable:
            raise OSError(5, "Input/output error")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert cached_engine(KEY, build, folder) == b"engine 2"


def test_a_failed_build_leaves_nothing(folder):
    def fail():
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        cached_engine(KEY, fail, folder)
    assert list(folder.iterdir()) == []


def test_an_engine_is_forgotten(build, folder):
    cached_engine(KEY, build, folder)
    forget_engine(KEY, folder)
    forget_engine(KEY, folder)
    assert cached_engine(KEY, build, folder) == b"engine 2"


def test_the_folder_is_where_the_system_wants_it(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    if os.name == "posix":
        assert cache_folder() == Path("/somewhere/vab-rt/engines")
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert cache_folder() == Path.home() / ".cache/vab-rt/engines"
