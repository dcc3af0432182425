"""Decoding options against each other: settings, the loop, what is worse, what is chosen."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs PyTorch: pip install '.[dev]'")

from training.evaluation import decoding
from training.evaluation.decoding import (
    MEASURES,
    OVERALL,
    chosen,
    compare,
    compare_settings,
    gain_of,
)
from training.evaluation.decoding_report import document, picture
from training.evaluation.decoding_settings import Setting, decode, read_setting
from training.evaluation.evaluator import EvalConfig
from training.foleyworld import clip_seeds
from vab_rt.bundle import shipped_models
from vab_rt.errors import OptionError
from vab_rt.options import TokenOptions
from vab_rt.pipeline import load
from vab_rt.systems.vab import carry_over

DEFAULTS = TokenOptions(steps=3, guidance=2.0, temperature=0.7)


@pytest.mark.parametrize(
    ("text", "guidance", "temperature", "passes"),
    [
        ("", [2, 2, 2], [0.7] * 3, 6),
        ("guidance=1", [1, 1, 1], [0.7] * 3, 3),
        ("guidance=3..1 temperature=1..0.5", [3, 2, 1], [1, 0.75, 0.5], 5),
        ("first=1", [2, 1, 1], [0.7] * 3, 4),
        ("last=2", [1, 2, 2], [0.7] * 3, 5),
        ("steps=1 guidance=4..1", [4], [0.7], 2),
    ],
)
def test_a_setting_says_what_every_step_does(text, guidance, temperature, passes):
    setting = read_setting(text, DEFAULTS)
    assert setting.guidance == pytest.approx(guidance) and setting.passes == passes
    assert setting.temperature == pytest.approx(temperature)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step=3", "has step, expected steps, guidance"),
        ("precision=int9", "precision is 'int9', expected fp32 or int8"),
        ("steps", "cannot be read"),
        ("steps=2.5", "cannot be read"),
        ("temperature=1..-1", "temperature is 0.0, expected 0.01 to 100"),
        ("guidance=200", "guidance is 200.0, expected 0 to 100"),
        ("steps=0", "steps is 0, expected 1 to 1024"),
    ],
)
def test_a_setting_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        read_setting(text, DEFAULTS)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_what_stays_the_same_decodes_as_in_the_runtime(tiny_bundle, guidance):
    system = load(tiny_bundle, threads=1).system
    shape = (1, system.config.num_frames, system.config.visual_dim)
    features = np.random.default_rng(0).standard_normal(shape, np.float32)
    options = TokenOptions(steps=4, guidance=guidance, top_k=3, mask_temperature=2.0)
    masked = carry_over(None, system.config)
    seeds = np.array([5], np.uint64)
    *_, (_, expected) = system.decode_tokens(features, masked, seeds, options)
    pipeline = load(tiny_bundle, threads=1)
    found = decode(pipeline, features, read_setting("", options), 5)
    np.testing.assert_array_equal(found, expected)
    other = decode(pipeline, features, read_setting("guidance=9..1", options), 5)
    assert not np.array_equal(other, expected)


def setting(name, steps):
    return Setting(name, (1.5,) * steps, (0.8,) * steps, 0, 1.0)


def figures(**changed):
    """Of 40 clips, alike but for what is changed."""
    clips = {name: np.linspace(0, 1, 40) for name in MEASURES}
    clips["onset_f1_100ms"][::2] = np.nan  # no impacts
    return clips | {name: clips[name] + by for name, by in changed.items()}


def compared(name, steps, **changed):
    return compare(setting(name, steps), figures(**changed), figures(), [0.1, 0.2])


def test_worse_is_what_the_interval_says():
    noise = np.random.default_rng(0).normal(0, 1, 40)
    assert compared("as it was", 16).worse == []
    assert compared("noisy", 16, kld=noise - noise.mean()).worse == []
    assert compared("deaf", 8, onset_f1_100ms=-0.3).worse == ["onset_f1_100ms", OVERALL]
    assert compared("dull", 8, kld=0.3).worse == ["kld", OVERALL]  # less of it is better
    good = compared("good", 8, kld=-0.3)
    assert good.worse == [] and good.gains["kld"] == pytest.approx((0.3, 0.3, 0.3))
    assert good.seconds == pytest.approx(1.6) and good.passes == 16


def test_the_fastest_that_is_not_worse_is_chosen():
    base = compared("base", 16)
    rows = [base, compared("8", 8), compared("8, better", 8, kld=-0.1), compared("4", 4, kld=0.2)]
    assert chosen(rows).setting == "8, better"
    assert chosen(rows[:1]) is base


def test_gains_leave_out_clips_without_a_figure():
    mean, low, high = gain_of(np.array([1.0, np.nan, 3.0, 2.0]))
    assert mean == 2 and 1 <= low < 2 < high <= 3


def test_the_document_holds_every_setting_and_marks_what_is_worse():
    rows = [compared("16 steps", 16), compared("4 steps", 4, kld=0.3)]
    text = document(rows, 40, "On two cores.")
    assert "| 16 steps | 32 | 3.20 |" in text and "**16 steps**" in text
    assert "| **0.80** |" in text  # KLD, worse
    assert picture(rows).startswith(b"\x89PNG")


@pytest.mark.skipif("default" not in shipped_models(), reason="no shipped model yet")
def test_a_comparison_goes_on_where_it_was(tmp_path, monkeypatch):
    seeds, texts = clip_seeds("validation", 0, 3), ["steps=2 guidance=2", "steps=1 guidance=1"]
    texts.append("steps=1 guidance=1 precision=int8")
    timed, measured = decoding.seconds_of_a_step, []

    def seconds(pipeline, seed, setting):
        """As on a machine with nothing else to do."""
        measured.append(timed(pipeline, seed, setting))
        return 0.1 * setting.passes

    monkeypatch.setattr(decoding, "seconds_of_a_step", seconds)
    first = compare_settings(EvalConfig(), texts, seeds, tmp_path)
    assert [c.passes for c in first] == [4, 1, 1] and min(measured) > 0
    assert [c.seconds for c in first] == pytest.approx([0.4, 0.1, 0.1])
    assert first[0].gains[OVERALL] == (0, 0, 0) and first[1].gains[OVERALL][0] != 0
    assert first[2].gains != first[1].gains

    def again(job):
        raise AssertionError("made again")

    monkeypatch.setattr(decoding, "scene_features", again)
    monkeypatch.setattr(decoding, "seconds_of_a_step", lambda *_: 0.1)
    second = compare_settings(EvalConfig(), texts, seeds, tmp_path)
    assert [c.gains for c in second] == [c.gains for c in first]
