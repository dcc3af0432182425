"""Every bad input: one line that says what was found, what was expected and what to do; exit
status 1; nothing half-written."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import command, run_apart
from media import damage, make_sound, make_video

Make = Callable[[Path], object]  # makes what is at in.mp4, or beside it

# What there is instead of a video of 2 s at in.mp4, or beside it; arguments; the message.
NOT_A_VIDEO: dict[str, tuple[Make | None, str, str]] = {
    "missing": (None, "in.mp4 out.wav", r"in\.mp4 does not exist, expected a video file; check "),
    "missing, and the output exists": (
        lambda video: video.with_name("out.wav").write_bytes(b"precious"),
        "in.mp4 out.wav --force",
        r"in\.mp4 does not exist, expected a video file; check the path",
    ),
    "name too long": (
        None,
        300 * "i" + ".mp4 out.wav",
        r"cannot be read \(File name too long\), expected a video file; check the",
    ),
    "address": (
        None,
        "https://host/in.mp4 out.wav",
        r"error: https://host/in\.mp4 is an address, expected a video file .*; download",
    ),
    "signed address": (
        None,
        f"https://host/in.mp4?sign={300 * 'a'} out.wav",
        r"error: https://host/in\.mp4\?sign=a+ is an address, expected .*; downl",
    ),
    "address of a file": (
        None,
        "file:///in.mp4 out.wav",
        r"error: file:///in\.mp4 is an address, expected .*; name it without file",
    ),
    "standard input": (
        None,
        "- out.wav",
        r"error: - would be standard input, expected a video file; save it in one",
    ),
    "a folder": (Path.mkdir, "in.mp4 out.wav", r"in\.mp4 is a folder, .* file; name the file it"),
    "not regular": (os.mkfifo, "in.mp4 out.wav", r"in\.mp4 is not a regular file, .*; name the f"),
    "empty": (Path.touch, "in.mp4 out.wav", r"in\.mp4 is empty \(0 bytes\), .*; copy it again"),
    "text": (
        lambda video: video.write_text("Dear diary, today I filmed nothing.\n" * 100),
        "in.mp4 out.wav",
        r"in\.mp4 cannot be read as video \(.*\); expected a complete video file such as mp4",
    ),
    "truncated": (  # without its end, where an mp4 has its index by default
        lambda video: video.write_bytes(make_video(video).read_bytes()[:-1500]),
        "in.mp4 out.wav",
        r"in\.mp4 cannot be read as video \(.*\); expected a complete video file such",
    ),
    "audio only": (
        make_sound,
        "in.mp4 out.wav",
        r"has no video stream .*found: audio\); expected a file with one; ",
    ),
    "no decodable frame": (
        lambda video: damage(make_video(video), range(50)),
        "in.mp4 out.wav",
        r"no frame of .* could be decoded \(h264\); expected a playable video",
    ),
}
A_VIDEO: dict[str, tuple[Make | None, str, str]] = {
    "zero length": (None, "out.wav --duration 0", r"duration is 0\.0, expected more than 0 s"),
    "shorter than a sample": (
        None,
        "out.wav --duration 0.00001",
        r"the selection is 1e-05 s long, expected at least one sample",
    ),
    "start at the end": (
        None,
        "out.wav --start 2",
        r"start is 2 s, expected less than the video's 2 s; choose an earlier",
    ),
    "start beyond the end": (None, "out.wav --start 60", "start is 60 s, expected .* 2 s; choose"),
    "start of a copy beyond the end": (None, "out.mp4 --start 60", "start is 60 s, .* 2 s; choos"),
    "negative start": (None, "out.wav --start -1", r"start is -1\.0, expected 0 s or more"),
    "option not finite": (None, "out.wav --guidance nan", "guidance is nan, expected 0 to 100"),
    "option out of range": (
        None,
        f"out.wav --seed {2**64}",
        r"seed is 18446744073709551616, expected 0 to 2\*\*64 - 1",
    ),
    "output at an address": (
        None,
        "s3://bucket/out.wav",
        r"error: s3://bucket/out\.wav is an address, expected a file on this ma",
    ),
    "standard output": (
        None,
        "-",
        r"error: - would be standard output, expected the name of a file; write one",
    ),
    "output name too long": (
        None,
        300 * "o" + ".wav",
        r"cannot be written \(File name too long\), expected a folder and a na",
    ),
    "output folder missing": (
        None,
        "sounds/out.wav",
        r"folder .*sounds does not exist, expected an existing one; create it",
    ),
    "output exists": (
        lambda video: video.with_name("out.wav").write_bytes(b"precious"),
        "out.wav",
        r"out\.wav exists already, expected a new name; .* --force",
    ),
    "output is a folder": (
        lambda video: video.with_name("out.wav").mkdir(),
        "out.wav --force",
        r"out\.wav is a folder, expected a file name; ",
    ),
    "output is a folder of sounds": (
        lambda video: video.with_name("sounds").mkdir(),
        "sounds/",
        r"sounds is a folder, expected a file name; add one, such as out.wav",
    ),
    "output is not regular": (
        lambda video: os.mkfifo(video.with_name("out.wav")),
        "out.wav --force",
        r"out\.wav is not a regular file, expected .* new name",
    ),
    "output is the input": (
        None,
        "in.mp4 --force",
        r"in\.mp4 is the input itself, expected another file; choose a new",
    ),
    "output is the input by another name": (
        lambda video: video.with_name("out.mp4").symlink_to(video),
        "out.mp4 --force",
        r"out\.mp4, a link to .*, is the input itself, expe",
    ),
    "output without suffix": (
        None,
        "out",
        r"ends in no suffix, expected one of wav, flac, .*; rename the output",
    ),
    "output of unknown kind": (
        None,
        "out.midi",
        r"out\.midi ends in \.midi, expected one of wav, .*; rename the outp",
    ),
    "codec does not fit": (
        None,
        "out.webm",
        r"the video is h264, which \.webm cannot hold .*; expected one of \.mp4",
    ),
    "start between key frames": (
        None,
        "out.mkv --start 0.7",
        r"start 0\.7 s is between key frames, expected .*; use --start 0",
    ),
    "model missing": (
        None,
        "out.wav --model nowhere",
        r"nowhere is not there, expected a bundle folder or .*; check the path",
    ),
}
FULL = [*("wav", "flac", "mp3", "m4a", "ogg"), *("mp4", "mov", "mkv")]


@pytest.fixture
def refused(run, videos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a case in a folder of its own; returns the one line of its error."""
    monkeypatch.chdir(tmp_path)

    def run_case(name: str, model: Path | str) -> str:
        make, arguments, _ = (NOT_A_VIDEO | A_VIDEO)[name]
        if name in A_VIDEO:
            shutil.copy(videos(50), "in.mp4")
            arguments = f"in.mp4 {arguments}"
        if make is not None:
            make(tmp_path / "in.mp4")
        before = listing(tmp_path)
        more = () if "--model" in arguments else ("--model", model)
        code, out, err = run("generate", *arguments.split(), *more)
        assert (code, out) == (1, "")
        assert err.startswith("error: ") and err.count("\n") == 1
        assert listing(tmp_path) == before
        return err

    return run_case


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, and what regular files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", NOT_A_VIDEO | A_VIDEO)
def test_bad_input(refused, tiny_bundle, name):
    err = refused(name, tiny_bundle)
    assert re.search((NOT_A_VIDEO | A_VIDEO)[name][2], err), err


