"""The hosted CI calls what is here: targets of the Makefile, on all three systems; and no test
falls between two environments."""

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import yaml
from passed import passed_in, place_of

ROOT = Path(__file__).parents[2]


def test_the_workflow_calls_targets_that_there_are():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = {name for command in commands for name in re.findall(r"make ([\w-]+)", command)}
    makefile = (ROOT / "Makefile").read_text()
    assert targets and targets <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert "bash .ci/run" in commands
    for name in ("runtime", "wheels"):
        systems = {os.partition("-")[0] for os in jobs[name]["strategy"]["matrix"]["os"]}
        assert systems == {"ubuntu", "macos", "windows"}
    assert "ubuntu-24.04-arm" in jobs["wheels"]["strategy"]["matrix"]["os"]
    assert jobs["runtime"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]


def test_a_wheel_for_every_platform_and_one_from_python_3_12_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config = project["tool"]["cibuildwheel"]
    kinds = [f"{libc}linux_{cpu}" for libc in ("many", "musl") for cpu in ("x86_64", "aarch64")]
    kinds += ["macosx_arm64", "macosx_x86_64", "win_amd64"]
    for kind in kinds:
        chosen = [
            f"cp{python}-{kind}"
            for python in (311, 312, 313, 314)
            if any(fnmatch(f"cp{python}-{kind}", one) for one in config["build"])
            and not any(fnmatch(f"cp{python}-{kind}", one) for one in config["skip"])
        ]
        assert chosen == [f"cp311-{kind}", f"cp312-{kind}"]
    assert config["macos"]["archs"] == ["arm64", "x86_64"]
    assert project["tool"]["scikit-build"]["wheel"]["py-api"] == "cp312"


REPORT = """<testsuites><testsuite name="pytest">
  <testcase classname="build.wheel-tests.tests.runtime.test_x" name="test_it[a.b/c::d &quot;]"/>
  <testcase classname="tests.gpu.test_x" name="test_other" time="1"></testcase>
  <testcase classname="tests.gpu.test_x" name="test_skipped"><skipped message="no"/></testcase>
  <testcase classname="tests.gpu.test_x" name="test_failed"><failure message="no"/></testcase>
  <testcase classname="tests.gpu.test_x" name="test_broken"><error message="no"/></testcase>
</testsuite></testsuites>"""


def test_what_was_skipped_or_failed_in_one_environment_runs_in_the_next(tmp_path, request):
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    named = ("runtime", "test_x", 'test_it[a.b/c::d "]')
    assert passed_in(path) == {named, ("gpu", "test_x", "test_other")}
    assert place_of(request.node) == ("export", "test_hosted_ci", request.node.name)
