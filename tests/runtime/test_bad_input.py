"""Every bad input: one line that says what was found, what was expected and what to do; exit
status 1; nothing half-written."""

import os
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from media import damage, make_sound, make_video

from vab_rt.cli import main

Case = Callable[[Path], list[object]]  # makes the files, returns the arguments of generate


def missing(folder: Path) -> list[object]:
    return [folder / "in.mp4", folder / "out.wav"]


def an_address(folder: Path) -> list[object]:
    return ["https://host/in.mp4", folder / "out.wav"]


def a_signed_address(folder: Path) -> list[object]:
    return ["https://host/in.mp4?sign=" + 300 * "a", folder / "out.wav"]


def address_of_a_file(folder: Path) -> list[object]:
    return ["file:///in.mp4", folder / "out.wav"]


def standard_input(folder: Path) -> list[object]:
    return ["-", folder / "out.wav"]


def output_at_an_address(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), "s3://bucket/out.wav"]


def standard_output(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), "-"]


def a_folder(folder: Path) -> list[object]:
    (folder / "in.mp4").mkdir()
    return [folder / "in.mp4", folder / "out.wav"]


def not_regular(folder: Path) -> list[object]:
    os.mkfifo(folder / "in.mp4")
    return [folder / "in.mp4", folder / "out.wav"]


def empty(folder: Path) -> list[object]:
    (folder / "in.mp4").touch()
    return [folder / "in.mp4", folder / "out.wav"]


def text(folder: Path) -> list[object]:
    (folder / "in.mp4").write_text("Dear diary, today I filmed nothing.\n" * 100)
    return [folder / "in.mp4", folder / "out.wav"]


def truncated(folder: Path) -> list[object]:
    """Without its end, where an mp4 has its index by default."""
    video = make_video(folder / "in.mp4")
    video.write_bytes(video.read_bytes()[:-1500])
    return [video, folder / "out.wav"]


def audio_only(folder: Path) -> list[object]:
    return [make_sound(folder / "in.mp4"), folder / "out.wav"]


def no_decodable_frame(folder: Path) -> list[object]:
    return [damage(make_video(folder / "in.mp4"), range(50)), folder / "out.wav"]


