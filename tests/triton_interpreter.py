"""Runs the Triton kernels in Triton's interpreter: `triton_interpreter.py CASES RESULTS`.

A process of its own, because TRITON_INTERPRET has to be set before Triton is first imported. CASES
is an .npz of arrays named case/argument; RESULTS gets those that the kernels may write.
"""

import os
import sys
from collections import defaultdict

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np

from kernels.sampling import triton_kernels

TYPES = {"int32": "i32", "float32": "fp32"}
WRITTEN = ("tokens", "steps", "errors", "sampled", "confidence")


class HostTensor:
    """As much of a torch tensor as the interpreter asks for, around an array."""

    def __init__(self, array):
        self.array, self.dtype = array, TYPES[str(array.dtype)]

    def data_ptr(self):
        return self.array.ctypes.data

    def untyped_storage(self):
        return self

    def cpu(self):
        return self

    def copy_(self, other):
        assert other.data_ptr() == self.data_ptr()  # nothing to bring back

    def new_empty(self, size, device):
        return HostTensor(np.empty(size, self.array.dtype))

    def set_(self, storage, offset, size, stride):
        self.array = storage.array

    def storage_offset(self):
        return 0

    def size(self):
        return self.array.shape

    def stride(self):
        return tuple(n // self.array.itemsize for n in self.array.strides)


def run_case(case):
    """Every step of one case: `sample` for all positions, then `remask` for all clips."""
    clips, positions, size = case["conditional"].shape
    sample_block, remask_block = (int(n) for n in case.pop("blocks"))
    num_steps = int(case.pop("num_steps"))
    arrays = {name: HostTensor(array) for name, array in case.items()}
    both = {**{name: arrays[name] for name in ("parameters", *WRITTEN)}, "N": positions, "V": size}
    logits = {name: arrays[name] for name in ("conditional", "unconditional")}
    for _ in range(num_steps):
        triton_kernels.sample[(positions, clips)](**both, **logits, BLOCK=sample_block)
        triton_kernels.remask[(clips,)](**both, BLOCK=remask_block)
    return {name: case[name] for name in WRITTEN}


def main(cases_file, results_file):
    cases = defaultdict(dict)
    with np.load(cases_file) as file:
        for key, array in file.items():
            case, name = key.split("/")
            cases[case][name] = array
    results = {}
    for case, arrays in cases.items():
        results |= {f"{case}/{name}": array for name, array in run_case(arrays).items()}
    np.savez(results_file, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
