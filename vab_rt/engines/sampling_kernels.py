"""The sampling step on an NVIDIA GPU: launches the compiled kernels, without torch or Triton.

The kernels, the parameter block that they read and the error word that they write are described in
`kernels/sampling`. `cubins/kernels.json` lists what is compiled; `python -m kernels.build` writes
it. Letters: B clips, N positions, V codebook size and id of [MASK], S steps.
"""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vab_rt.engines.gpu import DeviceArray, Gpu, Kernel
from vab_rt.errors import BackendError, OptionError, VabError
from vab_rt.sampling_arguments import check_array, check_options

NOT_FINITE, BAD_COUNT, SCHEDULE_OVER = 1, 2, 4  # bits of the error word

HEADER_WORDS = 8  # of the parameter block

_STATE_HEADER_WORDS = 4  # the error word comes first, and the kernels rely on alignment

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


class CudaSampler:
    """The sampling step for batches of one shape [B, N, V], on one GPU and its stream.

    `begin` writes what belongs to a request into device memory; `launch` enqueues one step and may
    be captured in a CUDA graph and replayed; `check` waits and raises what the kernels found.
    Raises OptionError for a shape that the kernels cannot hold, BackendError where there is no room
    or no kernel for the GPU.
    """

    def __init__(
        self, gpu: Gpu, clips: int, positions: int, size: int, *, max_steps: int = 64
    ) -> None:
        _check_shape(clips, positions, size, max_steps)
        self.shape, self.max_steps, self._gpu = (clips, positions, size), max_steps, gpu
        self._kernels = {name: _load(gpu, name) for name in ("sample", "remask")}
        words = num_parameter_words(clips, max_steps)
        self._parameters = gpu.array(np.int32, (words,))
        self._state = gpu.array(np.int32, (_STATE_HEADER_WORDS + clips,))  # errors, schedule steps
        self._sampled = gpu.array(np.int32, (clips, positions))
        self._confidence = gpu.array(np.float32, (clips, positions))
        self._guidance = 1.0

    def begin(
        self,
        seeds: npt.NDArray[np.uint64],
        *,
        guidance: float,
        temperature: float,
        top_k: int,
        mask_temperatures: npt.NDArray[np.float32],
        num_remask: npt.NDArray[np.int32],
        first_step: int = 0,
    ) -> None:
        """Start a request: arguments as `pack_parameters`; errors are cleared."""
        check_array("num_remask", num_remask, np.int32, (None, self.shape[0]), "[S, B]")
        steps, clips = num_remask.shape
        check_array("seeds", seeds, np.uint64, (clips,), "[B]")
        check_array("mask_temperatures", mask_temperatures, np.float32, (steps,), "[S]")
        check_options(guidance, temperature, top_k)
        if not 1 <= steps <= self.max_steps:
            raise OptionError(f"num_remask has {steps} steps, expected 1 to {self.max_steps}")
        if not 0 <= first_step <= 2**32 - steps:
            raise OptionError(f"first_step is {first_step}, expected 0 to {2**32 - steps}")
        self._guidance = guidance
        block = pack_parameters(
            seeds, guidance, temperature, top_k, mask_temperatures, num_remask, first_step
        )
        self._gpu.upload(self._parameters.part(0, len(block)), block)
        self._gpu.upload(self._state, np.zeros(self._state.shape, np.int32))

    def launch(
        self,
        tokens: DeviceArray,
        conditional: DeviceArray,
        unconditional: DeviceArray | None = None,
        stream: Any = None,
    ) -> None:
        """Enqueue one step: tokens [B, N] int32 change in place, logits [B, N, V] float32.

        unconditional: None where guidance is 1, in every request that a captured launch is replayed
        for. stream: as `Gpu.launch` takes it. Nothing is copied or awaited.
        """
        if unconditional is None and self._guidance != 1:
            raise OptionError(
                f"guidance is {self._guidance}, expected 1 when unconditional is None"
            )
        clips, positions, size = self.shape
        _check_place("tokens", tokens, np.int32, (clips, positions))
        for name, logits in (("conditional", conditional), ("unconditional", unconditional)):
            if logits is not None:
                _check_place(name, logits, np.float32, self.shape)
        # One name for each argument of kernels.json; a Python float would be passed as a double.
        values = {
            "tokens": tokens.address,
            "conditional": conditional.address,
            "unconditional": (unconditional or conditional).address,
            "parameters": self._parameters.address,
            "steps": self._state.part(_STATE_HEADER_WORDS, self._state.shape[0]).address,
            "errors": self._state.address,
            "sampled": self._sampled.address,
            "confidence": self._confidence.address,
            "N": np.int32(positions),
            "V": np.int32(size),
            "global_scratch": 0,
            "profile_scratch": 0,
        }
        for name, grid in (("sample", (positions, clips)), ("remask", (clips,))):
            kernel, file = self._kernels[name]
            arguments = [values[argument.name] for argument in file.arguments]
            self._gpu.launch(kernel, grid, arguments, stream)

    def check(self) -> None:
        """Wait for the GPU and raise VabError for what the kernels found since `begin`."""
        errors = int(self._gpu.download(self._state.part(0, 1))[0])
        if errors & NOT_FINITE:
            raise VabError(
                f"conditional or unconditional logits of shape {self.shape} are not finite after "
                "guidance, expected finite values: the model or its input is damaged"
            )
        if errors & BAD_COUNT:
            raise OptionError(
                "num_remask is negative or over the masked positions of a clip, expected as many "
                "as are masked or fewer"
            )
        if errors & SCHEDULE_OVER:
            raise OptionError("more steps were launched than begin() was given, expected as many")


