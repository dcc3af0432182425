"""Many videos: which are found, what is skipped, and what a clip that fails or kills leaves."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import typer
from command import command, with_usual_signals
from many_worker import open_worker
from media import make_video

from vab_rt.audio import Audio
from vab_rt.cli.console import print_line
from vab_rt.cli.options import seconds
from vab_rt.errors import OptionError
from vab_rt.many import Job, find_jobs, run_jobs, share_of
from vab_rt.output import claimed
from vab_rt.threads import quota_of


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three videos, of which one lies deeper, and one that is none."""
    videos = tmp_path / "videos"
    for name in ("a.mp4", "b.mov", "deep/c.mp4"):
        path = videos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make_video(path, num_frames=25)
    (videos / "broken.mp4").write_bytes(b"no video at all")
    (videos / "notes.txt").write_text("nothing to see")
    return videos


def reports_of(out: str) -> dict[str, dict]:
    found = [json.loads(line) for line in out.splitlines()]
    return {Path(report["video"]).name: report for report in found}


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_broken_clip_is_a_line_and_not_the_end(run, folder, tiny_bundle, tmp_path, jobs):
    out = tmp_path / "sounds"
    words = (folder, out, "--model", tiny_bundle, "--seed", 3, "--jobs", jobs, "--json")
    told = run("generate-all", *words)
    reports = reports_of(told.out)
    assert told.code == 1 and set(reports) == {"a.mp4", "b.mov", "broken.mp4", "c.mp4"}
    assert "cannot be read as video" in reports["broken.mp4"]["error"]
    assert reports["c.mp4"]["output"] == str(out / "deep" / "c.wav")
    for name, report in reports.items():
        if name != "broken.mp4":
            assert report["duration_s"] == 1.0 and report["seed"] == 3
    alone = tmp_path / "alone.wav"
    assert run("generate", folder / "a.mp4", alone, "--model", tiny_bundle, "--seed", 3).code == 0
    assert (out / "a.wav").read_bytes() == alone.read_bytes()

    (folder / "broken.mp4").unlink()
    (out / "b.wav").unlink()
    (out / "b.wav").mkdir()
    again = run("generate-all", *words)
    reports = reports_of(again.out)
    assert again.code == 1 and "b.wav is a folder, expected a file" in reports["b.mov"]["error"]
    (out / "b.wav").rmdir()
    again = run("generate-all", *words)
    reports = reports_of(again.out)
    assert again.code == 0 and reports["a.mp4"]["skipped"] == "it exists"
    assert "duration_s" in reports["b.mov"]
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    sounds = {"a.wav", "b.wav", "deep/c.wav"}
    assert names == sounds | {f"{name}.vab.json" for name in sounds}


def test_people_read_what_failed_last(run, folder, tiny_bundle, tmp_path):
    told = run("generate-all", folder, tmp_path / "out", "--model", tiny_bundle)
    assert told.out.splitlines()[0].startswith(f"{tmp_path / 'out'}: 3 made, 0 skipped, 1 failed")
    assert told.out.splitlines()[1:] == [f"failed: {folder / 'broken.mp4'}"]
    assert told.err.startswith(f"error: {folder / 'broken.mp4'}: ")


def test_a_line_is_there_as_soon_as_it_is_told(monkeypatch):
    """For whoever reads a long run's --json through a pipe."""
    read = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(read, "utf-8"))
    print_line("{}")
    assert read.getvalue().split() == [b"{}"]


def test_which_videos_there_are(folder, tmp_path):
    out = tmp_path / "out"
    make_video(folder / "a.mkv", num_frames=2)
    (folder / ".hidden.mp4").write_bytes(b"")
    names = [job.out.relative_to(out).as_posix() for job in find_jobs(folder, out, ".wav")]
    assert names == ["a.mkv.wav", "a.mp4.wav", "b.wav", "broken.wav", "deep/c.wav"]
    listed = tmp_path / "list.txt"
    lines = (
        "videos/a.mp4",
        "# mine",
        "videos/a.mp4",
        "",
        "videos/a.mp4",
        "videos/../videos/a.mp4",
        folder / "deep" / "c.mp4",
        "../x.mp4",
        "https://host/y.mp4",
        "one\u2028line.mp4",
    )
    listed.write_text("\n".join(map(str, lines)), "utf-8-sig")  # as editors of Windows do
    jobs = find_jobs(listed, out, ".flac")
    assert [job.out.relative_to(out).as_posix() for job in jobs] == [
        "videos/a.flac", "c.flac", "x.flac", "y.flac", "one\u2028line.flac",
    ]  # fmt: skip
    assert jobs[3].video == Path("https:/host/y.mp4")
    assert jobs[0].video == tmp_path / "videos/a.mp4"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with ThreadPoolExecutor(1) as shell:  # as <(...) of a shell
            shell.submit((tmp_path / "pipe").write_text, "videos/a.mp4\n")
            assert [job.video for job in find_jobs(tmp_path / "pipe", out, ".wav")] == [
                Path("videos/a.mp4")
            ]
    inside = folder / "out"
    inside.mkdir()
    make_video(inside / "made.mp4", num_frames=2)
    assert not any("made" in job.video.name for job in find_jobs(folder, inside, ".mp4"))


