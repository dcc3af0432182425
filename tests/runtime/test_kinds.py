"""Kinds: what a model says that it sees, and what it is told instead."""

import json

import numpy as np
import pytest
from tiny_bundle import make_bundle, tiny_config
from typer.testing import CliRunner

import vab_rt
from vab_rt.cli import app_of
from vab_rt.errors import OptionError

KINDS = ("dog", "rain", "ambience")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("kinds"), tiny_config(kinds=KINDS))


@pytest.fixture(scope="module")
def knowing(bundle):
    return vab_rt.load(bundle, threads=1)


def test_each_step_says_what_its_window_shows(knowing, videos, pipeline):
    steps = list(knowing.generate_steps(videos(87)))
    assert all(sorted(step.kinds) == sorted(KINDS) for step in steps)
    assert all(list(s.kinds.values()) == sorted(s.kinds.values(), reverse=True) for s in steps)
    assert not any(step.kinds for step in pipeline.generate_steps(videos(25)))


def test_a_given_kind_is_heard_instead_of_what_is_seen(knowing, videos):
    seen, dog, rain, both = (
        knowing.generate(videos(25), kinds=kinds).samples
        for kinds in ((), "dog", ("rain",), ["rain", "dog"])
    )
    others = (seen, dog, rain, both)
    assert sum(np.array_equal(a, b) for a in others for b in others) == len(others)
    again = knowing.generate(videos(25), kinds=("dog", "rain"))
    assert np.array_equal(again.samples, both)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            ("dogs",),
            "dogs, which tiny does not know, expected one that .* MODEL lists, such as dog$",
        ),
        (("xylophone",), "expected one that vab-rt kinds MODEL lists$"),
        (3, r"kinds is 3, expected names"),
        ((3,), r"kinds is \(3,\), expected names"),
    ],
)
def test_a_kind_that_there_is_not(knowing, videos, kinds, message):
    with pytest.raises(OptionError, match=message):
        knowing.generate_steps(videos(25), kinds=kinds)


def test_a_model_without_names_takes_none(pipeline, videos):
    with pytest.raises(OptionError, match="has no names for what it sees"):
        pipeline.generate_steps(videos(25), kinds="dog")


def test_the_command_lists_takes_and_tells_them(bundle, videos, tmp_path):
    run = CliRunner().invoke
    assert run(app_of(), ["kinds", str(bundle)]).output.split() == list(KINDS)
    assert json.loads(run(app_of(), ["kinds", str(bundle), "--json"]).output) == {
        "kinds": list(KINDS)
    }
    nameless = run(app_of(), ["kinds", "default"])
    assert not nameless.stdout and nameless.exit_code == 0
    assert nameless.stderr == (
        "vab-tiny has no names for what it sees; vab-rt kinds real lists some\n"
    )
    given = ["generate", str(videos(87)), str(tmp_path / "a.wav"), "--model", str(bundle)]
    told = run(app_of(), [*given, "--kind", "dog", "--kind", "rain", "--json"])
    report = json.loads(told.output)
    assert sorted(report["kinds"]) == sorted(KINDS)
    assert run(app_of(), [*given, "--force"]).output.startswith("seen: ")
    assert "seen" not in run(app_of(), [*given, "--force", "--kind", "dog"]).output
    by_default = run(app_of(), ["generate", str(videos(50)), str(tmp_path / "b.wav")])
    assert by_default.stdout.startswith("the default model knows a drawn world alone: --model real")


@pytest.mark.parametrize(
    ("said", "kinds"),
    [((), ("dog",)), (("--kind", "rain"), ("rain",)), (("--kind", "seen"), ())],
)
def test_a_sound_that_is_changed_or_goes_on_keeps_its_kind(
    knowing, bundle, videos, run, tmp_path, said, kinds
):
    """Unless another is said."""
    video, old, out = videos(87), tmp_path / "old.wav", tmp_path / "out.wav"
    words, more = ("--model", bundle, "--seed", 3, "--force", *said), {"seed": 3, "kinds": kinds}

    def check(told, made):
        assert told.code == 0 and ("seen" in told.out) == (not kinds), told.err
        take = vab_rt.Audio.load(out).take
        assert take.kinds == made.take.kinds == kinds
        assert np.array_equal(take.tokens, made.take.tokens)

    knowing.generate(video, kinds="dog").save(old)
    told = run("regenerate", video, old, out, "--from", 1, "--to", 2, *words)
    check(told, knowing.regenerate(video, old, 1, 2, **more))
    knowing.generate(vab_rt.Video(video, duration_s=1.5), kinds="dog").save(old, force=True)
    told = run("generate", video, out, "--continue", old, *words)
    check(told, knowing.continue_sound(video, old, **more))
    told = run("generate", video, out, "--continue", old, "--force")
    assert told.code == 1 and "has tokens of the model tiny, expected" in told.err
