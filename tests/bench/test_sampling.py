"""The sampling bench refuses what is wrong before it times what is right."""

import json
import sys

import numpy as np
import pytest

from bench import sampling as bench
from vab_rt.errors import BackendError
from vab_rt.sampling import sample_step

pytest.importorskip(
    "vab_rt._sampling", reason="the native sampling kernel is not built: no C++ compiler"
)


def test_nothing_is_timed_when_parity_is_red():
    def off_by_one(tokens, conditional, *rest):
        sample_step(tokens, conditional, *rest)
        tokens[0, -1] = (tokens[0, -1] + 1) % conditional.shape[2]

    with pytest.raises(SystemExit, match=r"parity is red at .*nothing was timed"):
        bench.check_parity(off_by_one)


def test_the_last_line_holds_every_figure(monkeypatch, capsys):
    monkeypatch.setattr(bench, "POSITIONS", 50)
    monkeypatch.setattr(bench, "SIZE", 64)
    monkeypatch.setattr(bench, "measure_share_of_step", lambda native: {"share_of_step": None})
    monkeypatch.setattr(bench, "measure_in_torch", lambda threads, runs: {"torch_ms": None})
    monkeypatch.setattr(bench, "measure_on_gpu", lambda runs: {"gpu": None})
    bench.main(["--json", "--runs", "2", "--threads", "1"])
    figures = json.loads(capsys.readouterr().out.strip().rpartition("\n")[2])
    assert figures["bytes"] == 2 * 50 * 64 * np.dtype(np.float32).itemsize
    for name in ("native_ms", "numpy_ms", "native_speedup", "share_of_memory_ceiling"):
        assert figures[name] > 0
    for name in ("share_of_step", "gpu", "machine", "versions", "commit"):
        assert name in figures


def test_without_torch_nothing_but_its_figures_is_missing(monkeypatch):
    for module in ("bench.gpu_sampling", "bench.torch_sampling"):
        monkeypatch.setitem(sys.modules, module, None)
    in_torch, on_gpu = bench.measure_in_torch(1, 1), bench.measure_on_gpu(1)
    assert in_torch["torch_ms"] is None and in_torch["torch_reason"].startswith("not measured: ")
    assert on_gpu["gpu"] is None and on_gpu["gpu_reason"].startswith("not measured: ")


def test_without_the_native_kernel_the_gpu_is_measured_all_the_same(monkeypatch, capsys):
    def missing(threads):
        raise BackendError("the native kernel is not built")

    monkeypatch.setattr(bench, "NativeSampler", missing)
    monkeypatch.setattr(bench, "measure_on_gpu", lambda runs: {"gpu": "H100", "runs": runs})
    bench.main(["--json", "--runs", "3"])
    figures = json.loads(capsys.readouterr().out.strip().rpartition("\n")[2])
    assert (figures["gpu"], figures["runs"], figures["native_ms"]) == ("H100", 3, None)
    assert figures["native_reason"] == "the native kernel is not built"
