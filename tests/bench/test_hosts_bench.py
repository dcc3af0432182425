"""`bench hosts`: what it refuses to time, and a run on a tiny model without Node and a browser."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bench exports a graph: pip install '.[dev]'")

from bench import hosts

CLIP = Path(__file__).parents[2] / "examples" / "ball.mp4"


@pytest.mark.parametrize(("token", "apart"), [(1, 0.0), (0, 0.1)])
def test_a_graph_that_gives_something_else_is_not_timed(token, apart):
    ours = np.zeros((1, 2, 3), np.int32), np.zeros((1, 8), np.float32)
    assert hosts.check_parity(ours, ours) == 0
    with pytest.raises(SystemExit, match="not timed: the graph gives other tokens"):
        hosts.check_parity(ours, (ours[0] + token, ours[1] + np.float32(apart)))


def test_a_run_without_what_npm_installs(tiny_bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hosts, "render_clip", lambda _: CLIP)
    words = ["--model", str(tiny_bundle), "--runs", "2", "--node-modules", str(tmp_path), "--json"]
    hosts.main(words)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["one_graph_ratio"] == pytest.approx(
        found["one_graph_s"] / found["loop_s"], rel=0.2
    )
    nothing = {name for name, value in found.items() if value is None}
    assert nothing == found["why"].keys() == {"node_s", "wasm_s", "page_s"}
