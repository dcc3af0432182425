"""One NVIDIA GPU: its driver, its memory, and the stream that everything runs on, without torch.

What the driver says of itself and its GPUs is asked in C, so that nothing is to install for it; the
rest takes cuda-core.
"""

import ctypes
import importlib
import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vab_rt.errors import BackendError

LEAST_CUDA = 13000
"""CUDA 13.0, which drivers 580 and newer have: the kernels and libraries are built for it."""

_INSTALL = 'pip install "vab-rt[gpu]"'
INSTALL_CUDA = f"{_INSTALL} && pip install --force-reinstall --no-deps onnxruntime-gpu"
"""Two steps: onnxruntime and onnxruntime-gpu share a folder, and the last one installed has it."""

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


class FoundGpu(NamedTuple):
    name: str
    capability: str
    memory_bytes: int


class FoundDriver(NamedTuple):
    """cuda: the newest that it runs, 13000 for 13.0; status: 0, or CUDA's error code."""

    version: str
    cuda: int
    status: int
    gpus: tuple[FoundGpu, ...]


def find_driver(load: Callable[[str], Any] = ctypes.CDLL) -> FoundDriver | None:
    """The driver of this machine, or None where there is none. Raises nothing."""
    try:
        cuda = load("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    version, count = ctypes.c_int(), ctypes.c_int()
    status = int(cuda.cuInit(0))
    cuda.cuDriverGetVersion(ctypes.byref(version))
    if status == 0:
        cuda.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_gpu(cuda, index) for index in range(count.value))
    return FoundDriver(_version(), version.value, status, gpus)


def cuda_version(number: int) -> str:
    """13.0 of 13000."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _gpu(cuda: Any, index: int) -> FoundGpu:
    device, size, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, 256, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device)
    text = name.value.decode("utf-8", "replace")
    return FoundGpu(text, f"{major.value}.{minor.value}", size.value)


def _version() -> str:
    """Such as 580.95.05; empty where the system does not tell."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return ""
    return next((word for word in words if word[0].isdigit() and "." in word), "")


