"""Nothing leaves the machine, and nothing is written for those who would like to know."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from vab_rt import doctor
from vab_rt.telemetry import VARIABLE, silence

ROOT = Path(__file__).parents[2]
# Any of these keeps onnxruntime quiet by itself, so that a test on a build machine proves nothing.
BUILD_MACHINES = ("CI", "TF_BUILD", "BUILD", "GITHUB_", "GITLAB_", "JENKINS", "TRAVIS", "CIRCLE")
BUILD_MACHINES += (
    "APPVEYOR",
    "TEAMCITY",
    "CODEBUILD",
    "BITBUCKET",
    "BUILDKITE",
    "PYTEST",
    VARIABLE,
)
GENERATE = """
import sys, vab_rt
audio = vab_rt.load(sys.argv[1], threads=1).generate(sys.argv[2], vab_rt.GenerateOptions(steps=1))
audio.save(sys.argv[3])
"""
COMMAND = ["-m", "vab_rt", "generate", "--steps", "1", "--model"]


def users_environment(home: Path, **more: str) -> dict[str, str]:
    """That of somebody at home, on no build machine, for the first time."""
    kept = {name: value for name, value in os.environ.items() if "XDG_" not in name}
    kept = {name: value for name, value in kept.items() if not name.startswith(BUILD_MACHINES)}
    return kept | {"HOME": str(home), **more}


def python(arguments: list[object], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("way", ["api", "command"])
def test_generating_leaves_nothing_at_home(way, tiny_bundle, videos, tmp_path):
    home, out = tmp_path / "home", tmp_path / "out.wav"
    home.mkdir()
    if way == "api":
        arguments = ["-c", GENERATE, tiny_bundle, videos(25), out]
    else:
        arguments = [*COMMAND, tiny_bundle, videos(25), out]
    python(arguments, users_environment(home))
    assert out.exists() and files_in(home) == []


def test_what_the_host_asks_for_stays(tiny_bundle, videos, tmp_path):
    """And so the test above can fail: this onnxruntime does write where it may."""
    if tuple(map(int, version("onnxruntime").split(".")[:2])) < (1, 29):
        pytest.skip("onnxruntime before 1.29 has no telemetry in its wheels")
    arguments = ["-c", GENERATE, tiny_bundle, videos(25), tmp_path / "out.wav"]
    home = tmp_path / "home"
    home.mkdir()
    python(arguments, users_environment(home, **{VARIABLE: "0"}))
    assert any(name.endswith("deviceid") for name in files_in(home))


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("", "1"), ("0", "0"), ("yes", "yes")])
def test_the_variable_is_set_unless_it_is(before, after, tmp_path):
    environment = users_environment(tmp_path, **({} if before is None else {VARIABLE: before}))
    shown = python(["-c", f"import vab_rt, os; print(os.environ['{VARIABLE}'])"], environment)
    assert shown == after + "\n"


def test_a_home_that_cannot_be_written_is_no_warning(tiny_bundle, videos, tmp_path):
    out = tmp_path / "out.wav"
    environment = users_environment(Path("/proc/nobody"))
    assert python([*COMMAND, tiny_bundle, "--quiet", videos(25), out], environment) == ""
    assert out.exists()


@pytest.mark.parametrize(
    ("value", "calls"), [("1", 1), ("TRUE", 1), (None, 1), ("0", 0), ("false", 0), ("no", 0)]
)
def test_an_onnxruntime_that_was_there_before_is_silenced(value, calls, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    called: list[None] = []
    silence(SimpleNamespace(disable_telemetry_events=lambda: called.append(None)))
    assert len(called) == calls
    finding = {finding.subject: finding for finding in doctor.examine()}["telemetry"]
    assert finding.is_good is bool(calls)
    assert finding.advice == ("" if calls else f"unset {VARIABLE}")


def importers() -> Iterator[Path]:
    """Files of the checkout that import onnxruntime, or a module of it."""
    for folder in (*(path.parent for path in ROOT.glob("*/__init__.py")), ROOT / "tests"):
        for path in sorted(folder.rglob("*.py")):
            if any(name.split(".")[0] == "onnxruntime" for name in imported(path)):
                yield path


def imported(path: Path) -> Iterator[str]:
    """Names that a file imports, in its order, those in strings of `import_module` too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and a.value)


@pytest.mark.skipif(not (ROOT / "export").exists(), reason="the checkout is not here")
def test_nothing_imports_onnxruntime_before_its_telemetry_is_off():
    """Importing a module imports its package first; of the tests, conftest.py comes first."""
    found = list(importers())
    packages = {path.relative_to(ROOT).parts[0] for path in found}
    assert {"bench", "export", "tests", "vab_rt"} <= packages
    for package in packages - {"vab_rt"}:
        first = ROOT / package / ("conftest.py" if package == "tests" else "__init__.py")
        names = {name.split(".")[0] for name in imported(first)}
        assert "vab_rt" in names and not names & {"onnxruntime", *(p.stem for p in found)}, first
