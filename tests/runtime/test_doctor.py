"""What the doctor says of the driver, the GPU and the libraries for it."""

import ctypes
import re
import sys
from types import SimpleNamespace

import pytest

from vab_rt import doctor
from vab_rt.engines.gpu import FoundDriver, FoundGpu, find_driver

pytestmark = pytest.mark.everywhere
H100 = FoundGpu("NVIDIA H100", "9.0", 85_000_000_000)
READY = FoundDriver("580.95.05", 13000, 0, (H100,))


class FakeDriver:
    """libcuda's calls, as ctypes makes them."""

    def __init__(self, status=0):
        self.status = status

    def cuInit(self, flags):
        return self.status

    def cuDriverGetVersion(self, out):
        out._obj.value = 13010

    def cuDeviceGetCount(self, out):
        out._obj.value = 2

    def cuDeviceGet(self, out, index):
        out._obj.value = index

    def cuDeviceGetName(self, out, length, device):
        out.value = b"GPU %d" % device.value

    def cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = {75: 8, 76: 9}[attribute]

    def cuDeviceTotalMem_v2(self, out, device):
        assert isinstance(out._obj, ctypes.c_size_t)
        out._obj.value = 24 << 30


def test_the_driver_tells_its_gpus():
    found = find_driver(lambda name: FakeDriver())
    assert (found.cuda, found.status) == (13010, 0)
    assert found.gpus == (FoundGpu("GPU 0", "8.9", 24 << 30), FoundGpu("GPU 1", "8.9", 24 << 30))
    broken = find_driver(lambda name: FakeDriver(status=803))
    assert (broken.status, broken.gpus) == (803, ())


def test_no_driver_is_no_failure():
    def missing(name):
        raise OSError(name)

    assert find_driver(missing) is None


@pytest.fixture
def found(monkeypatch):
    """The findings on a machine with that driver and no onnxruntime for GPUs, by subject."""
    monkeypatch.setattr("vab_rt.engines.sessions.has_cuda_provider", lambda: False)
    monkeypatch.setattr(doctor, "_step_s", lambda precision: 0.05)

    def examine(driver):
        monkeypatch.setattr(doctor, "find_driver", lambda: driver)
        return {finding.subject: finding for finding in doctor.examine()}

    return examine


def test_what_a_step_takes_in_int8(monkeypatch):
    measured = {finding.subject: finding for finding in doctor.examine()}["int8"]
    assert re.fullmatch(r"a step takes \d+ ms, \d+ in fp32", measured.found)
    monkeypatch.setattr(doctor, "_step_s", {"fp32": 0.05, "int8": 0.07}.get)
    slower = {finding.subject: finding for finding in doctor.examine()}["int8"]
    assert slower.found == "a step takes 70 ms, 50 in fp32" and not slower.is_good
    assert slower.advice == "leave --precision int8 out"


def test_without_a_driver_nothing_is_missed(found, monkeypatch):
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    findings = found(None)
    assert findings["GPU driver"].found.startswith("no NVIDIA driver")
    for device in ("cuda", "tensorrt", "tensorrt-rtx"):
        finding = findings[f"device {device}"]
        assert "no NVIDIA GPU to use it" in finding.found and finding.advice == ""
        assert not finding.is_needed


def test_a_gpu_without_libraries_is_told_what_to_install(found, monkeypatch):
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    findings = found(READY)
    expected = "NVIDIA 580.95.05 (CUDA 13.0), NVIDIA H100 (9.0, 85 GB)"
    assert findings["GPU driver"].found == expected
    advice = {name: findings[f"device {name}"].advice for name in ("cuda", "tensorrt")}
    assert advice["cuda"] == doctor.INSTALL_CUDA
    assert advice["tensorrt"] == 'pip install "vab-rt[trt]"'
    assert findings["device tensorrt-rtx"].advice == 'pip install "vab-rt[rtx]"'
    assert not findings["device cuda"].is_needed


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (FoundDriver("535.1", 12020, 0, (H100,)), "CUDA 12.2"),
        (FoundDriver("580.1", 13000, 803, ()), "does not start: CUDA error 803"),
    ],
)
def test_a_driver_that_is_old_or_broken_is_a_note(found, driver, words):
    finding = found(driver)["GPU driver"]
    assert not finding.is_good and words in finding.found
    assert finding.advice.startswith("install driver 580 or newer: https://www.nvidia.com/drivers")


@pytest.mark.parametrize(
    ("driver", "reason", "is_good", "words"),
    [
        (READY, None, True, "onnxruntime with CUDA"),
        (READY, "libcublas.so.13: not there", False, "which does not load: libcublas.so.13: not"),
        (None, None, False, "onnxruntime with CUDA; there is no NVIDIA GPU to use it"),
    ],
)
def test_onnxruntime_for_gpus_has_to_load(found, monkeypatch, driver, reason, is_good, words):
    pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install cuda-core")
    monkeypatch.setattr("vab_rt.engines.sessions.has_cuda_provider", lambda: True)
    monkeypatch.setattr("vab_rt.engines.cuda.why_not_loaded", lambda: reason)
    finding = found(driver)["device cuda"]
    assert finding.is_good is is_good and words in finding.found
    assert finding.advice == (doctor.INSTALL_CUDA if reason else "")


def test_a_library_that_is_there_shows_its_version(found, monkeypatch):
    for number, is_good in (("10.16.1", True), ("10.3.0", False)):
        here = SimpleNamespace(__spec__=SimpleNamespace(), __version__=number)
        monkeypatch.setitem(sys.modules, "tensorrt", here)
        monkeypatch.setattr(doctor, "version", lambda name, number=number: number)
        finding = found(READY)["device tensorrt"]
        assert finding.is_good is is_good and finding.found == f"tensorrt {number}"
        assert is_good or 'pip install --upgrade "vab-rt[trt]"' in finding.advice


@pytest.mark.parametrize(("capability", "is_good"), [("9.0", False), ("8.9", True)])
def test_a_gpu_that_rtx_does_not_know_is_told(found, monkeypatch, capability, is_good):
    here = SimpleNamespace(__spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", here)
    gpu = FoundGpu("NVIDIA X", capability, 24 << 30)
    finding = found(FoundDriver("580.95.05", 13000, 0, (gpu,)))["device tensorrt-rtx"]
    assert finding.is_good is is_good
    assert is_good or "does not run on NVIDIA X (9.0)" in finding.found
    assert is_good or finding.advice == "use --device tensorrt or cuda"


def test_the_cache_is_counted(found, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "vab-rt" / "engines"
    folder.mkdir(parents=True)
    (folder / "backbone-1.engine").write_bytes(bytes(2_000_000))
    assert found(None)["engine cache"].found == f"{folder}, 1 engines, 2 MB"
