"""The sampling step on an NVIDIA GPU: launches the compiled kernels, without torch or Triton.

The kernels and the error word they write are described in `kernels/sampling`. Letters: B clips, N
positions, V codebook size and id of [MASK], S steps.
"""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.engines.device_arrays import DeviceArray, address_of
from vab_rt.engines.gpu import in_one_line
from vab_rt.engines.kernel_files import (
    KernelFile,
    check_arguments_of,
    kernel_file_for,
    open_kernel_files,
    read_cubin,
)
from vab_rt.engines.parameter_block import num_parameter_words, pack_parameters
from vab_rt.errors import BackendError, OptionError, VabError
from vab_rt.sampling_arguments import (
    StepSettings,
    check_arguments,
    check_array,
    check_options,
    not_finite,
)

NOT_FINITE, BAD_COUNT, SCHEDULE_OVER = 1, 2, 4  # bits of the error word

_STEPS_OFFSET = 16  # bytes; the error word comes first, and the kernels rely on alignment


class CudaSampler:
    """The sampling step for batches of one shape [B, N, V], on one GPU.

    `begin` writes what belongs to a request into device memory; `launch` enqueues one step and may
    be captured in a CUDA graph and replayed; `check` waits and raises what the kernels found.
    Calling the object does one step on host arrays, token for token `vab_rt.sampling.sample_step`.

    stream: of cuda.core, to share with other work; by default a new one. Raises OptionError for a
    shape that the kernels cannot hold, BackendError where there is no GPU, driver, library or
    kernel for it.
    """

    name = "cuda"

    def __init__(
        self,
        clips: int,
        positions: int,
        size: int,
        *,
        max_steps: int = 64,
        device_id: int = 0,
        stream: Any = None,
    ) -> None:
        self.shape, self.max_steps = (clips, positions, size), max_steps
        _check_shape(clips, positions, size, max_steps)
        self._core, self._driver = _import("cuda.core"), _import("cuda.bindings.driver")
        try:
            self._device = self._core.Device(device_id)
            self._device.set_current()
            self.stream = self._device.create_stream() if stream is None else stream
            capability = tuple(self._device.compute_capability)
            self._kernels = {
                name: self._load(kernel_file_for(name, capability)) for name in ("sample", "remask")
            }
        except VabError:
            raise
        except Exception as error:
            raise _no_gpu(device_id, error) from error
        words = num_parameter_words(clips, max_steps)
        self._parameters = self._allocate(4 * words)
        self._state = self._allocate(_STEPS_OFFSET + 4 * clips)  # error word, schedule steps
        self._sampled = self._allocate(4 * clips * positions)
        self._confidence = self._allocate(4 * clips * positions)
        self._inputs: tuple[Any, Any, Any] | None = None
        self._uploading: list[npt.NDArray[Any]] = []
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
        """Start a request: arguments as `pack_parameters`, on `self.stream`; errors are cleared."""
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
        self._upload(self._parameters, block)
        self._upload(self._state, np.zeros(_STEPS_OFFSET // 4 + clips, np.int32))

    def launch(
        self, tokens: Any, conditional: Any, unconditional: Any | None = None, stream: Any = None
    ) -> None:
        """Enqueue one step: tokens [B, N] int32 change in place, logits [B, N, V] float32.

        The arrays lie on the GPU, C-contiguous, and have a `__cuda_array_interface__`, as those of
        CuPy and torch and `DeviceArray` have. unconditional: None where guidance is 1, in every
        request that a captured launch is replayed for. stream: of cuda.core, or its graph builder;
        by default `self.stream`. Nothing is copied or awaited.
        """
        if unconditional is None and self._guidance != 1:
            raise OptionError(
                f"guidance is {self._guidance}, expected 1 when unconditional is None"
            )
        clips, positions, size = self.shape
        token_address = address_of("tokens", tokens, np.int32, (clips, positions))
        conditional_address = address_of("conditional", conditional, np.float32, self.shape)
        unconditional_address = conditional_address
        if unconditional is not None:
            unconditional_address = address_of(
                "unconditional", unconditional, np.float32, self.shape
            )
        state = int(self._state.handle)
        # One name for each argument of kernels.json; a Python float would be passed as a double.
        values = {
            "tokens": token_address,
            "conditional": conditional_address,
            "unconditional": unconditional_address,
            "parameters": int(self._parameters.handle),
            "steps": state + _STEPS_OFFSET,
            "errors": state,
            "sampled": int(self._sampled.handle),
            "confidence": int(self._confidence.handle),
            "N": np.int32(positions),
            "V": np.int32(size),
            "global_scratch": 0,
            "profile_scratch": 0,
        }
        stream = self.stream if stream is None else stream
        self._launch("sample", (positions, clips), values, stream)
        self._launch("remask", (clips,), values, stream)

    def check(self) -> None:
        """Wait for `self.stream` and raise VabError for what the kernels found since `begin`."""
        errors = int(self._download(self._state, np.zeros(1, np.int32))[0])
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

    def __call__(
        self,
        tokens: npt.NDArray[np.int32],
        conditional: npt.NDArray[np.float32],
        unconditional: npt.NDArray[np.float32] | None,
        settings: StepSettings,
    ) -> None:
        check_arguments(tokens, conditional, unconditional, settings)
        if conditional.shape != self.shape:
            raise OptionError(f"conditional has shape {conditional.shape}, expected {self.shape}")
        s = settings
        self.begin(
            s.seeds, guidance=s.guidance, temperature=s.temperature, top_k=s.top_k,
            mask_temperatures=np.array([s.mask_temperature], np.float32),
            num_remask=s.num_remask[None], first_step=s.step,
        )  # fmt: skip
        arrays = [tokens, conditional] + ([] if unconditional is None else [unconditional])
        if self._inputs is None:
            sizes = (tokens.nbytes, conditional.nbytes, conditional.nbytes)
            self._inputs = (*(self._allocate(size) for size in sizes),)
        on_device = []
        for buffer, array in zip(self._inputs, arrays, strict=False):
            self._upload(buffer, array)
            on_device.append(DeviceArray(int(buffer.handle), array.dtype, array.shape))
        self.launch(*on_device)
        result = self._download(self._inputs[0], np.empty_like(tokens))
        try:
            self.check()
        except VabError as error:
            raise not_finite(tokens, conditional, unconditional) from error
        tokens[...] = result

    def _load(self, file: KernelFile) -> tuple[Any, Any]:
        """The kernel and its description, after every check that needs no launch."""
        kernel = self._core.ObjectCode.from_cubin(read_cubin(file)).get_kernel(file.entry)
        check_arguments_of(file, [info.size for info in kernel.arguments_info])
        return kernel, file

    def _launch(
        self, name: str, grid: tuple[int, ...], values: dict[str, Any], stream: Any
    ) -> None:
        kernel, file = self._kernels[name]
        config = self._core.LaunchConfig(
            grid=grid, block=32 * file.num_warps, shmem_size=file.shared_bytes
        )
        try:
            self._core.launch(stream, config, kernel, *(values[a.name] for a in file.arguments))
        except Exception as error:  # cuda-core's errors share no other base
            raise BackendError(
                f"the kernel {name} cannot be launched on a grid of {grid} ({in_one_line(error)}), "
                "expected it to run; start the program again, and if it fails use the device cpu"
            ) from error

    def _allocate(self, size_bytes: int) -> Any:
        try:
            return self._device.allocate(size_bytes, stream=self.stream)
        except Exception as error:  # cuda-core's errors share no other base
            raise BackendError(
                f"the memory of the GPU is full: {size_bytes / 1e6:.0f} MB are needed to sample "
                f"{self.shape[0]} clips ({in_one_line(error)}); close other programs, or generate "
                "fewer clips at a time"
            ) from error

    def _upload(self, buffer: Any, array: npt.NDArray[Any]) -> None:
        """The array stays alive until `_download`: the driver may still be reading it."""
        self._uploading.append(array)
        _succeed(
            self._driver.cuMemcpyHtoDAsync(
                int(buffer.handle), array.ctypes.data, array.nbytes, int(self.stream.handle)
            )
        )

    def _download(self, buffer: Any, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        _succeed(
            self._driver.cuMemcpyDtoHAsync(
                array.ctypes.data, int(buffer.handle), array.nbytes, int(self.stream.handle)
            )
        )
        self.stream.sync()
        self._uploading.clear()
        return array


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f"{module} cannot be imported ({error}), expected for sampling on the GPU: "
            'pip install "vab-rt[gpu]"'
        ) from error


def _no_gpu(device_id: int, error: Exception) -> BackendError:
    return BackendError(
        f"GPU {device_id} cannot run the sampling kernels ({in_one_line(error)}), expected an "
        "NVIDIA GPU and driver 580 or newer: use the device cpu"
    )


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


def _succeed(result: tuple[Any, ...]) -> None:
    if int(result[0]) != 0:
        raise BackendError(f"the CUDA driver returned {result[0]!r}, expected success")
