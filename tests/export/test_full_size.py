"""The paper's largest model goes all the way: checkpoint, bundle, engines, one guided step."""

import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")

from bench.full_size import measure_system
from export.tolerances import TOLERANCES
from vab_rt.contract import GRAPHS, RUNTIME_GRAPHS


@pytest.mark.slow
def test_vab_encodec_exports_and_takes_a_step():
    figures = measure_system(repeats=1)
    assert figures["relative_error"] <= TOLERANCES["backbone"].relative
    assert figures["verified"].keys() == {f"verified_{name}" for name in GRAPHS}
    assert figures["size_bytes"]["backbone.onnx"] > 1.6e9
    assert figures["export_peak_mb"] < 14_000
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    engines = figures["engines"]
    assert tuple(engines) == RUNTIME_GRAPHS
    for name, engine in engines.items():
        assert engine["size_bytes"] > 0.9 * figures["size_bytes"][f"{name}.onnx"]
