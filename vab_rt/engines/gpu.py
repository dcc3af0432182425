"""One NVIDIA GPU: its memory and the stream that everything runs on, without torch."""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.engines.device_arrays import DeviceArray
from vab_rt.engines.driver import LEAST_CUDA, FoundDriver, cuda_version, find_driver
from vab_rt.errors import BackendError

_INSTALL = 'pip install "vab-rt[gpu]"'


class Gpu:
    """GPU `device_id`. Raises BackendError where there is no GPU, driver or library for it.

    Everything that is enqueued goes to `stream`, so that it runs in order. A `DeviceArray` is
    memory of this object: it lives as long as this does, or until `free`.
    """

    def __init__(self, device_id: int = 0) -> None:
        core, self._driver = _import("cuda.core"), _import("cuda.bindings.driver")
        check_driver(find_driver())
        try:
            self._device = core.Device(device_id)
            self._device.set_current()
            self.stream = self._device.create_stream()
            self.name = str(self._device.name)
            self.capability = tuple(int(part) for part in self._device.compute_capability)
        except Exception as error:  # of the driver, of cuda-core, or of the loader of libraries
            raise BackendError(
                f"GPU {device_id} cannot be used ({in_one_line(error)}), expected an NVIDIA GPU "
                "and driver 580 or newer; vab-rt doctor says what is missing"
            ) from error
        self.device_id = device_id
        self._buffers: dict[int, Any] = {}
        self._uploading: list[npt.NDArray[Any]] = []

    @property
    def handle(self) -> int:
        """Of the stream, as libraries of C take it."""
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
            return "nobody knows how many are free"
        return f"{free / 1e6:.0f} of {total / 1e6:.0f} MB are free"

    def array(self, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> DeviceArray:
        """Uninitialised memory, aligned to 256 bytes. Raises BackendError when it is full."""
        size_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        try:
            buffer = self._device.allocate(max(1, size_bytes), stream=self.stream)
        except Exception as error:  # cuda-core's errors share no other base
            raise BackendError(
                f"the memory of GPU {self.device_id} is full: {size_bytes / 1e6:.0f} MB are "
                f"needed, {self.room()} ({in_one_line(error)}); close other programs, or generate "
                "fewer clips at a time"
            ) from error
        self._buffers[int(buffer.handle)] = buffer
        return DeviceArray(int(buffer.handle), dtype, shape)

    def free(self, array: DeviceArray) -> None:
        """Give the memory of `array` back; in the order of the stream."""
        self._buffers.pop(array.address).close(self.stream)

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
        size_bytes = int(np.prod(source.shape, dtype=np.int64)) * np.dtype(source.dtype).itemsize
        self._succeed(
            self._driver.cuMemcpyDtoDAsync(target.address, source.address, size_bytes, self.handle)
        )

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


def check_driver(driver: FoundDriver | None) -> None:
    """Raises BackendError where there is none, it does not start, or it is too old."""
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


def in_one_line(error: Exception) -> str:
    """What a library raised, by its kind and in its words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def part_of(array: DeviceArray, begin: int, end: int) -> DeviceArray:
    """Rows `begin` to `end` of the first dimension, in the same memory."""
    row_bytes = int(np.prod(array.shape[1:], dtype=np.int64)) * np.dtype(array.dtype).itemsize
    shape = (end - begin, *array.shape[1:])
    return DeviceArray(array.address + begin * row_bytes, array.dtype, shape)


def reshaped(array: DeviceArray, *shape: int) -> DeviceArray:
    """The same memory in another shape."""
    assert np.prod(shape, dtype=np.int64) == np.prod(array.shape, dtype=np.int64)
    return DeviceArray(array.address, array.dtype, shape)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f"{module} cannot be imported ({error}), expected it for work on a GPU: {_INSTALL}"
        ) from error