@pytest.mark.parametrize(
    "name", ["output exists", "output folder missing", "output is the input", "codec does not fit"]
)
def test_a_bad_output_is_refused_before_any_work(refused, name):
    """The output is complained about, though the model is not there either."""
    assert "nowhere" not in refused(name, "nowhere")


def assert_one_line(result: subprocess.CompletedProcess[str], message: str) -> None:
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert re.search(message, result.stderr), result.stderr


@pytest.fixture
def generate(tiny_bundle: Path, videos) -> Callable[..., list[str]]:
    """The command for 8 s of video, or another input."""

    def arguments(out: Path, video: Path | None = None) -> list[str]:
        return command("generate", video or videos(200), out, "--model", tiny_bundle)

    return arguments


@pytest.mark.parametrize("suffix", FULL)
def test_no_room_in_mid_write(tmp_path, generate, suffix):
    """A limit of 8 kB on the size of files stands in for a full disk; Python ignores its signal."""
    result = run_apart(generate(tmp_path / f"out.{suffix}"), before="ulimit -f 8")
    words = r"out\.\w+ could not be written \(File too large; .* MB free\), expected .*; free"
    assert_one_line(result, words)
    assert listing(tmp_path) == {}


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tiny disk; skips where that takes rights that the test does not have."""
    made: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if result.returncode:
            pytest.skip(f"a disk cannot be mounted here: {result.stderr.strip()}")
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("suffix", ["wav", "mp3", "mp4"])
def test_a_full_disk(generate, mounted, suffix):
    disk = mounted("size=16k")
    result = run_apart(generate(disk / f"out.{suffix}"))
    words = r"could not be written \(No space left on device; .* MB free\), expected .*; free"
    assert_one_line(result, words)
    assert listing(disk) == {}


def test_a_read_only_disk(generate, mounted):
    result = run_apart(generate(mounted("size=16k,ro") / "out.wav"))
    words = r"out\.wav cannot be written \(Read-only file system\), expected .*; ch"
    assert_one_line(result, words)


@pytest.fixture(scope="module")
def unprivileged() -> list[str]:
    """What to put before a command so that permissions bind it, though root runs the tests."""
    if os.geteuid():
        return []
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command += ["--inh-caps=-dac_override,-dac_read_search"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("root may do everything here, and setpriv cannot change that")
    return command


CLOSED = {
    "folder of the output": (0o555, r"out\.wav cannot be written \(Permission denied\), .*; choo"),
    "input": (0o000, r"in\.mp4 cannot be read as video \(Permission denied\); expected"),
    "folder of the input": (0o000, r"in\.mp4 cannot be read \(Permission denied\), expected a vid"),
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_permissions_forbid(tmp_path, videos, generate, unprivileged, name):
    source, target = tmp_path / "from", tmp_path / "to"
    source.mkdir()
    target.mkdir()
    shutil.copy(videos(50), source / "in.mp4")
    closed = {"input": source / "in.mp4", "folder of the input": source}.get(name, target)
    mode, words = CLOSED[name]
    closed.chmod(mode)
    try:
        result = run_apart([*unprivileged, *generate(target / "out.wav", source / "in.mp4")])
    finally:
        closed.chmod(0o755)
    assert_one_line(result, words)
    assert list(listing(tmp_path)) == ["from", "from/in.mp4", "to"]