def test_each_video_has_a_sound_of_its_own(tmp_path):
    """Also those of one name in several folders, as find lists them."""
    listed = tmp_path / "list.txt"
    folders = [(tmp_path / name).as_posix() for name in "bc"]
    lines = [f"{folder}/{name}" for folder in folders for name in ("a.mp4", "a.mov", "d.mp4.mkv")]
    listed.write_text("\n".join([*lines, f"{tmp_path}/b/d.mp4", "e", "e.mp4.mkv", "."]))
    jobs = find_jobs(listed, tmp_path / "out", ".wav")
    assert len({job.out for job in jobs}) == len(jobs) == 9
    below = tmp_path.relative_to(tmp_path.anchor)
    assert jobs[0].out == tmp_path / "out" / below / "b" / "a.mp4.wav"
    assert [job.out.name for job in jobs[-2:]] == ["e.wav", "e.mp4.wav"]


def test_shards_share_all_and_overlap_in_none():
    jobs = [Job(Path(f"{i}.mp4"), Path(f"{i}.wav")) for i in range(11)]
    shares = [share_of(jobs, f"{i}/4") for i in range(4)]
    assert sorted(job for share in shares for job in share) == sorted(jobs)
    assert max(map(len, shares)) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none", "out"), "none does not exist, expected a folder of videos or a list"),
        (("empty", "out"), "empty holds no videos"),
        (("picture.png", "out"), "picture.png is no text, expected a folder of videos or a list"),
        (("videos", "out", "--shard", "4/4"), "expected I/N with I from 0 to N - 1"),
        (("videos", "out", "--shard", "x"), "expected I/N"),
        (("videos", "out", "--jobs", "0"), "jobs is 0, expected 1 to 256"),
        (("videos", "out", "--format", "xyz"), "expected one of wav, flac"),
        (("videos", "out", "--model", "none"), "none"),
        (("videos", "out", "--model", "none", "--jobs", "2"), "none"),
        (("videos", "out", "--kind", "dog"), "has no names for what it sees"),
        (("videos", "out", "--device", "gpu"), "device is 'gpu', expected auto, cpu, cuda"),
        (("videos", "out", "--precision", "int9"), "precision is 'int9', expected fp32 or int8"),
        (("videos", "out", "--precision", "int8", "--model", "mapper"), "of the kind v2a-mapper"),
        (("videos", "videos/notes.txt/out"), "cannot be made (Not a directory)"),
        (("clip", "out"), "is no text, expected a folder of videos or a list"),
        (("videos", "videos", "--format", "mp4"), "would be its own output, expected another"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, folder, v2a_bundle, monkeypatch, words, message):
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    Path("clip").write_bytes(b"\0\0\0 ftypisom")
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    told = run("generate-all", *(v2a_bundle if word == "mapper" else word for word in words))
    assert told.code == 1 and message in told.err and told.err.count("\n") == 1, told.err
    assert not Path("out").exists()


def test_a_clip_that_kills_its_process_does_not_hold_the_rest():
    jobs = [Job(Path(f"{name}.mp4"), Path("x")) for name in ("a", "kills", "b", "c", "kills2", "d")]
    reports = {job.video.stem: report for job, report in run_jobs(jobs, open_worker, 2)}
    assert {name for name, report in reports.items() if "error" in report} == {"kills", "kills2"}
    assert len(reports) == 6 and "its process died" in reports["kills"]["error"]


