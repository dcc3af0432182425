"""What the NVIDIA driver says of itself and its GPUs; asked in C, so that nothing is to install."""

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

LEAST_CUDA = 13000
"""CUDA 13.0, which drivers 580 and newer have: the kernels and libraries are built for it."""

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
