"""Quality against seconds: what is measured, what arithmetic allows, and the others' ratios."""

import json

import msgspec
import pytest

torch = pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from bench import pareto
from bench.peers.devices import Device
from bench.roofline import Roofline
from training.evaluation.decoding import OVERALL, Compared
from training.evaluation.evaluator import EvalConfig
from vab_rt.bundle import open_bundle

PEERS = {"over_eager": 2.0, "over_compiled": None, "parallel_over_autoregressive_eager": 10.0}


def compared(steps, guidance, seconds, gain):
    passes = steps * (2 if guidance != 1 else 1)
    return Compared(
        setting=f"steps={steps} guidance={guidance}",
        passes=passes,
        seconds=seconds,
        means={"onset_f1_100ms": 0.8 + gain, "class_agreement": 0.9},
        gains={"onset_f1_100ms": (gain, gain - 0.1, gain + 0.2), OVERALL: (gain, -0.3, 0.4)},
        worse=[],
    )


ROWS = [compared(16, 1.5, 1.6, 0.0), compared(4, 1, 0.2, -0.05)]
ROWS += [msgspec.structs.replace(ROWS[1], setting=f"{ROWS[1].setting} precision=int8")]


def test_ceilings_are_of_the_passes(tiny_bundle):
    config = open_bundle(str(tiny_bundle)).config
    roofline = Roofline(flops_per_s=float(pareto.backbone_flops(config, 1)), bytes_per_s=1e12)
    found = pareto.ceilings(ROWS, EvalConfig(bundle=str(tiny_bundle)), roofline)
    assert found == {ROWS[0].setting: 32, ROWS[1].setting: 4}  # a pass is a second, in float32


def test_others_are_ratios_of_the_first_and_one_that_failed_is_left_out():
    assert pareto.peer_seconds(1.6, PEERS) == {
        "PyTorch, eager": 3.2,
        "FoleyGen's loop, eager": 16.0,
    }


def test_steps_that_a_setting_leaves_out_are_the_models_own(tiny_bundle):
    rows = [ROWS[0], msgspec.structs.replace(ROWS[1], setting="guidance=1")]
    own = open_bundle(str(tiny_bundle)).manifest.defaults.steps
    found = pareto.steps_of(rows, EvalConfig(bundle=str(tiny_bundle)))
    assert found == {ROWS[0].setting: 16, "guidance=1": own}


def test_an_interval_lies_around_the_mean():
    assert pareto.point(ROWS[1], "onset_f1_100ms") == pytest.approx((0.75, 0.65, 0.95))
    assert pareto.point(ROWS[1], OVERALL) == (-0.05, -0.3, 0.4)


def test_it_prints_plots_and_tells_in_json(monkeypatch, tmp_path, capsys, tiny_bundle):
    asked = []

    def compare_settings(config, settings, seeds, run, workers):
        asked.append((config.bundle, list(settings), len(seeds), workers))
        return ROWS

    monkeypatch.setattr(pareto, "compare_settings", compare_settings)
    monkeypatch.setattr(pareto, "compare_peers", lambda *_: PEERS)
    monkeypatch.setattr(Device, "roofline", lambda self: Roofline(1e11, 1e10))
    words = ["--clips", "3", "--settings", "a", "b", "--plot", str(tmp_path / "p.png"), "--json"]
    pareto.main(["--model", str(tiny_bundle), "--run", str(tmp_path), *words])
    assert asked == [(str(tiny_bundle), ["a", "b"], 3, 1)]
    lines = capsys.readouterr().out.splitlines()
    told = json.loads(lines[-1])
    assert told["clips"] == 3 and told["peers_s"]["PyTorch, eager"] == 3.2
    assert [row["setting"] for row in told["settings"]] == [row.setting for row in ROWS]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
