"""Files that appear whole: beside their target, through links, and what is left of killed runs."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from vab_rt.errors import OutputError
from vab_rt.output import UNFINISHED, check_output, remove_leftovers, whole_file

DEAD = ".vab-rt-0123456789abcdef.part"


def write(path: Path, *, force: bool = False) -> None:
    with whole_file(path, force=force) as part:
        part.write_bytes(b"new")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_is_followed(tmp_path):
    kept, link = tmp_path / "kept", tmp_path / "link.wav"
    kept.mkdir()
    (kept / "target.wav").write_bytes(b"old")
    link.symlink_to(Path("kept") / "target.wav")
    with pytest.raises(OutputError, match=r"link\.wav, a link to .*target\.wav, exists already"):
        write(link)
    assert (kept / "target.wav").read_bytes() == b"old"
    write(link, force=True)
    assert link.is_symlink() and (kept / "target.wav").read_bytes() == b"new"
    assert names(kept) == ["target.wav"] and names(tmp_path) == ["kept", "link.wav"]


def test_a_link_to_nothing_yet_is_followed(tmp_path):
    """As a shell's > does; nothing is replaced, so nothing needs force."""
    one, two = tmp_path / "one.wav", tmp_path / "two.wav"
    one.symlink_to(two)
    two.symlink_to(tmp_path / "target.wav")
    write(one)
    assert (tmp_path / "target.wav").read_bytes() == b"new"
    assert one.is_symlink() and two.is_symlink()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere/target.wav", "folder .*nowhere does not exist, expected an existing one"),
        ("link.wav", r"link\.wav is a link to itself, expected a file; choose"),
        (".", "is a folder, expected a file name"),
        ("/dev/null", "a link to /dev/null, is not a regular file, expected one"),
    ],
)
def test_a_link_that_leads_to_no_file(tmp_path, target, message):
    link = tmp_path / "link.wav"
    link.symlink_to(target)
    with pytest.raises(OutputError, match=message):
        check_output(link, force=True)
    assert names(tmp_path) == ["link.wav"]


def test_a_link_to_the_input_is_the_input(tmp_path):
    source, link = tmp_path / "in.mp4", tmp_path / "link.mp4"
    source.touch()
    link.symlink_to(source)
    with pytest.raises(OutputError, match="is the input itself"):
        check_output(link, force=True, source=source)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("-", "- would be standard output, expected the name of a file"),
        ("s3://bucket/out.wav", "^s3://bucket/out.wav is an address, expected a file on this"),
        ("file:///tmp/out.wav", "^file:///tmp/out.wav is an address"),
        (f"https://host/{'a' * 300}.wav", "^https://host/a+.wav is an address"),
    ],
)
def test_what_is_no_name_of_a_file(name, message):
    with pytest.raises(OutputError, match=message):
        check_output(Path(name))


def test_leftovers_of_the_dead_are_removed(tmp_path):
    others = [".vab-rt-notes.part", "vab-rt-0123456789abcdef.part", f"{DEAD}.txt"]
    for name in (DEAD, *others):
        (tmp_path / name).write_bytes(b"half")
    write(tmp_path / "out.wav")
    assert names(tmp_path) == sorted([*others, "out.wav"])


def test_only_files_of_ones_own_are_removed(tmp_path):
    folder, link, foreign = (tmp_path / DEAD.replace("0", digit) for digit in "abc")
    folder.mkdir()
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    link.symlink_to(kept)
    foreign.write_bytes(b"another's")
    left = [folder.name, link.name, "kept"]
    with suppress(OSError):  # of a user who is not root, or root in a container
        os.chown(foreign, 12345, 12345)
        left.append(foreign.name)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(left)


def test_what_is_being_written_stays(tmp_path):
    """By this process as well, which has each of its files open on its own."""
    with whole_file(tmp_path / "a.wav") as first:
        write(tmp_path / "b.wav")
        assert first.exists()
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "c.wav"):
        raise ZeroDivisionError
    assert names(tmp_path) == ["a.wav", "b.wav"] and not list(tmp_path.glob(UNFINISHED))


def test_without_locks_everything_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("vab_rt.output.fcntl", None)
    (tmp_path / DEAD).touch()
    write(tmp_path / "out.wav")
    assert names(tmp_path) == [DEAD, "out.wav"]


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="out.wav could not be written .No such file"):
        write(tmp_path / "gone" / "out.wav")