def num_parameter_words(clips: int, steps: int) -> int:
    """Length of the parameter block of B clips and S steps, in 32-bit words."""
    return HEADER_WORDS + 2 * clips + steps * (1 + clips)


def pack_parameters(
    seeds: npt.NDArray[np.uint64],
    guidance: float,
    temperature: float,
    top_k: int,
    mask_temperatures: npt.NDArray[np.float32],
    num_remask: npt.NDArray[np.int32],
    first_step: int,
) -> npt.NDArray[np.int32]:
    """The parameter block of a request.

    seeds [B]; mask_temperatures [S], already annealed; num_remask [S, B]; first_step numbers the
    noise of the first step. The rest as for `vab_rt.sampling.sample_step`.
    """
    steps, clips = num_remask.shape
    block = np.zeros(num_parameter_words(clips, steps), np.int32)
    floats, words = block.view(np.float32), block.view(np.uint32)
    floats[0], floats[1] = guidance, 1 / temperature
    block[2], block[3], words[4] = top_k, steps, first_step
    start = HEADER_WORDS + 2 * clips
    words[HEADER_WORDS:start] = seeds.astype("<u8").view("<u4")
    floats[start:].reshape(steps, 1 + clips)[:, 0] = mask_temperatures
    block[start:].reshape(steps, 1 + clips)[:, 1:] = num_remask
    return block


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


def _load(gpu: Gpu, name: str) -> tuple[Kernel, KernelFile]:
    """The kernel and its description, after every check that needs no launch."""
    file = kernel_file_for(name, gpu.capability)
    kernel = gpu.load_kernel(
        read_cubin(file),
        file.entry,
        num_threads=32 * file.num_warps,
        shared_bytes=file.shared_bytes,
    )
    check_arguments_of(file, kernel.argument_bytes)
    return kernel, file


def _check_place(
    name: str, array: DeviceArray, dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    assert (np.dtype(array.dtype), array.shape) == (np.dtype(dtype), shape), (
        f"{name} is {np.dtype(array.dtype)} {array.shape}, expected {np.dtype(dtype)} {shape}"
    )
    assert array.address % 16 == 0, f"{name} lies at {array.address:#x}, expected a multiple of 16"


def _check_shape(clips: int, positions: int, size: int, max_steps: int) -> None:
    block = open_kernel_files().block
    limits = {
        "clips": (clips, 65535),
        "positions": (positions, 2**31 - 1),
        "size": (size, block),
        "positions * size": (positions * size, 2**32),
        "max_steps": (max_steps, 2**20),
    }
    for name, (found, largest) in limits.items():
        if not 1 <= found <= largest:
            raise OptionError(f"{name} is {found}, expected 1 to {largest}")


def _folder() -> Traversable:
    return files("vab_rt").joinpath("engines", "cubins")
