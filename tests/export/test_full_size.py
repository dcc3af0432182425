"""The paper's largest model goes all the way: checkpoint, bundle, engines, one guided step. Steps
are timed of a tiny one."""

import pytest

pytest.importorskip("torch", reason="the exporter needs the extra `export`")

from checkpoints import saved_checkpoint
from tiny_bundle import RUNTIME_GRAPHS

from bench.full_size import measure_step, measure_system
from bench.roofline import Roofline
from export.tolerances import TOLERANCES
from vab_rt.bundle import open_bundle


def test_a_step_is_timed_beside_torchs_where_the_two_agree(bundle, checkpoint, tmp_path):
    def measured(vab):
        return measure_step("backbone", vab, open_bundle(bundle), Roofline(1e9, 1e9), repeats=1)

    figures = measured(checkpoint.vab())
    assert figures["relative_error"] <= TOLERANCES["backbone"].relative
    assert figures["torch_step_s"] > 0 < figures["ours_step_s"] and figures["ceiling_step_s"] > 0
    other = saved_checkpoint(tmp_path, checkpoint.config, seed=1).vab()
    with pytest.raises(SystemExit, match="not timed: logits differ by"):
        measured(other)


@pytest.mark.slow
def test_vab_encodec_exports_and_takes_a_step():
    figures = measure_system(repeats=0)
    assert figures["relative_error"] <= TOLERANCES["backbone"].relative
    assert figures["verified"].keys() == {
        f"verified_{name}" for name in (*RUNTIME_GRAPHS, "codec_encoder")
    }
    assert figures["size_bytes"]["backbone.onnx"] > 1.6e9
    assert figures["export_peak_mb"] < 14_000
    pytest.importorskip("tensorrt_rtx", reason='not installed: pip install "vab-rt[rtx]"')
    engines = figures["engines"]
    assert tuple(engines) == RUNTIME_GRAPHS
    for name, engine in engines.items():
        assert engine["size_bytes"] > 0.9 * figures["size_bytes"][f"{name}.onnx"]
