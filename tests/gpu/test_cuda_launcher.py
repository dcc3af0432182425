"""The launcher of the GPU kernels against a driver library that records what it is told.

No GPU is needed: the library is built here with a C compiler. `launch` runs the launcher in a
process of its own, because the driver library is found when the process starts.
"""

import json
import re
import sys

import numpy as np
import pytest

from vab_rt.engines.cuda_sampling import CudaSampler
from vab_rt.engines.device_arrays import DeviceArray, address_of
from vab_rt.engines.kernel_files import open_kernel_files
from vab_rt.engines.parameter_block import pack_parameters
from vab_rt.errors import BackendError, OptionError


def test_launches_have_the_grid_the_block_and_every_argument_in_its_width(launch):
    _, log = launch(
        "s = start(max_steps=16, guidance=1.0)\n"
        "s.launch(tokens, conditional, unconditional)\n"
        "s.launch(tokens, conditional)\n"
    )
    allocations = [line.split() for line in log if line.startswith("allocate")]
    parameters, state, sampled, confidence = (int(words[1], 16) for words in allocations)
    sizes = [int(words[2]) for words in allocations]
    assert sizes == [4 * (8 + 2 * 2 + 16 * 3), 16 + 4 * 2, 4 * 2 * 63, 4 * 2 * 63]

    rest = [parameters, state + 16, state, sampled, confidence, 63, 37, 0, 0]
    shared = {file.kernel: file.shared_bytes for file in open_kernel_files().kernels}
    sample = f"launch sample 63,2,1 128,1,1 {shared['sample']} 0x5000 "
    remask = f"launch remask 2,1,1 512,1,1 {shared['remask']} 0x5000 "
    expected = [
        sample + words(0x10000, 0x20000, 0x30000, *rest),
        remask + words(0x10000, *rest),
        sample + words(0x10000, 0x20000, 0x20000, *rest),
        remask + words(0x10000, *rest),
    ]
    assert [line for line in log if line.startswith("launch")] == expected


def words(*values):
    return " ".join(f"{value:x}" for value in values)


def test_the_parameter_block_reaches_the_device_and_the_state_is_cleared(launch):
    out, _ = launch(
        "import ctypes, json\n"
        "s = start()\n"
        "read = lambda b, n: list((ctypes.c_uint32 * n).from_address(int(b.handle)))\n"
        "print(json.dumps([read(s._parameters, 18), read(s._state, 6)]))\n"
    )
    block, state = json.loads(out)
    as_word = {value: int(np.float32(value).view(np.uint32)) for value in (2.5, 2.0, 1.5)}
    header = [as_word[2.5], as_word[2.0], 8, 2, 7, 0, 0, 0]
    seeds = [1, 0, 5, 2**31]
    assert block == [*header, *seeds, as_word[1.5], 3, 4, 0, 0, 0]
    assert state == [0] * 6


def test_a_sampler_step_on_host_arrays_launches_once_and_brings_the_tokens_back(launch):
    out, log = launch(
        "s = CudaSampler(1, 3, 5)\n"
        "before = np.array([[5, 2, 5]], np.int32)\n"
        "logits = np.zeros((1, 3, 5), np.float32)\n"
        "s(before, logits, None, settings(num_remask=1))\n"
        "print(before.tolist())\n"
    )
    assert out == "[[5, 2, 5]]\n"  # nothing computes here
    assert [line.split()[1] for line in log if line.startswith("launch")] == ["sample", "remask"]


def test_a_step_can_be_captured_once_and_replayed(launch):
    _, log = launch(
        "s = start()\n"
        "builder = s.stream.create_graph_builder().begin_building(mode='relaxed')\n"
        "s.launch(tokens, conditional, unconditional, stream=builder)\n"
        "graph = builder.end_building().complete()\n"
        "for _ in range(3):\n"
        "    graph.launch(s.stream)\n"
    )
    told = [
        " ".join(line.split()[:2]) for line in log if not line.startswith(("allocate", "upload"))
    ]
    replays = ["replay 0x3000"] * 3
    assert told == ["begin capture", "launch sample", "launch remask", "end capture", *replays]


@pytest.mark.parametrize(
    ("bit", "message"),
    [
        (1, r"VabError: conditional or unconditional logits of shape \(2, 63, 37\) are not finite"),
        (2, "OptionError: num_remask is negative or over the masked positions"),
        (4, "OptionError: more steps were launched than begin"),
    ],
)
def test_the_error_word_of_the_kernels_is_raised(launch, bit, message):
    out, _ = launch(
        "import ctypes\n"
        "s = start()\n"
        "s.check()\n"
        f"ctypes.c_uint32.from_address(int(s._state.handle)).value = {bit}\n"
        "report(s.check)\n"
    )
    assert re.match(message, out)


def test_kernels_of_another_build_are_refused_at_load(launch):
    out, log = launch("report(start)", FAKE_CUDA_OTHER_BUILD="1")
    assert "sample.sm_90.cubin takes 11 arguments of" in out
    assert "expected 12 of" in out
    assert not [line for line in log if line.startswith("launch")]


