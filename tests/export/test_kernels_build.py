"""The compiled kernels: reproducible, small, exact, and those that the sources give."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
pytest.importorskip("kernels", reason="the kernels' sources are not part of the installed package")

from kernels import build

CUBINS = Path(__file__).parents[2] / "vab_rt" / "engines" / "cubins"
PAGE = Path(build.__file__).parent.joinpath("sampling", "README.md").read_text()
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


def test_the_targets_of_the_build_are_those_that_are_shipped():
    assert FILES == [
        f"{kernel}.sm_{nn}.cubin" for kernel in build.SIGNATURES for nn in build.TARGETS
    ]


@pytest.mark.parametrize("name", FILES)
def test_no_multiplication_is_fused_with_an_addition_and_nothing_spills(name):
    cubin = (CUBINS / name).read_bytes()
    sass = build.disassemble(cubin)
    assert build.num_instructions(sass) > 500
    assert build.num_instructions(sass, build.FUSED) == 0
    if name.startswith("sample"):
        assert build.num_instructions(sass, "FMUL") > 300
    used = build.resources(cubin)
    assert used["STACK"] == used["LOCAL"] == 0


@pytest.mark.parametrize("kernel", SHIPPED["kernels"], ids=FILES)
def test_the_page_of_the_kernel_lists_what_the_machine_code_asks_for(kernel):
    """Registers, spills, shared memory, warps, instructions and FFMA, as the build prints them."""
    cubin = (CUBINS / kernel["file"]).read_bytes()
    facts = {name: kernel[name] for name in kernel.keys() - {"file", "size_bytes", "sha256"}}
    assert build.table_row(build.Compiled(cubin=cubin, **facts)) in PAGE.splitlines()


def test_a_fused_instruction_would_be_counted():
    sass = (
        "        /*0040*/   @!P0 FFMA R1, R2, R3, R4 ;\n"
        "        /*0050*/   FFMA.FTZ R1, R2 ;\n"
        "        /*0060*/   FFMA2 R2, R4.F32x2.HI_LO, R6, R8 ;\n"
        "        /*0070*/   IMAD R1, R2, R3, R4 ;\n"
    )
    assert build.num_instructions(sass, build.FUSED) == 3
