"""The decoding loop on a GPU, against a driver library that records its calls.

Nothing computes on a GPU here. The memory of that driver is the host's, so a backbone and a sampler
of NumPy can stand in for the graph and the kernels, and the tokens can be compared.
"""

import re
from pathlib import Path

import numpy as np
from recording_driver import (
    BEGIN,
    END,
    LOOP,
    RUN,
    STEP,
    TOKENS,
    through_buffers,
    told,
)

from vab_rt.decoding import remask_count
from vab_rt.engines.device_loop import schedule
from vab_rt.options import TokenOptions


def test_a_captured_step_is_replayed_and_nothing_comes_back_before_the_last(launch):
    _, log = launch(LOOP + RUN.replace("CAPTURED", "True"))
    lines = told(log)
    assert lines[-len(BEGIN + END) - 3 :] == [*BEGIN, *["replay 0x3000"] * 3, *END]
    begin, end = lines.index("begin capture"), lines.index("end capture")
    assert lines[begin + 1 : end] == STEP
    assert lines[begin - 4 : begin] == STEP  # warm before


def test_a_backbone_with_a_graph_of_its_own_is_followed_by_the_kernels(launch):
    _, log = launch(LOOP + RUN.replace("CAPTURED", "False"))
    lines = told(log)
    assert lines[-len(BEGIN + END) - 12 :] == [*BEGIN, *STEP * 3, *END]
    assert "begin capture" not in lines


def test_without_guidance_there_is_one_branch(launch):
    _, log = launch(
        LOOP
        + """
loop = DeviceLoop(gpu, Marked(gpu, False), contract, 3, 1)
loop.run(*request(3), TokenOptions(steps=2, guidance=1))
"""
    )
    lines = told(log)
    assert lines[-8:-2] == ["copy 4", "launch sample", "launch remask"] * 2
    assert lines[-2:] == [f"download {3 * TOKENS}", "download 4"]


def test_the_tokens_are_those_of_the_loop_on_the_host(launch):
    out, _ = launch(
        LOOP
        + """
device_loop.CudaSampler = HostSampler
engines = engines_of(gpu)
for clips in (1, 3, 16):
    for guidance in (1.0, 2.5):
        case, options = request(clips), TokenOptions(steps=4, guidance=guidance, temperature=5.0)
        branches = (1.0,) if guidance == 1 else (1.0, 0.0)
        host = Engines(engines.graphs, "cpu", sample_step)
        expected = list(host.decode_tokens("backbone", *case, options, branches))[-1][1]
        for again in range(2):
            ((step, tokens),) = engines.decode_tokens("backbone", *case, options, branches)
            assert (step, tokens.dtype) == (3, np.int32)
            np.testing.assert_array_equal(tokens, expected)
        assert (tokens < 16).all() and (tokens[-1, :, :30] == 3).all()
        assert len({clip.tobytes() for clip in tokens}) == clips
print(len(engines.loops))
"""
    )
    assert out == "6\n"


def test_a_video_sounds_the_same_through_device_buffers(launch, tiny_bundle, videos):
    options = "vab_rt.GenerateOptions(steps=4, seed=5)"
    found = through_buffers(launch, tiny_bundle, videos(200), options)
    length, difference, device, steps, _ = found
    assert (length, device) == (200 * 640, "cuda")
    assert difference < 1e-6
    assert steps == "[(3, True)]"


def test_a_loop_that_is_let_go_gives_its_memory_back(launch):
    out, _ = launch(
        LOOP
        + """
loop = DeviceLoop(gpu, Marked(gpu, True), contract, 1, 2)
loop.run(*request(1), TokenOptions(steps=3))
print(loop.launching_s > 0, held())
del loop
print(held())
"""
    )
    assert out == "True 8\n0\n"


def test_a_graph_called_with_host_arrays_is_cut_to_its_limit(launch):
    out, log = launch(
        LOOP
        + """
device_loop.MAX_CLIPS = 1
call = HostCalls(gpu, Computing(), contract)
given, tokens, _ = request(5)
inputs = dict(tokens=tokens, **given, conditional=np.ones(5, np.float32))
np.testing.assert_array_equal(call(**inputs), logits_of(**inputs))
report(lambda: call(**inputs | {"tokens": tokens.astype(np.int64)}))
report(lambda: call(**inputs | {"tokens": tokens[:, :1]}))
"""
    )
    kinds, shapes = out.splitlines()
    assert "tokens is int64 (2, 2, 100), expected int32 (2, 2, 100)" in kinds
    assert "tokens is int32 (2, 1, 100), expected int32 (2, 2, 100)" in shapes
    assert len([line for line in log if line.startswith("download")]) == 3


FOR_A_GPU = (
    LOOP
    + """
import pytest
sys.path[:0] = [GPU_TESTS]
import test_device_loop_cuda, test_sampling_cuda

class OnTheHost:
    # what the kernel of these tests computes; the driver here replays nothing
    can_be_captured = False
    def __init__(self, gpu, tables, can_be_captured):
        self.tables = tables
    def bind(self, tensors):
        t = {name: view(array) for name, array in tensors.items()}
        inputs = {name: t[name] for name in ("tokens", "features", "conditional")}
        def run():
            t["logits"][...] = self.tables.logits(**inputs)
        return run

device_loop.CudaSampler = test_sampling_cuda.CudaSampler = HostSampler
test_device_loop_cuda.CudaBackbone = OnTheHost
options = ["-q", "--import-mode=prepend", "--noconftest", "-p", "no:cacheprovider"]
left_out = "paper", "stand_in", "captured_step_replayed", "ten_thousand", "1823"
options += ["-k", " and ".join(f"not {name}" for name in left_out)]
sys.exit(pytest.main([*options, test_device_loop_cuda.__file__, test_sampling_cuda.__file__]))
"""
)


def test_the_tests_for_a_gpu_run_but_for_the_gpu(launch):
    """Nobody has one most of the time, and a mistake in them would cost the time of who has."""
    out, _ = launch(f"GPU_TESTS = {str(Path(__file__).parent)!r}" + FOR_A_GPU)
    assert "skipped" not in out and re.search(r"^66 passed", out, re.MULTILINE), out


def test_the_schedule_is_that_of_decode_masked():
    options = TokenOptions(steps=5, mask_temperature=10.0)
    temperatures, counts = schedule(options, np.array([200, 7]))
    assert temperatures.tolist() == [8, 6, 4, 2, 0]
    assert counts.tolist() == [[remask_count(i, 5, 200), remask_count(i, 5, 7)] for i in range(5)]
    assert counts[-1].tolist() == [0, 0]