def test_a_gpu_without_a_kernel_is_refused(launch):
    out, _ = launch("report(start)", FAKE_CUDA_CAPABILITY="75")
    assert out.startswith("BackendError: the GPU has compute capability 7.5, expected one of 8.0, ")


def test_a_failing_copy_is_an_error(launch):
    out, _ = launch("report(start)", FAKE_CUDA_COPIES_FAIL="1")
    assert out.startswith(
        "BackendError: the CUDA driver returned <CUresult.CUDA_ERROR_ILLEGAL_ADDR"
    )


def test_without_cuda_core_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(BackendError, match=r'cuda.core cannot be .*: pip install "vab-rt\[gpu\]"'):
        CudaSampler(2, 63, 37)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("CudaSampler(2, 63, 2049)", "size is 2049, expected 1 to 2048"),
        ("CudaSampler(0, 63, 37)", "clips is 0, expected 1 to 65535"),
        ("CudaSampler(1, 2**22, 2048)", "positions * size is 8589934592, expected 1 to 4294967296"),
        ("start(max_steps=1)", "num_remask has 2 steps, expected 1 to 1"),
        (
            "start(seeds=np.array([1], np.uint64))",
            "seeds is uint64 (1,), expected uint64 (2), [B]",
        ),
        (
            "start(seeds=np.array([1, 2**64], object))",
            "seeds is object (2,), expected uint64 (2), [B]",
        ),
        (
            "start(mask_temperatures=np.zeros(2))",
            "mask_temperatures is float64 (2,), expected float32 (2), [S]",
        ),
        (
            "start(num_remask=np.zeros((2, 3), np.int32))",
            "num_remask is int32 (2, 3), expected int32 (any, 2), [S, B]",
        ),
        ("start(guidance=np.nan)", "guidance is nan, expected a finite float32"),
        ("start(temperature=0.0)", "temperature is 0.0, expected over 0"),
        ("start(top_k=-1)", "top_k is -1, expected 0 (keep all)"),
        ("start(first_step=2**32 - 1)", "first_step is 4294967295, expected 0 to 4294967294"),
        (
            "start().launch(tokens, conditional)",
            "guidance is 2.5, expected 1 when unconditional is None",
        ),
        (
            (
                "CudaSampler(1, 62, 37)(np.zeros((1, 63), np.int32), "
                "np.zeros((1, 63, 37), np.float32), None, settings(num_remask=0))"
            ),
            "conditional has shape (1, 63, 37), expected (1, 62, 37)",
        ),
        (
            "start().launch(np.zeros((2, 63), np.int32), conditional, unconditional)",
            "tokens is a ndarray in host",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_a_launch(launch, line, message):
    out, log = launch(f"report(lambda: {line})")
    assert out.startswith("OptionError: ") and message in out
    assert not [line for line in log if line.startswith("launch")]


class Strided:
    def __init__(self, **changes):
        interface = {"version": 3, "typestr": "<f4", "shape": (2, 3), "data": (256, False)}
        self.__cuda_array_interface__ = interface | changes


def test_addresses_are_taken_from_contiguous_arrays_only():
    assert address_of("x", Strided(), np.float32, (2, 3)) == 256
    assert address_of("x", Strided(strides=(12, 4)), np.float32, (2, 3)) == 256
    assert address_of("x", DeviceArray(512, np.float32, (2, 3)), np.float32, (2, 3)) == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"typestr": "<f2"}, r"x is float16 \(2, 3\), expected a float32 array of shape \(2, 3\)"),
        ({"shape": (3, 2)}, r"x is float32 \(3, 2\), expected a float32 array of shape \(2, 3\)"),
        (
            {"strides": (4, 8)},
            r"x of shape \(2, 3\) has strides \(4, 8\), expected C-contig.*12, 4",
        ),
        ({"data": (264, False)}, "x lies at address 0x108, expected a multiple of 16"),
        ({"data": (0, False)}, "x lies at address 0x0, expected a multiple of 16"),
    ],
)
def test_arrays_that_the_kernels_cannot_read_are_refused(changes, message):
    with pytest.raises(OptionError, match=message):
        address_of("x", Strided(**changes), np.float32, (2, 3))


def test_parameters_hold_floats_seeds_and_the_schedule():
    num_remask = np.array([[5, 6, 7], [1, 2, 3]], np.int32)
    seeds = np.array([0, 2**64 - 1, 2**32], np.uint64)
    block = pack_parameters(seeds, 5.0, 0.25, 256, np.array([4, 2]), num_remask, 2**32 - 1)
    assert block.view(np.float32)[:2].tolist() == [5, 4]
    assert block[2:8].tolist() == [256, 2, -1, 0, 0, 0]
    np.testing.assert_array_equal(block[8:14].view(np.uint64), seeds)
    schedule = block[14:].reshape(2, 4)
    assert schedule[:, 0].copy().view(np.float32).tolist() == [4, 2]
    np.testing.assert_array_equal(schedule[:, 1:], num_remask)
