"""Arrays in GPU memory, known by their address: no library of arrays is needed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vab_rt.errors import OptionError


@dataclass(frozen=True)
class DeviceArray:
    """C-contiguous GPU memory that somebody else owns, such as an onnxruntime value."""

    address: int
    dtype: npt.DTypeLike
    shape: tuple[int, ...]

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        typestr = np.dtype(self.dtype).str
        return {
            "version": 3,
            "typestr": typestr,
            "shape": self.shape,
            "data": (self.address, False),
        }


def address_of(name: str, array: Any, dtype: type[np.generic], shape: tuple[int, ...]) -> int:
    """The address of a C-contiguous array on the GPU, aligned to 16 bytes.

    Takes whatever has a `__cuda_array_interface__`. Raises OptionError, naming the argument, for
    anything else that the kernels could not read.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    expected = f"{np.dtype(dtype)} array of shape {shape} on the GPU"
    if interface is None:
        raise OptionError(
            f"{name} is a {type(array).__name__} in host memory, expected a {expected}"
        )
    found_shape, found_dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    if found_dtype != dtype or found_shape != shape:
        raise OptionError(f"{name} is {found_dtype} {found_shape}, expected a {expected}")
    strides, want = interface.get("strides"), _c_strides(shape, found_dtype.itemsize)
    if strides is not None and tuple(strides) != want:
        raise OptionError(
            f"{name} of shape {shape} has strides {tuple(strides)}, expected C-contiguous {want}"
        )
    address = int(interface["data"][0])
    if address == 0 or address % 16:
        raise OptionError(f"{name} lies at address {address:#x}, expected a multiple of 16")
    return address


def _c_strides(shape: tuple[int, ...], item_bytes: int) -> tuple[int, ...]:
    return tuple(
        int(np.prod(shape[i + 1 :], dtype=np.int64)) * item_bytes for i in range(len(shape))
    )
