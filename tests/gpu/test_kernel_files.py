"""The compiled kernels as they are installed: all there, small, whole, of use without Triton."""

import hashlib
import json
import subprocess
import sys
from importlib.resources import files

import msgspec
import pytest

from vab_rt.engines.sampling_kernels import kernel_file_for, open_kernel_files, read_cubin
from vab_rt.errors import BackendError

FOLDER = files("vab_rt").joinpath("engines", "cubins")
KERNELS, TARGETS = ("sample", "remask"), (80, 86, 89, 90, 100, 120)
NAMES = [f"{kernel}.sm_{target}.cubin" for kernel in KERNELS for target in TARGETS]
READ_ALL = """
import json, sys
for absent in ("triton", "torch", "cuda", "cuda.core", "cuda.bindings"):
    sys.modules[absent] = None
from vab_rt.engines.sampling_kernels import open_kernel_files, read_cubin
print(json.dumps({file.file: len(read_cubin(file)) for file in open_kernel_files().kernels}))
"""


def test_every_kernel_is_installed_for_every_target_and_nothing_else():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted([*NAMES, "kernels.json"])


def test_together_they_are_under_a_megabyte():
    assert sum(len(path.read_bytes()) for path in FOLDER.iterdir()) < 1_000_000


def test_the_description_fits_the_files():
    described = open_kernel_files().kernels
    assert [file.file for file in described] == NAMES
    for file in described:
        content = FOLDER.joinpath(file.file).read_bytes()
        assert content.startswith(b"\x7fELF")
        assert (file.size_bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert file.entry == file.kernel and f"{file.kernel}.sm_{file.target}." in file.file
        assert file.entry.encode() in content
        assert file.num_warps in (4, 8, 16) and 0 <= file.shared_bytes <= 48 * 1024
        assert [a.name for a in file.arguments][-2:] == ["global_scratch", "profile_scratch"]


def test_neither_triton_nor_torch_nor_cuda_is_needed_to_read_them():
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL], check=True, capture_output=True, text=True
    )
    assert list(json.loads(done.stdout)) == NAMES


@pytest.mark.parametrize(
    ("capability", "target"),
    [((8, 0), 80), ((8, 6), 86), ((8, 7), 86), ((8, 9), 89), ((9, 0), 90), ((12, 0), 120)],
)
def test_each_gpu_gets_the_newest_kernel_that_runs_on_it(capability, target):
    file = kernel_file_for("sample", capability)
    assert file.target == target
    assert len(read_cubin(file)) == file.size_bytes


@pytest.mark.parametrize("capability", [(7, 5), (9, 1), (10, 3), (12, 1)])
def test_other_gpus_have_no_kernel(capability):
    with pytest.raises(BackendError, match="expected one of 8.0, 8.6, 8.9, 9.0, 10.0, 12.0"):
        kernel_file_for("remask", capability)


def test_a_changed_cubin_is_refused():
    file = msgspec.structs.replace(kernel_file_for("sample", (9, 0)), sha256="0" * 64)
    with pytest.raises(BackendError, match="sample.sm_90.cubin differs from kernels.json"):
        read_cubin(file)
