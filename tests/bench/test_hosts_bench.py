"""`bench hosts`: what it refuses to time, and a run on a tiny model without Node and a browser."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("torch", reason="the bench exports a graph: pip install '.[dev]'")

from bench import hosts, openvino
from vab_rt.bundle import open_bundle
from vab_rt.engines.providers import what_is_missing

CLIP = Path(__file__).parents[2] / "examples" / "ball.mp4"


@pytest.mark.parametrize(("token", "apart"), [(1, 0.0), (0, 0.1)])
def test_a_graph_that_gives_something_else_is_not_timed(token, apart):
    ours = np.zeros((1, 2, 3), np.int32), np.zeros((1, 8), np.float32)
    assert hosts.check_parity(ours, ours) == 0
    with pytest.raises(SystemExit, match="not timed: the graph gives other tokens"):
        hosts.check_parity(ours, (ours[0] + token, ours[1] + np.float32(apart)))


def test_a_run_without_what_pip_and_npm_install(tiny_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hosts, "render_clip", lambda _: CLIP)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", None)
    providers = ["CPUExecutionProvider"]  # also where a test before has plugged it in
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    words = ["--model", str(tiny_bundle), "--runs", "2", "--node-modules", str(tmp_path), "--json"]
    hosts.main(words)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["one_graph_ratio"] == pytest.approx(
        found["one_graph_s"] / found["loop_s"], rel=0.2
    )
    nothing = {name for name, value in found.items() if value is None}
    on_openvino = {f"{way}_s" for way in openvino.WAYS} | {*openvino.LOST}
    assert nothing == found["why"].keys() == {"node_s", "wasm_s", "page_s"} | on_openvino
    assert "pip install onnxruntime-ep-openvino" in found["why"]["openvino_s"]


def test_int8_and_openvino_beside_the_cpu(tiny_bundle, monkeypatch):
    """Without OpenVINO the CPU stands in for it: what int8 costs is measured all the same."""
    if what_is_missing("openvino")[0]:
        monkeypatch.setattr(openvino, "what_is_missing", lambda _: ("", ""))
        monkeypatch.setattr(openvino, "WAYS", dict.fromkeys(openvino.WAYS, "cpu"))
    bundle = open_bundle(tiny_bundle)
    clip = hosts.Clip(CLIP, bundle)
    found, why = openvino.beside_cpu(bundle, clip.frames, clip.large, 1)
    assert why is None and min(found[f"{way}_s"] for way in openvino.WAYS) > 0
    assert found["openvino_apart"] < 1e-5 and found["openvino_same_tokens"] > 0.5
    assert 0 < found["int8_error"] < 0.2 and 0.5 < found["int8_same_argmax"] <= 1


def test_int8_products_of_weights_that_were_stored_in_8_bits(tmp_path):
    copy = open_bundle(openvino.int8_copy(open_bundle(), tmp_path / "int8"))
    assert copy.manifest.precision == "int8"
    before, after = (
        b.read_graph("backbone").count(b"MatMulInteger") for b in (open_bundle(), copy)
    )
    assert before == 0 and after > 30
