"""The launcher of the sampling kernels against a driver library that records its calls.

No GPU is needed: the library is built here with a C compiler. `launch` runs the launcher in a
process of its own, because the driver library is found when the process starts.
"""

import json
import re

import numpy as np

from vab_rt.engines.sampling_kernels import open_kernel_files, pack_parameters


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


def test_the_parameter_block_reaches_the_device_and_the_error_word_comes_back(launch):
    out, _ = launch(
        "import ctypes, json\n"
        "s = start()\n"
        "words = lambda array, n: (ctypes.c_uint32 * n).from_address(array.address)\n"
        "print(json.dumps([list(words(s._parameters, 18)), list(words(s._state, 6))]))\n"
        "s.check()\n"
        "for bit in (1, 2, 4):\n"
        "    words(s._state, 1)[0] = bit\n"
        "    report(s.check)\n"
    )
    read, *errors = out.splitlines()
    block, state = json.loads(read)
    as_word = {value: int(np.float32(value).view(np.uint32)) for value in (2.5, 2.0, 1.5)}
    header = [as_word[2.5], as_word[2.0], 8, 2, 7, 0, 0, 0]
    seeds = [1, 0, 5, 2**31]
    assert block == [*header, *seeds, as_word[1.5], 3, 4, 0, 0, 0]
    assert state == [0] * 6
    expected = (
        r"VabError: conditional or unconditional logits of shape \(2, 63, 37\) are not finite",
        "OptionError: num_remask is negative or over the masked positions",
        "OptionError: more steps were launched than begin",
    )
    for error, words in zip(errors, expected, strict=True):
        assert re.match(words, error)


def test_a_step_can_be_captured_once_and_replayed(launch):
    _, log = launch(
        "gpu = Gpu()\n"
        "s = start(gpu)\n"
        "builder = gpu.stream.create_graph_builder().begin_building(mode='relaxed')\n"
        "s.launch(tokens, conditional, unconditional, stream=builder)\n"
        "graph = builder.end_building().complete()\n"
        "for _ in range(3):\n"
        "    graph.launch(gpu.stream)\n"
    )
    told = [" ".join(line.split()[:2]) for line in log]
    told = [line for line in told if not line.startswith(("allocate", "upload", "free"))]
    replays = ["replay 0x3000"] * 3
    assert told == ["begin capture", "launch sample", "launch remask", "end capture", *replays]


def test_kernels_of_another_build_are_refused_at_load(launch):
    out, log = launch("report(start)", FAKE_CUDA_OTHER_BUILD="1")
    assert "sample.sm_90.cubin takes 11 arguments of" in out
    assert "expected 12 of" in out
    assert not [line for line in log if line.startswith("launch")]


def test_a_gpu_without_a_kernel_is_refused(launch):
    out, _ = launch("report(start)", FAKE_CUDA_CAPABILITY="75")
    assert out.startswith("BackendError: the GPU has compute capability 7.5, expected one of 8.0, ")


REFUSED = {
    "CudaSampler(gpu, 2, 63, 2049)": "size is 2049, expected 1 to 2048",
    "CudaSampler(gpu, 0, 63, 37)": "clips is 0, expected 1 to 65535",
    "CudaSampler(gpu, 1, 2**22, 2048)": "positions * size is 8589934592, expected 1 to 4294967296",
    "start(gpu, max_steps=1)": "num_remask has 2 steps, expected 1 to 1",
    "start(gpu, seeds=np.array([1], np.uint64))": (
        "seeds is uint64 (1,), expected uint64 (2), [B]"
    ),
    "start(gpu, seeds=np.array([1, 2**64], object))": (
        "seeds is object (2,), expected uint64 (2), [B]"
    ),
    "start(gpu, mask_temperatures=np.zeros(2))": (
        "mask_temperatures is float64 (2,), expected float32 (2), [S]"
    ),
    "start(gpu, num_remask=np.zeros((2, 3), np.int32))": (
        "num_remask is int32 (2, 3), expected int32 (any, 2), [S, B]"
    ),
    "start(gpu, guidance=np.nan)": "guidance is nan, expected a finite float32",
    "start(gpu, temperature=0.0)": "temperature is 0.0, expected over 0",
    "start(gpu, top_k=-1)": "top_k is -1, expected 0 (keep all)",
    "start(gpu, first_step=2**32 - 1)": "first_step is 4294967295, expected 0 to 4294967294",
    "start(gpu).launch(tokens, conditional)": (
        "guidance is 2.5, expected 1 when unconditional is None"
    ),
}
NO_PLACE = {
    "DeviceArray(0x10000, np.int64, (2, 63))": "tokens is int64 (2, 63), expected int32 (2, 63)",
    "DeviceArray(0x10000, np.int32, (63, 2))": "tokens is int32 (63, 2), expected int32 (2, 63)",
    "DeviceArray(0x10008, np.int32, (2, 63))": "lies at 0x10008, expected a multiple of 16",
}


def test_what_does_not_fit_is_refused_before_a_launch(launch):
    lines = [*REFUSED]
    lines += [f"start(gpu).launch({place}, conditional, unconditional)" for place in NO_PLACE]
    out, log = launch("gpu = Gpu()\n" + "".join(f"report(lambda: {line})\n" for line in lines))
    expected = [f"OptionError: {words}" for words in REFUSED.values()]
    expected += [f"AssertionError: {words}" for words in NO_PLACE.values()]
    for line, found, words in zip(lines, out.splitlines(), expected, strict=True):
        kind, message = words.split(": ", 1)
        assert found.startswith(kind) and message in found, line
    assert not [line for line in log if line.startswith("launch")]


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