def test_whoever_stops_asking_stops_the_processes():
    jobs = [Job(Path(f"{name}.mp4"), Path("x")) for name in ("a", "slow", "slow2", "slow3")]
    begin, threads = time.monotonic(), threading.active_count()
    steps = run_jobs(jobs, open_worker, 2)
    next(steps)
    steps.close()
    assert time.monotonic() - begin < 300
    assert threading.active_count() <= threads + 1  # one of the pools' own may still end


def test_a_sound_may_have_as_long_a_name_as_alone(tmp_path):
    path = tmp_path / f"{'ü' * 121}.wav"  # 246 bytes: its take has 255
    with claimed(path) as is_ours, claimed(path) as is_ours_too:
        assert is_ours and not is_ours_too


def test_two_runs_at_once_leave_each_other_their_clips(tmp_path, run, folder, tiny_bundle):
    out = tmp_path / "sounds"
    out.mkdir()
    with claimed(out / "a.wav") as is_ours:
        assert is_ours
        told = run("generate-all", folder, out, "--model", tiny_bundle, "--json")
    reports = reports_of(told.out)
    assert reports["a.mp4"]["skipped"] == "another run makes it" and not (out / "a.wav").exists()
    assert (out / "b.wav").exists() and not list(out.glob(".vab-rt*"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interruption_leaves_nothing_half(folder, tmp_path, jobs):
    """Ctrl-C goes to all processes of a terminal; what is finished stays."""
    long = make_video(folder / "long.mp4", num_frames=1500)
    out = tmp_path / "sounds"
    words = command("generate-all", folder, out, "--jobs", jobs, "--steps", 16, "--json")
    process = subprocess.Popen(
        with_usual_signals(words),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not list(out.glob(".vab-rt-*.part")) or not list(out.glob("*.wav")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130 and b"Traceback" not in error, error
    assert not list(out.glob(".vab-rt-*")) and long.exists()
    for path in out.glob("*.wav"):
        assert Audio.load(path).duration_s >= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 90), ("00:01:30.5", 90.5), ("1.5", 1.5), (2.5, 2.5), ("-1", -1)],
)
def test_times_as_people_write_them(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["soon", "", "1:", "1:99", "1:-5", "1:nan", "1:2:3:4"])
def test_what_is_no_time(text):
    with pytest.raises(typer.BadParameter, match="is no time, such as 90, 1:30"):
        seconds(text)


def test_words_of_hosts(run, videos, tiny_bundle, tmp_path):
    """Times, random seeds, progress as lines, and errors as JSON."""
    words = ("generate", videos(60), tmp_path / "a.wav", "--model", tiny_bundle)
    told = run(*words, "--start", "0:00.4", "--seed", "random", "--json", "--progress", "lines")
    report = json.loads(told.out)
    assert told.code == 0 and report["duration_s"] == 2.0 and 0 <= report["seed"] < 2**32
    assert told.err.splitlines()[-1] == "percentage: 100"
    assert all(line.startswith("percentage: ") for line in told.err.splitlines())
    refused = run(*words, "--json")
    assert refused.code == 1
    error = json.loads(refused.out)
    assert error["kind"] == "OutputError" and refused.err == f"error: {error['error']}\n"
    assert run(*words, "--start", "soon").code == 2
    assert run(*words, "--seed", "x").code == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [("50000 100000", 1), ("250000 100000", 3), ("max 100000", 1 << 16), ("", 1 << 16)],
)
def test_a_containers_share_of_cores(tmp_path, content, expected):
    (tmp_path / "cpu.max").write_text(content)
    assert quota_of(tmp_path / "cpu.max") == expected
    assert quota_of(tmp_path / "none") == 1 << 16


def test_a_source_that_is_neither(tmp_path):
    with pytest.raises(OptionError, match="does not exist"):
        find_jobs(tmp_path / "none", tmp_path / "out", ".wav")


def test_names_that_no_file_has_are_lines_that_steer_no_terminal(
    run, videos, tiny_bundle, tmp_path
):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{300 * 'x'}.mp4\n{videos(50)}\n\x1b[2J.mp4\n")
    told = run("generate-all", listed, tmp_path / "out", "--model", tiny_bundle)
    assert told.code == 1 and "(File name too long" in told.err and told.err.count("\n") == 2
    assert "1 made, 0 skipped, 2 failed" in told.out
    assert "\x1b" not in told.out + told.err
