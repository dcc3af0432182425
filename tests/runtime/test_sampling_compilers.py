"""The native kernel from every compiler and on every CPU there is, and under sanitizers.

`native_step.cpp` is built with the flags of CMakeLists.txt. CPUs that this machine is not are
emulated by qemu; what is not installed is skipped. Older thread sanitizers run in some address
layouts alone, so the layout is not random for them, where that is allowed.
"""

import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sampling_cases import damaged_cases, equal_cases, run

TESTS = Path(__file__).parents[1]
SOURCES = TESTS.parent / "kernels" / "sampling"
ARM = "aarch64-linux-gnu-g++"
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FIXED_LAYOUT = ("setarch", "-R")
WAYS = {
    "gcc": ("g++", (), ()),
    "gcc, plain x86-64": ("g++", (), ("qemu-x86_64", "-cpu", "Nehalem")),
    "gcc, AVX2": ("g++", (), ("qemu-x86_64", "-cpu", "Haswell")),
    "clang": ("clang++", (), ()),
    "clang, plain x86-64": ("clang++", (), ("qemu-x86_64", "-cpu", "Nehalem")),
    "clang, AVX2": ("clang++", (), ("qemu-x86_64", "-cpu", "Haswell")),
    "NEON": (ARM, ("-static",), ("qemu-aarch64",)),
    "address and undefined": ("g++", SANITIZED, ()),
    "threads": ("g++", ("-fsanitize=thread", "-DVAB_ONE_VERSION"), FIXED_LAYOUT),
}
NO_SANITIZER = re.compile(rb"ThreadSanitizer: unexpected memory mapping|LeakSanitizer has .* fatal")
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
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            if missing := re.search(r"cannot find \S+", found.stderr):
                pytest.skip(f"{compiler} {missing[0]}")
            assert found.returncode == 0, found.stderr
            done[compiler, options] = program
        return done[compiler, options]

    return compile_with


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
    if emulator == FIXED_LAYOUT and subprocess.run([*emulator, "true"], check=False).returncode:
        emulator = ()  # not allowed in this container
    whole = {name: (case, True) for name, case in equal_cases().items()}
    cases = whole | {name: (case, False) for name, case in damaged_cases().items()}
    stdin = b"".join(as_bytes(case) for case, _ in cases.values())
    done = subprocess.run([*emulator, program], input=stdin, capture_output=True, check=False)
    if refusal := NO_SANITIZER.search(done.stderr):
        pytest.skip(refusal[0].decode())
    assert done.returncode == 0, done.stderr
    found = np.frombuffer(done.stdout, np.int32)
    for case_name, (case, is_finite) in cases.items():
        count = case["tokens"].size
        (finite, allocations), found = found[:2], found[2:]
        tokens, found = found[:count], found[count:]
        expected = run(case) if is_finite else case["tokens"]
        assert finite == is_finite, case_name
        assert allocations == 0, case_name
        np.testing.assert_array_equal(tokens, expected.ravel(), err_msg=case_name)
    assert found.size == 0
