"""The Dockerfile: its rules, and its steps in a fresh environment, as no Docker may be here."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from command import wait_for

ROOT = Path(__file__).parents[2]


def steps(text):
    """Instructions and their text, one line each."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


STEPS = steps((ROOT / "Dockerfile").read_text())


def only(instruction):
    (text,) = [text for name, text in STEPS if name == instruction]
    return text


def test_the_rules():
    images = [text.split()[0] for name, text in STEPS if name == "FROM"]
    versions = {re.fullmatch(r"python:(\d+\.\d+\.\d+)-(?:slim-)?bookworm", each) for each in images}
    assert len({found[1] for found in versions}) == 1, "pinned, and of one Python"
    names = [name for name, _ in STEPS]
    assert int(only("USER")) > 0 and names.index("USER") > max(
        i for i, name in enumerate(names) if name in ("RUN", "COPY", "FROM")
    )
    assert "ADD" not in names and "VAB_RT_TOKEN" not in "".join(text for _, text in STEPS)
    assert "/health" in only("HEALTHCHECK") and only("EXPOSE") in only("HEALTHCHECK")


def test_hadolint():
    beside = Path(sys.executable).with_name("hadolint")
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    command = [hadolint, ROOT / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def context(folder):
    """What .dockerignore leaves."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] != "#"]
    kept = [line[1:] for line in lines if line.startswith("!")]
    dropped = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    assert lines == ["*", *(f"!{name}" for name in kept), *(f"**/{name}" for name in dropped)]
    folder.mkdir()
    for name in kept:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(*dropped))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.slow  # 20 s of the CPU, most of it pip's
def test_the_steps_in_a_fresh_environment(tiny_bundle, tmp_path):
    home = str(tmp_path / "vab-rt")
    install = next(text for name, text in STEPS if name == "RUN").replace("/opt/vab-rt", home)
    # Without its compiled sampling step, which the tests of the wheel are about: 25 s less.
    inside = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(
        ["sh", "-c", install],
        cwd=context(tmp_path / "src"),
        env={**inside, "CXX": "false"},
        check=True,
    )
    files = [path for path in Path(home).rglob("*") if path.is_file() and not path.is_symlink()]
    assert not any(
        path.name in ("torch", "pip") for path in Path(home).glob("lib/*/site-packages/*")
    )
    (told_mb,) = re.findall(r"in (\d+) MB beside", (ROOT / "docs/SERVER.md").read_text())
    assert sum(path.stat().st_size for path in files) / 1e6 == pytest.approx(int(told_mb), rel=0.15)

    entry, words = json.loads(only("ENTRYPOINT")), json.loads(only("CMD"))
    start = [f"{home}/bin/{entry[0]}", *words, "--model", str(tiny_bundle)]
    inside = {"PATH": f"{home}/bin:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    refused = subprocess.run(start, env=inside, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "set VAB_RT_TOKEN" in refused.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([*start, "--port", str(port)], env={**inside, "VAB_RT_TOKEN": "it"})
    try:
        check = json.loads(only("HEALTHCHECK").partition("CMD ")[2].replace("8000", str(port)))

        def is_healthy():
            assert server.poll() is None
            asked = subprocess.run(check, env=inside, stderr=subprocess.DEVNULL, check=False)
            return asked.returncode == 0

        assert wait_for(is_healthy)
        models = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(models)
        models.add_header("Authorization", "Bearer it")
        assert urllib.request.urlopen(models).status == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(600) == 143
    finally:
        server.kill()
