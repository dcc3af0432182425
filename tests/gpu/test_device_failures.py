"""What goes wrong on a GPU is one line that says what to do, and gives back what it took.

Against the driver library that records its calls, as in test_device_loop.py.
"""

import re

import pytest
from recording_driver import BEGIN, END, LOOP, RUN, STEP, told

from vab_rt.engines.gpu import FoundDriver, check_driver
from vab_rt.errors import BackendError


def test_a_loop_that_cannot_be_prepared_gives_its_memory_back(launch):
    out, _ = launch(
        LOOP
        + """
from vab_rt.errors import BackendError

class Full:
    def bind(self, tensors):
        raise BackendError("no room")

report(lambda: DeviceLoop(gpu, Full(), contract, 2, 2))
free, total = gpu.memory_bytes()
print(held(), free - total)
"""
    )
    assert out == f"BackendError: no room\n0 {2**20}\n"  # the pool holds 1 MiB


STEPS_AFTER_A_CAPTURE_THAT_FAILED = """
import logging
logging.basicConfig(stream=sys.stdout, format="%(message)s")

class Refusing(Marked):
    # as TensorRT, which may refuse to be captured only when it is tried
    def bind(self, tensors):
        run, runs = super().bind(tensors), iter([False, REFUSES])
        def enqueue():
            if next(runs, False):
                raise BackendError("graph backbone does not run")
            run()
        return enqueue

from vab_rt.errors import BackendError
loop = DeviceLoop(gpu, Refusing(gpu, True), contract, 1, 2)
print(loop.is_captured)
loop.run(*request(1), TokenOptions(steps=3))
"""


@pytest.mark.parametrize(
    ("refuses", "settings", "reason"),
    [
        (True, {}, "graph backbone does not run"),
        (False, {"FAKE_CUDA_CAPTURES_FAIL": "1"}, "CUDAError: "),
    ],
)
def test_a_step_that_cannot_be_captured_is_launched_and_says_so(launch, refuses, settings, reason):
    code = STEPS_AFTER_A_CAPTURE_THAT_FAILED.replace("REFUSES", str(refuses))
    out, log = launch(LOOP + code, **settings)
    warning, is_captured = out.splitlines()
    assert warning.startswith("the decoding step of 1 clips is no CUDA graph, which costs time")
    assert reason in warning and is_captured == "False"
    lines = told(log)
    assert lines.count("begin capture") == 1
    assert "end capture" in lines[lines.index("begin capture") :]
    assert lines[-len(BEGIN + END) - 12 :] == [*BEGIN, *STEP * 3, *END]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"FAKE_CUDA_LAUNCHES_FAIL": "1"}, "the kernel sample cannot be launched on a grid of"),
        ({"FAKE_CUDA_NO_KERNELS": "1"}, "Recorder cannot load the kernel sample"),
        ({"FAKE_CUDA_WAITS_FAIL": "1"}, "GPU 0 failed"),
        ({"FAKE_CUDA_REPLAYS_FAIL": "1"}, "the decoding step of 1 clips fails on Recorder"),
        ({"FAKE_CUDA_COPIES_FAIL": "1"}, "the driver of GPU 0 returned"),
        ({"FAKE_CUDA_LARGEST": "9000"}, "the memory of GPU 0 is full: 0 MB are needed, 83887 of"),
    ],
)
def test_what_fails_on_the_gpu_is_one_line(launch, settings, words):
    code = "report(lambda: exec(RUN))\nprint(held())\n"
    run = repr(RUN.replace("CAPTURED", "True"))
    out, _ = launch(LOOP + f"RUN = {run}\n{code}", **settings)
    error, num_held = out.splitlines()
    assert error.startswith(f"BackendError: {words}") and num_held == "0"


def test_a_gpu_that_is_not_there_is_one_line(launch):
    out, _ = launch("from vab_rt.engines.gpu import Gpu\nreport(lambda: Gpu(7))\n")
    assert out.startswith("BackendError: GPU 7 cannot be used") and out.count("\n") == 1
    assert "expected one of 0 to 0 and driver 580 or newer" in out


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (None, "this machine has no NVIDIA driver, expected .*use --device cpu"),
        (
            FoundDriver("580.1", 13000, 803, ()),
            r"580.1 does not start \(CUDA error 803\), expected",
        ),
        (
            FoundDriver("535.1", 12020, 0, ()),
            "535.1 runs CUDA 12.2 at most, expected 13.0; install",
        ),
    ],
)
def test_a_driver_that_is_missing_broken_or_old_is_one_line(driver, words):
    with pytest.raises(BackendError, match=words):
        check_driver(driver)


def test_a_driver_that_is_too_old_is_one_line(launch):
    out, _ = launch(
        "from vab_rt.engines.gpu import Gpu\nreport(lambda: Gpu())\n", FAKE_CUDA_VERSION="12020"
    )
    assert re.match(
        r"BackendError: the NVIDIA driver \S* ?runs CUDA 12.2 at most, expected 13.0", out
    )
    assert "install driver 580 or newer" in out and out.count("\n") == 1
