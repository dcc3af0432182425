"""`bench editing`: its parts, what it refuses to time, and a whole run on a tiny model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch", reason="the bench compares with PyTorch: pip install '.[dev]'")

from checkpoints import tiny_config

from bench import editing
from bench.report import print_targets
from vab_rt import Audio
from vab_rt.bundle import open_bundle
from vab_rt.errors import DataError
from vab_rt.pipeline import Pipeline


def test_the_parts_lie_in_one_window():
    c = open_bundle(None).config
    assert editing.part_of_clip(c) == pytest.approx((4, 6))
    begin, end = editing.part_of_long(c)  # windows begin every 7 s
    assert (begin, end) == pytest.approx((18, 20))
    assert end < editing.LONG * c.clip_s


def test_the_files_are_always_the_same(tmp_path):
    for name in ("a", "b"):
        editing.make_files(tmp_path / name, 3, 16_000)
    first, second = ([p.read_bytes() for p in sorted((tmp_path / n).iterdir())] for n in "ab")
    assert first == second and len(set(first)) == 3


def test_ratios_are_to_one_sound():
    seconds = {"generate_s": 2, "regenerate_s": 1, "regenerate_long_s": 3, "candidates_s": 6}
    found = {"regenerate": 0.5, "regenerate_long": 1.5, "candidates": 3.0}
    found |= {"candidates_with_load": 2.5}
    ratios = editing.ratios(seconds, 0 + 2 / 3)
    assert ratios == pytest.approx({f"{name}_ratio": value for name, value in found.items()})


def test_each_figure_stands_beside_its_target(capsys):
    figures = {target.figure: target.limit for target in editing.TARGETS}
    del figures["unshifted"]
    print_targets(
        editing.TARGETS, figures | {"search_s": 0.6, "right_of_2": 0.94}, absent="give --fit"
    )
    rows = [line for line in capsys.readouterr().out.splitlines() if " at " in line]
    assert len(rows) == len(editing.TARGETS)
    missed = ["search the" in row or "of 2" in row for row in rows]
    assert ["NO" in row for row in rows] == missed
    assert ["give --fit" in row for row in rows] == [False] * (len(rows) - 1) + [True]


def test_what_the_score_is_worth_is_read(tmp_path):
    path = tmp_path / "fit.out"
    shifted = {"0.2s": {"all": 0.5, "impact": 0.9}}
    found = {"clips": 500, "best_of_2": 0.99, "shifted": shifted}
    path.write_text(f"clips seen\n{json.dumps(found)}\n")
    assert editing.read_fit(path) == {"right_of_2": 0.99, "unshifted": 0.9, "clips": 500}
    path.write_text("{}")
    for file in (path, tmp_path / "none"):
        with pytest.raises(DataError, match="expected what `python -m training.evaluate fit"):
            editing.read_fit(file)


@pytest.mark.parametrize(
    ("begin", "end", "seed", "reason"),
    [
        (0, 32_000, 1, "more or less than the part"),  # all of it
        (0, 0, 1, "more or less than the part"),  # nothing
        (13_000, 19_000, 2, "none of the candidates"),
    ],
)
def test_nothing_is_timed_where_an_edit_does_another_thing(begin, end, seed, reason):
    old = Audio(np.zeros(32_000, np.float32), 16_000)

    def regenerate(video, sound, start_s, end_s, **fields):
        samples = sound.samples.copy()
        samples[begin:end] = 0.5
        return Audio(samples, 16_000)

    takes = [Audio(np.full(32_000, seed - 1, np.float32), 16_000)]
    pipeline = SimpleNamespace(
        config=tiny_config(clip_s=2.0), regenerate=regenerate, candidates=lambda *_, **__: takes
    )
    with pytest.raises(SystemExit, match=f"not timed: {reason}"):
        editing.check_edits(pipeline, SimpleNamespace(clip=None, sound=old))


def test_a_whole_run(tiny_bundle, pipeline, capsys, monkeypatch):
    c = pipeline.config
    tokens = np.zeros((1, c.num_codebooks, c.num_token_steps), np.int32)
    whole = Pipeline(pipeline.system, 0.1, lambda: lambda audio: tokens)  # hears one sound
    monkeypatch.setattr(editing.vab_rt, "load", lambda *_: whole)
    editing.main(["--model", str(tiny_bundle), "--runs", "1", "--files", "3", "--json"])
    found = json.loads(capsys.readouterr().out.strip().rpartition("\n")[2])
    assert (found["files"], found["runs"], found["load_s"]) == (3, 1, 0.1)
    assert found["targets"].keys() == {target.figure for target in editing.TARGETS}
    timed = found["targets"].keys() - {"right_of_2", "unshifted"}
    assert all(found[name] > 0 for name in (*timed, "generate_s", "index_s"))
