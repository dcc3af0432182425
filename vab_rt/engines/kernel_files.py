"""The kernels that come with this package, compiled ahead of time, and what a launcher must know.

`kernels.json` lists them; `python -m kernels.build` writes it and them.
"""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

import msgspec

from vab_rt.errors import BackendError

_ARGUMENT_BYTES = {"*i32": 8, "*fp32": 8, "*i8": 8, "i32": 4}


class KernelArgument(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    type: str


class KernelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One compiled kernel, as `kernels.json` describes it."""

    file: str
    kernel: str
    target: int
    entry: str
    num_warps: int
    shared_bytes: int
    arguments: tuple[KernelArgument, ...]
    size_bytes: int
    sha256: str


class KernelFiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format_version: int
    triton: str
    block: int
    kernels: tuple[KernelFile, ...]


def open_kernel_files() -> KernelFiles:
    """What `kernels.json` says of the kernels in this package."""
    content = _folder().joinpath("kernels.json").read_bytes()
    return msgspec.json.decode(content, type=KernelFiles)


def kernel_file_for(kernel: str, compute_capability: tuple[int, int]) -> KernelFile:
    """The file of a kernel that runs on a GPU of that compute capability.

    8.0 files run on every 8.x; from 9.0 on each runs on its own capability alone.
    """
    major, minor = compute_capability
    available = [file for file in open_kernel_files().kernels if file.kernel == kernel]
    fitting = [
        file
        for file in available
        if file.target == 10 * major + minor or (major == 8 and 80 <= file.target <= 80 + minor)
    ]
    if not fitting:
        targets = ", ".join(f"{file.target // 10}.{file.target % 10}" for file in available)
        raise BackendError(
            f"the GPU has compute capability {major}.{minor}, expected one of {targets} or another "
            "8.x: use the device cpu"
        )
    return max(fitting, key=lambda file: file.target)


def read_cubin(file: KernelFile) -> bytes:
    """The machine code, after checking that it is what `kernels.json` describes."""
    cubin = _folder().joinpath(file.file).read_bytes()
    if hashlib.sha256(cubin).hexdigest() != file.sha256:
        raise BackendError(
            f"{file.file} differs from kernels.json, expected the file of the same build: "
            "pip install --force-reinstall --no-deps vab-rt"
        )
    return cubin


def check_arguments_of(file: KernelFile, sizes_bytes: list[int]) -> None:
    """Raise BackendError unless a loaded kernel takes what `kernels.json` says it takes."""
    expected = [_ARGUMENT_BYTES[argument.type] for argument in file.arguments]
    if sizes_bytes != expected:
        raise BackendError(
            f"{file.file} takes {len(sizes_bytes)} arguments of {sizes_bytes} bytes, expected "
            f"{len(expected)} of {expected}: cubins and kernels.json are of different builds"
        )


def _folder() -> Traversable:
    return files("vab_rt").joinpath("engines", "cubins")
