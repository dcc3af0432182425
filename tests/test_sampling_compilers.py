"""The native kernel from every compiler and on every processor there is, and under sanitizers.

`native_step.cpp` is built with the flags of CMakeLists.txt. Processors that this machine is not are
emulated by qemu; what is not installed is skipped.
"""

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_sampling import make_case, run

TESTS = Path(__file__).parent
SOURCES = TESTS.parent / "kernels" / "sampling"
ARM = "aarch64-linux-gnu-g++"
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
WAYS = {
    "gcc": ("g++", (), ()),
    "gcc, plain x86-64": ("g++", (), ("qemu-x86_64", "-cpu", "Nehalem")),
    "gcc, AVX2": ("g++", (), ("qemu-x86_64", "-cpu", "Haswell")),
    "clang": ("clang++", (), ()),
    "clang, plain x86-64": ("clang++", (), ("qemu-x86_64", "-cpu", "Nehalem")),
    "clang, AVX2": ("clang++", (), ("qemu-x86_64", "-cpu", "Haswell")),
    "NEON": (ARM, ("-static",), ("qemu-aarch64",)),
    "address and undefined": ("g++", SANITIZED, ()),
    "threads": ("g++", ("-fsanitize=thread", "-DVAB_ONE_VERSION"), ()),
}
pytestmark = pytest.mark.skipif(
    not SOURCES.is_dir() or sys.platform != "linux",
    reason="needs Linux and the sources of the kernel",
)


def flags():
    """Those that CMakeLists.txt gives every compiler but Microsoft's."""
    cmake = (TESTS.parent / "CMakeLists.txt").read_text()
    (options,) = re.findall(r"_sampling PRIVATE (-O3 [^)]*)\)", cmake)
    assert "-ffp-contract=off" in options
    return ["-std=c++17", *options.split(), "-pthread"]


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Compiles once for each compiler and its options."""
    done = {}

    def compile_with(compiler, options):
        if shutil.which(compiler) is None:
            pytest.skip(f"{compiler} is not installed")
        if (compiler, options) not in done:
            program = tmp_path_factory.mktemp("native") / "step"
            source = TESTS / "native_step.cpp"
            command = [compiler, *flags(), *options, f"-I{SOURCES}", source, "-o", program]
            subprocess.run(command, check=True)
            done[compiler, options] = program
        return done[compiler, options]

    return compile_with


def cases():
    damaged = make_case(masked=2.0)
    damaged["unconditional"][1, 62, 36] = np.nan
    even = make_case(masked=2.0, unconditional=None, guidance=1.0, mask_temperature=0.0)
    even["conditional"] = np.round(even["conditional"])  # ties in the row and in confidence
    odd = [(size, top_k) for size in (1, 15, 17, 63, 781, 2048) for top_k in (0, 7, 256)]
    return [
        *(make_case(size + top_k, 2, 9, size, top_k=top_k) for size, top_k in odd),
        *(make_case(3, scale=scale) for scale in (0.0, 1e-39, 1e7, 1e37)),
        make_case(positions=1823, size=5),
        make_case(masked=-1.0),
        even,
        damaged,
    ]


def as_bytes(case, threads=2):
    """A case as `native_step.cpp` reads it."""
    unconditional = case["unconditional"]
    header = struct.pack(
        "=qqiiiiIfff",
        *case["conditional"].shape,
        case["top_k"],
        unconditional is not None,
        threads,
        case["step"],
        case["guidance"],
        1 / case["temperature"],
        case["mask_temperature"],
    )
    names = ("seeds", "num_remask", "tokens", "conditional", "unconditional")
    arrays = [case[name].tobytes() for name in names if case[name] is not None]
    return b"".join((header, *arrays))


@pytest.mark.parametrize("name", WAYS)
def test_tokens_equal_the_reference(name, build):
    compiler, options, emulator = WAYS[name]
    if emulator and shutil.which(emulator[0]) is None:
        pytest.skip(f"{emulator[0]} is not installed")
    program = build(compiler, options)
    written = subprocess.run(
        [*emulator, program],
        input=b"".join(map(as_bytes, cases())),
        capture_output=True,
        check=True,
    )
    found = np.frombuffer(written.stdout, np.int32)
    for case in cases():
        count = case["tokens"].size
        finite, tokens, found = found[0], found[1 : 1 + count], found[1 + count :]
        is_damaged = np.isnan(case["conditional"]).any() or any_nan(case["unconditional"])
        assert finite == (not is_damaged)
        expected = case["tokens"] if is_damaged else run(case)
        np.testing.assert_array_equal(tokens, expected.ravel())
    assert found.size == 0


def any_nan(array):
    return array is not None and np.isnan(array).any()
