"""The compiled kernels: reproducible, small, exact, and those that the sources give."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
pytest.importorskip("kernels", reason="the kernels' sources are not part of the installed package")

from kernels import build

CUBINS = Path(__file__).parent.parent / "vab_rt" / "engines" / "cubins"
SHIPPED = json.loads((CUBINS / "kernels.json").read_text())
FILES = [kernel["file"] for kernel in SHIPPED["kernels"]]


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Two folders built for one target, each from an empty cache in a process of its own."""
    folders = [tmp_path_factory.mktemp("build") for _ in range(2)]
    for folder in folders:
        subprocess.run(
            [sys.executable, "-m", "kernels.build", "--out", folder, "--target", "90"],
            cwd=build.DEFAULT_OUT.parents[2],
            env=os.environ | {"TRITON_CACHE_DIR": str(folder / "cache"), "TRITON_INTERPRET": "0"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return folders


@pytest.mark.parametrize("name", ["sample.sm_90.cubin", "remask.sm_90.cubin", "kernels.json"])
def test_two_clean_builds_are_equal_byte_for_byte(builds, name):
    first, second = ((folder / name).read_bytes() for folder in builds)
    assert first == second
    assert str(builds[0]).encode() not in first


@pytest.mark.parametrize("name", ["sample.sm_90.cubin", "remask.sm_90.cubin"])
def test_the_shipped_kernels_are_those_of_the_sources(builds, name):
    if triton.__version__ != SHIPPED["triton"]:
        pytest.skip(f"shipped by Triton {SHIPPED['triton']}, installed is {triton.__version__}")
    assert (builds[0] / name).read_bytes() == (CUBINS / name).read_bytes(), (
        "the sources have changed: run python -m kernels.build"
    )


def test_every_kernel_is_shipped_for_every_target_and_the_description_fits():
    expected = [f"{kernel}.sm_{nn}.cubin" for kernel in build.SIGNATURES for nn in build.TARGETS]
    assert FILES == expected
    assert sorted(path.name for path in CUBINS.glob("*.cubin")) == sorted(expected)
    for kernel in SHIPPED["kernels"]:
        content = (CUBINS / kernel["file"]).read_bytes()
        assert kernel["size_bytes"] == len(content)
        assert kernel["sha256"] == hashlib.sha256(content).hexdigest()


def test_all_cubins_together_are_under_a_megabyte():
    assert sum((CUBINS / name).stat().st_size for name in FILES) < 1_000_000


@pytest.mark.parametrize("name", FILES)
def test_no_multiplication_is_fused_with_an_addition_and_nothing_spills(name):
    cubin = (CUBINS / name).read_bytes()
    sass = build.disassemble(cubin)
    assert build.num_instructions(sass) > 500
    assert build.num_instructions(sass, "FFMA") == 0
    if name.startswith("sample"):
        assert build.num_instructions(sass, "FMUL") > 300
    used = build.resources(cubin)
    assert used["STACK"] == used["LOCAL"] == 0


def test_a_fused_instruction_would_be_counted():
    sass = "        /*0040*/   @!P0 FFMA R1, R2, R3, R4 ;\n        /*0050*/   FFMA.FTZ R1, R2 ;"
    assert build.num_instructions(sass, "FFMA") == 2
