"""The hosted CI calls what is here: targets of the Makefile, on all three systems."""

import re
from pathlib import Path

import yaml

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