def zero_length(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--duration", 0]


def shorter_than_a_sample(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--duration", 0.00001]


def start_at_the_end(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--start", 2]


def start_beyond_the_end(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--start", 60]


def start_beyond_the_end_of_a_copy(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.mp4", "--start", 60]


def negative_start(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--start", -1]


def option_not_finite(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--guidance", "nan"]


def option_out_of_range(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--seed", 2**64]


def output_folder_missing(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "sounds" / "out.wav"]


def output_exists(folder: Path) -> list[object]:
    (folder / "out.wav").write_bytes(b"precious")
    return [make_video(folder / "in.mp4"), folder / "out.wav"]


def missing_and_output_exists(folder: Path) -> list[object]:
    (folder / "out.wav").write_bytes(b"precious")
    return [folder / "in.mp4", folder / "out.wav", "--force"]


def name_too_long(folder: Path) -> list[object]:
    return [folder / ("i" * 300 + ".mp4"), folder / "out.wav"]


def output_name_too_long(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / ("o" * 300 + ".wav")]


def output_is_a_folder(folder: Path) -> list[object]:
    (folder / "out.wav").mkdir()
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--force"]


def output_is_not_regular(folder: Path) -> list[object]:
    os.mkfifo(folder / "out.wav")
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--force"]


def output_is_the_input(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "in.mp4", "--force"]


def output_is_the_input_by_another_name(folder: Path) -> list[object]:
    video = make_video(folder / "in.mp4")
    (folder / "out.mp4").symlink_to(video)
    return [video, folder / "out.mp4", "--force"]


def output_without_suffix(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out"]


def output_of_unknown_kind(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.midi"]


def codec_does_not_fit(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.webm"]


def start_between_key_frames(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.mkv", "--start", 0.7]


def model_missing(folder: Path) -> list[object]:
    return [make_video(folder / "in.mp4"), folder / "out.wav", "--model", folder / "nowhere"]


CASES: list[tuple[Case, str]] = [
    (missing, r"in\.mp4 does not exist, expected a video file; check the path"),
    (missing_and_output_exists, r"in\.mp4 does not exist, expected a video file; check the path"),
    (name_too_long, r"cannot be read \(File name too long\), expected a video file; check the"),
    (output_name_too_long, r"cannot be written \(File name too long\), expected a folder and a na"),
    (an_address, r"error: https://host/in\.mp4 is an address, expected a video file .*; download"),
    (a_signed_address, r"error: https://host/in\.mp4\?sign=a+ is an address, expected .*; downl"),
    (address_of_a_file, r"error: file:///in\.mp4 is an address, expected .*; name it without file"),
    (standard_input, r"error: - would be standard input, expected a video file; save it in one"),
    (
        output_at_an_address,
        r"error: s3://bucket/out\.wav is an address, expected a file on this ma",
    ),
    (standard_output, r"error: - would be standard output, expected the name of a file; write one"),
    (a_folder, r"in\.mp4 is a folder, expected a video file; name the file itself"),
    (not_regular, r"in\.mp4 is not a regular file, expected a video file; name the file itself"),
    (empty, r"in\.mp4 is empty \(0 bytes\), expected a video file; copy it again"),
    (text, r"in\.mp4 cannot be read as video \(.*\); expected a complete video file such as mp4"),
    (truncated, r"in\.mp4 cannot be read as video \(.*\); expected a complete video file such"),
    (audio_only, r"has no video stream .*found: audio\); expected a file with moving pictures; "),
    (no_decodable_frame, r"no frame of .* could be decoded \(h264\); expected a playable video"),
    (zero_length, r"duration is 0\.0, expected more than 0 s"),
    (shorter_than_a_sample, r"the selection is 1e-05 s long, expected at least one sample"),
    (start_at_the_end, r"start is 2 s, expected less than the video's 2 s; choose an earlier"),
    (start_beyond_the_end, r"start is 60 s, expected less than the video's 2 s; choose an earl"),
    (start_beyond_the_end_of_a_copy, r"start is 60 s, expected less than the video's 2 s; choos"),
    (negative_start, r"start is -1\.0, expected 0 s or more"),
    (option_not_finite, r"guidance is nan, expected 0 to 100"),
    (option_out_of_range, r"seed is 18446744073709551616, expected 0 to 2\*\*64 - 1"),
    (output_folder_missing, r"folder .*sounds does not exist, expected an existing one; create it"),
    (output_exists, r"out\.wav exists already, expected a new name; .* --force"),
    (output_is_a_folder, r"out\.wav is a folder, expected a file name; "),
    (output_is_not_regular, r"out\.wav is not a regular file, expected .* new name"),
    (output_is_the_input, r"in\.mp4 is the input itself, expected another file; choose a new"),
    (output_is_the_input_by_another_name, r"out\.mp4, a link to .*, is the input itself, expe"),
    (output_without_suffix, r"ends in no suffix, expected one of wav, flac, .*; rename the output"),
    (output_of_unknown_kind, r"out\.midi ends in \.midi, expected one of wav, .*; rename the outp"),
    (codec_does_not_fit, r"the video is h264, which \.webm cannot hold .*; expected one of \.mp4"),
    (start_between_key_frames, r"start 0\.7 s is between key frames, expected .*; use --start 0"),
    (model_missing, r"nowhere is not there, expected a bundle folder or .*; check the path"),
]


def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, and what regular files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize(("case", "message"), CASES, ids=[case.__name__ for case, _ in CASES])
def test_bad_input(
    tmp_path: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: Case,
    message: str,
) -> None:
    arguments = case(tmp_path)
    before = listing(tmp_path)
    if "--model" not in arguments:
        arguments = [*arguments, "--model", tiny_bundle]
    monkeypatch.setattr(sys, "argv", ["vab-rt", "generate", *map(str, arguments)])
    with warnings.catch_warnings(), pytest.raises(SystemExit) as exit_info:
        main()
    captured = capsys.readouterr()
    assert exit_info.value.code == 1
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    "case", [output_exists, output_folder_missing, output_is_the_input, codec_does_not_fit]
)
def test_a_bad_output_is_refused_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: Case,
) -> None:
    """The output is complained about, though the model is not there either."""
    arguments = [*case(tmp_path), "--model", tmp_path / "nowhere"]
    monkeypatch.setattr(sys, "argv", ["vab-rt", "generate", *map(str, arguments)])
    with warnings.catch_warnings(), pytest.raises(SystemExit):
        main()
    assert "nowhere" not in capsys.readouterr().err


def run_apart(
    *arguments: object, before: list[str] | None = None, **more: object
) -> subprocess.CompletedProcess[str]:
    """`vab-rt generate` in a process of its own; `before` goes in front of the command."""
    own = [sys.executable, "-m", "vab_rt.cli", "generate", *map(str, arguments)]
    command = [*(before or []), *own]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def assert_one_line(result: subprocess.CompletedProcess[str], message: str) -> None:
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert re.search(message, result.stderr), result.stderr


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a", "ogg", "mp4", "mov", "mkv"])
def test_no_room_in_mid_write(tmp_path: Path, tiny_bundle: Path, suffix: str) -> None:
    """A limit of 8 kB on the size of files stands in for a full disk; Python ignores its signal."""
    video = make_video(tmp_path / "in.mp4", num_frames=200)
    before = listing(tmp_path)
    result = run_apart(
        video,
        tmp_path / f"out.{suffix}",
        "--model",
        tiny_bundle,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)),
    )
    assert_one_line(
        result, r"out\.\w+ could not be written \(File too large; .* MB free\), expected .*; free"
    )
    assert listing(tmp_path) == before


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
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("suffix", ["wav", "mp3", "mp4"])
def test_a_full_disk(
    tmp_path: Path, tiny_bundle: Path, mounted: Callable[[str], Path], suffix: str
) -> None:
    disk = mounted("size=16k")
    video = make_video(tmp_path / "in.mp4", num_frames=200)
    result = run_apart(video, disk / f"out.{suffix}", "--model", tiny_bundle)
    assert_one_line(
        result, r"could not be written \(No space left on device; .* MB free\), expected .*; free"
    )
    assert listing(disk) == {}


def test_a_read_only_disk(
    tmp_path: Path, tiny_bundle: Path, mounted: Callable[[str], Path]
) -> None:
    disk = mounted("size=16k,ro")
    video = make_video(tmp_path / "in.mp4")
    result = run_apart(video, disk / "out.wav", "--model", tiny_bundle)
    assert_one_line(
        result, r"out\.wav cannot be written \(Read-only file system\), expected .*; ch"
    )


def without_privileges() -> list[str]:
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


def test_a_read_only_folder(tmp_path: Path, tiny_bundle: Path) -> None:
    video = make_video(tmp_path / "in.mp4")
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    out = folder / "out.wav"
    result = run_apart(video, out, "--model", tiny_bundle, before=without_privileges())
    assert_one_line(
        result, r"out\.wav cannot be written \(Permission denied\), expected .*; choose"
    )
    assert list(folder.iterdir()) == []


def test_an_unreadable_input(tmp_path: Path, tiny_bundle: Path) -> None:
    video = make_video(tmp_path / "in.mp4")
    video.chmod(0)
    out = tmp_path / "out.wav"
    result = run_apart(video, out, "--model", tiny_bundle, before=without_privileges())
    assert_one_line(result, r"in\.mp4 cannot be read as video \(Permission denied\); expected")
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_an_input_in_a_closed_folder(tmp_path: Path, tiny_bundle: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    video = make_video(folder / "in.mp4")
    folder.chmod(0)
    try:
        result = run_apart(
            video, tmp_path / "out.wav", "--model", tiny_bundle, before=without_privileges()
        )
    finally:
        folder.chmod(0o755)
    assert_one_line(result, r"in\.mp4 cannot be read \(Permission denied\), expected a video file")
