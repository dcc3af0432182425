"""The clip job of Kdenlive: what is written, and that it works as Kdenlive calls it."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

THEIRS = "[Binary]\n{a1}=/usr/bin/ffmpeg\n\n[Ids]\n{a1}=Mine  ö\n\n[Param1List]\n{a1}=x  y\n"


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Path:
    """Kdenlive's file; and vab-rt as it is installed, beside a python."""
    program = tmp_path / "the bin" / "vab-rt"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vab_rt "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program.with_name("python")))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "platform", "linux")
    return tmp_path / "data" / "kdenlive" / "clipjobsettings.rc"


def job_in(settings: Path) -> dict[str, str]:
    """As KConfig reads it, and ClipJobManager::getJobParameters."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str
    parser.read_string(settings.read_text("utf-8"))
    return {group: parser[group]["vab-rt"] for group in parser.sections()}


def test_shown_then_written_then_there(run, settings):
    shown = run("kdenlive")
    assert shown.code == 0 and not settings.exists() and str(settings) in shown.out
    assert run("kdenlive", "--write").code == 0
    written = settings.read_bytes()
    assert all(
        f"[{group}]\nvab-rt={value}\n" in shown.out for group, value in job_in(settings).items()
    )
    again = run("kdenlive", "--write")
    assert again.code == 0 and "there already" in again.out and settings.read_bytes() == written


def test_what_is_there_stays(run, settings):
    settings.parent.mkdir(parents=True)
    settings.write_text(THEIRS, "utf-8")
    settings.chmod(0o600)
    assert run("kdenlive", "--write").code == 0
    new = settings.read_text("utf-8").splitlines()
    assert settings.stat().st_mode & 0o777 == 0o600
    assert [line for line in new if "vab-rt" not in line][: len(THEIRS.splitlines())] == (
        THEIRS.splitlines()
    )
    assert job_in(settings)["EnabledTypes"] == "v"
    settings.write_text(settings.read_text("utf-8").replace("--force", "--quiet"), "utf-8")
    changed = settings.read_bytes()
    told = run("kdenlive", "--write")
    assert told.code == 1 and "with other values" in told.err and settings.read_bytes() == changed


def test_without_the_command_it_is_told(run, settings, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    told = run("kdenlive")
    assert told.code == 1 and "expected the installed command" in told.err


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in of the command is a shell script")
def test_the_job_as_kdenlive_runs_it(run, settings, videos, tmp_path, tiny_bundle):
    """As CustomJobTask::run does: split at spaces, then replace; a file is success."""
    assert run("kdenlive", "--write").code == 0
    job = job_in(settings)
    source = tmp_path / "my film.cut 2.mp4"
    source.write_bytes(videos(25).read_bytes())
    out = source.with_name(source.name.partition(".")[0] + "." + job["Output"])
    seed = job["Param1List"].split("  ")[3]
    values = {"{source}": str(source), "{output}": str(out), "{param1}": seed}
    words = []
    for word in [one for one in job["Parameters"].split(" ") if one]:
        for name, value in values.items():
            word = word.replace(name, value)
        words.append(word)
    words += ["--model", str(tiny_bundle)]  # the default one takes seconds more
    done = subprocess.run([job["Binary"], *words], capture_output=True, text=True, check=False)
    assert out.stat().st_size > 0 and done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "percentage: 100" and seed == "3"