@dataclass(frozen=True)
class DeviceArray:
    """C-contiguous memory on a GPU, kept as long as this or any part of it is.

    owner: what frees it, in the order of the stream; None where somebody else sees to that.
    """

    address: int
    dtype: npt.DTypeLike
    shape: tuple[int, ...]
    owner: Any = field(default=None, repr=False, compare=False)

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For libraries of arrays, such as torch."""
        typestr = np.dtype(self.dtype).str
        return {
            "version": 3,
            "typestr": typestr,
            "shape": self.shape,
            "data": (self.address, False),
        }

    def part(self, begin: int, end: int) -> "DeviceArray":
        """Rows `begin` to `end` of the first dimension, in the same memory."""
        row_bytes = math.prod(self.shape[1:]) * np.dtype(self.dtype).itemsize
        shape = (end - begin, *self.shape[1:])
        return DeviceArray(self.address + begin * row_bytes, self.dtype, shape, self.owner)

    def reshaped(self, *shape: int) -> "DeviceArray":
        """The same memory in another shape."""
        assert math.prod(shape) == math.prod(self.shape), (shape, self.shape)
        return replace(self, shape=shape)


class Kernel(NamedTuple):
    """One that a GPU has loaded. argument_bytes: of each that it takes; config: for a grid."""

    name: str
    loaded: Any
    argument_bytes: list[int]
    config: Callable[..., Any]


class Gpu:
    """GPU `device_id`. Raises BackendError where there is no GPU, driver or library for it.

    Everything that is enqueued goes to `stream`, so that it runs in order. Who puts values on it,
    and waits for what comes of them, holds `lock` meanwhile: threads take turns.
    """

    def __init__(self, device_id: int = 0) -> None:
        self._core, self._driver = _import("cuda.core"), _import("cuda.bindings.driver")
        driver = check_driver(find_driver())
        try:
            self._device = self._core.Device(device_id)
            self._device.set_current()
            self.stream = self._device.create_stream()
            self.name = str(self._device.name)
            major, minor = self._device.compute_capability
            self.capability = int(major), int(minor)
        except Exception as error:  # of the driver, of cuda-core, or of the loader of libraries
            raise BackendError(
                f"GPU {device_id} cannot be used ({in_one_line(error)}), expected one of "
                f"0 to {len(driver.gpus) - 1} and driver 580 or newer; vab-rt doctor says what is "
                "missing"
            ) from error
        self.device_id, self.lock = device_id, threading.RLock()
        self._uploading: list[npt.NDArray[Any]] = []

    @property
    def handle(self) -> int:
        """The address of the stream, as libraries of C take it."""
        return int(self.stream.handle)

    def make_current(self) -> None:
        """In the calling thread; the driver's functions need it."""
        self._device.set_current()

    def memory_bytes(self) -> tuple[int, int]:
        """What is free to this process, and all of it.

        cuda-core keeps what was given back in a pool, which the driver does not count as free.
        """
        free, total = self._succeed(self._driver.cuMemGetInfo())
        pool = getattr(self._device.memory_resource, "attributes", None)
        kept = pool.reserved_mem_current - pool.used_mem_current if pool else 0
        return int(free) + max(0, int(kept)), int(total)

    def room(self) -> str:
        """The same in words, for errors; also where the driver no longer answers."""
        try:
            free, total = self.memory_bytes()
        except BackendError:
            return "how many are free is unknown"
        return f"{free / 1e6:.0f} of {total / 1e6:.0f} MB are free"

    def array(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> DeviceArray:
        """Uninitialised memory, aligned to 256 bytes. Raises BackendError when it is full."""
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        try:
            buffer = self._device.allocate(max(1, size_bytes), stream=self.stream)
        except Exception as error:  # cuda-core's errors share no other base
            raise BackendError(
                f"the memory of GPU {self.device_id} is full: {size_bytes / 1e6:.0f} MB are "
                f"needed, {self.room()} ({in_one_line(error)}); close other programs, or use the "
                "device cpu"
            ) from error
        return DeviceArray(int(buffer.handle), dtype, shape, owner=buffer)

    def upload(self, array: DeviceArray, values: npt.NDArray[Any]) -> None:
        """Copy values of the array's shape, turned into its type; they stay alive until `wait`.

        Drivers that reach the memory of processes may still be reading when this returns.
        """
        values = np.ascontiguousarray(values, array.dtype)
        assert values.shape == array.shape, (values.shape, array.shape)
        self._uploading.append(values)
        self._succeed(
            self._driver.cuMemcpyHtoDAsync(
                array.address, values.ctypes.data, values.nbytes, self.handle
            )
        )

    def download(self, array: DeviceArray) -> npt.NDArray[Any]:
        """A copy, after everything that was enqueued before."""
        values = np.empty(array.shape, array.dtype)
        self._succeed(
            self._driver.cuMemcpyDtoHAsync(
                values.ctypes.data, array.address, values.nbytes, self.handle
            )
        )
        self.wait()
        return values

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Enqueue a copy within the GPU; may be captured."""
        self._succeed(
            self._driver.cuMemcpyDtoDAsync(
                target.address, source.address, source.size_bytes, self.handle
            )
        )

    def load_kernel(
        self, cubin: bytes, name: str, *, num_threads: int, shared_bytes: int
    ) -> Kernel:
        """Compiled code, and how it is launched."""
        try:
            loaded = self._core.ObjectCode.from_cubin(cubin).get_kernel(name)
            argument_bytes = [info.size for info in loaded.arguments_info]
            config = partial(self._core.LaunchConfig, block=num_threads, shmem_size=shared_bytes)
        except Exception as error:  # cuda-core's errors share no other base
            raise BackendError(
                f"{self.name} cannot load the kernel {name} ({in_one_line(error)}), expected "
                "driver 580 or newer: use the device cpu"
            ) from error
        return Kernel(name, loaded, argument_bytes, config)

    def launch(
        self, kernel: Kernel, grid: tuple[int, ...], arguments: list[Any], stream: Any = None
    ) -> None:
        """Enqueue a kernel. arguments: addresses as int, other numbers as NumPy's of their width.

        stream: of cuda-core, or its graph builder; by default `self.stream`.
        """
        stream, config = self.stream if stream is None else stream, kernel.config(grid=grid)
        try:
            self._core.launch(stream, config, kernel.loaded, *arguments)
        except Exception as error:  # cuda-core's errors share no other base
            raise BackendError(
                f"the kernel {kernel.name} cannot be launched on a grid of {grid} "
                f"({in_one_line(error)}), expected it to run; start the program again, and if it "
                "fails use the device cpu"
            ) from error

    def wait(self) -> None:
        """For everything enqueued. Raises BackendError for what failed meanwhile."""
        try:
            self.stream.sync()
            self._uploading.clear()
        except Exception as error:  # cuda-core's errors share no other base
            raise BackendError(
                f"GPU {self.device_id} failed ({in_one_line(error)}), expected it to run; start "
                "the program again, and if it fails again use the device cpu"
            ) from error

    def _succeed(self, result: tuple[Any, ...]) -> tuple[Any, ...]:
        if int(result[0]) != 0:
            raise BackendError(
                f"the driver of GPU {self.device_id} returned {result[0]!r}, expected success; "
                "start the program again, and if it fails again use the device cpu"
            )
        return result[1:]


def check_driver(driver: FoundDriver | None) -> FoundDriver:
    """The same. Raises BackendError where there is none, it does not start, or it is too old."""
    if driver is None:
        raise BackendError(
            "this machine has no NVIDIA driver, expected an NVIDIA GPU and driver 580 or newer: "
            "https://www.nvidia.com/drivers; without them use --device cpu"
        )
    if driver.status:
        raise BackendError(
            f"the NVIDIA driver {driver.version} does not start (CUDA error {driver.status}), "
            "expected it to find a GPU; start the machine again, or use --device cpu"
        )
    if driver.cuda < LEAST_CUDA:
        raise BackendError(
            f"the NVIDIA driver {driver.version} runs CUDA {cuda_version(driver.cuda)} at most, "
            f"expected {cuda_version(LEAST_CUDA)}; install driver 580 or newer: "
            "https://www.nvidia.com/drivers"
        )
    return driver


def in_one_line(error: Exception) -> str:
    """What a library raised, by its kind and in its words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f"{module} cannot be imported ({error}), expected it for work on a GPU: {_INSTALL}"
        ) from error
