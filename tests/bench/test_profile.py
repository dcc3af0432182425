"""Traces: of our own calls, of onnxruntime's graphs, and the table of where the time goes."""

import json
import time
from types import SimpleNamespace

import pytest
from tiny_bundle import RUNTIME_GRAPHS, fine_config, tiny_config

from bench import profiling
from bench.__main__ import main as command
from bench.traces import Trace, shares_of_graph
from vab_rt.contract import contract_of
from vab_rt.errors import VabError


def event(name, ts, dur, op=None):
    return {"name": name, "ts": ts, "dur": dur, "args": {} if op is None else {"op_name": op}}


def test_a_graphs_time_is_shared_among_its_operators(tmp_path):
    path = tmp_path / "trace.json"
    events = [
        event("model_run", 0, 90_000),
        event("a_kernel_time", 10, 80_000, "MatMul"),  # of the warm-up
        event("model_run", 100_000, 10_000),
        event("a_kernel_time", 100_010, 5_000, "MatMul"),
        event("a_fence_before", 100_010, 5_000, "MatMul"),
        event("b_kernel_time", 105_010, 1_000, "Gelu"),
        event("model_run", 200_000, 10_000),
        event("a_kernel_time", 200_010, 3_000, "MatMul"),
        event("c_kernel_time", 204_010, 2_000, "MatMul"),
        event("b_kernel_time", 206_010, 3_000, "Gelu"),
    ]
    path.write_text(json.dumps(events))
    run_ms, shares = shares_of_graph(path, warm_ups=1)
    assert run_ms == 10
    assert [share.op for share in shares] == ["MatMul", "between operators", "Gelu"]
    assert [share.ms for share in shares] == pytest.approx([5, 3, 2])
    assert [share.share for share in shares] == pytest.approx([0.5, 0.3, 0.2])
    assert sum(share.share for share in shares) == pytest.approx(1)
    with pytest.raises(AssertionError, match="3 warm-ups"):
        shares_of_graph(path, warm_ups=3)


def test_a_timed_call_is_an_event(tmp_path):
    trace = Trace()
    add = trace.timed("add", lambda a, b: time.sleep(0.01) or a + b)
    assert add(1, b=2) == 3
    with pytest.raises(TypeError):
        add(1, None)
    written = json.loads(trace.write(tmp_path / "t.json").read_text())["traceEvents"]
    assert [(e["name"], e["ph"]) for e in written] == [("add", "X"), ("add", "X")]
    assert written[0]["dur"] > 9_000  # microseconds
    assert written[1]["ts"] >= written[0]["ts"] + written[0]["dur"]
    assert trace.seconds_of("add") == pytest.approx(sum(e["dur"] for e in written) / 1e6)


def test_every_stage_has_a_trace(tiny_bundle, videos, tmp_path, capsys):
    words = ["--model", tiny_bundle, "--clip", videos(40), "--out", tmp_path, "--runs", 2]
    profiling.main([*map(str, words), "--threads", "1", "--json"])
    figures = json.loads(capsys.readouterr().out.strip().rpartition("\n")[2])
    names = {*RUNTIME_GRAPHS, "stages"}
    assert {path.stem for path in tmp_path.iterdir()} == names
    stages = json.loads((tmp_path / "stages.json").read_text())["traceEvents"]
    steps = [e for e in stages if e["name"].startswith("window 0, step")]
    assert len(steps) == profiling.OPTIONS.steps
    assert sum(e["name"] == "backbone" for e in stages) == profiling.OPTIONS.steps
    assert figures["device"] == "cpu" and figures["commit"]
    seconds = figures["stages_s"]
    assert 0 < seconds["of which sample_step"] < seconds["tokens"] < seconds["whole"]
    for name in RUNTIME_GRAPHS:
        ops = figures["graphs"][name]["ops"]
        assert sum(op["share"] for op in ops) == pytest.approx(1, abs=0.01)
    assert "MatMul" in {op["op"] for op in figures["graphs"]["backbone"]["ops"]}


def test_every_graph_of_two_streams_and_two_stages_has_inputs():
    coarse = tiny_config(motion_dim=2, motion_reach=1)
    fine = fine_config(motion_dim=2, motion_reach=1)
    contracts = contract_of(coarse) | contract_of(fine)
    bundle = SimpleNamespace(config=coarse, contracts=contracts)
    for name in {*contracts} - {"codec_encoder"}:
        inputs = profiling.inputs_of(name, bundle)
        assert [x.dtype for x in inputs.values()] == [x.dtype for x in contracts[name].inputs]
    assert profiling.inputs_of("motion_encoder", bundle)["frames"].shape[:2] == (1, 52)
    assert profiling.inputs_of("fine_backbone", bundle)["tokens"].shape[0] == 2


def test_on_a_gpu_the_stages_alone_are_traced(tiny_bundle, videos, tmp_path, monkeypatch, capsys):
    class Renamed:
        def __init__(self, pipeline):
            self.generate, self.device = pipeline.generate, "cuda"
            self.system = pipeline.system

    load = profiling.vab_rt.load
    monkeypatch.setattr(profiling.vab_rt, "load", lambda *_, **__: Renamed(load(tiny_bundle)))
    profiling.main(["--clip", str(videos(40)), "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["stages.json"]
    assert "nsys profile" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(profiling, "EXAMPLES", tmp_path)
    with pytest.raises(VabError, match=r"holds no clip.*--clip"):
        profiling.example()
    (tmp_path / "file").touch()
    with pytest.raises(VabError, match=r"cannot be written .*--out"):
        profiling.main(["--out", str(tmp_path / "file" / "out")])
    words = ["bench", "profile", "--model", "nowhere", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=r"error: model nowhere is not there"):
        command()
