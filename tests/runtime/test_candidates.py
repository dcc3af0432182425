"""Several sounds of one video: each is what its seed gives, and the model says which fit best."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import vab_rt
from vab_rt.audio import Audio
from vab_rt.errors import OptionError
from vab_rt.pipeline import Pipeline
from vab_rt.systems.vab import Said, mean_gains

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("ball", "hammer", "waves")


@pytest.mark.parametrize("num_frames", [3, 25, 130])  # 0.12 s, 1 s, and 5.2 s in four windows
def test_each_candidate_is_what_its_seed_gives(pipeline, videos, num_frames):
    takes = pipeline.candidates(videos(num_frames), seed=5, num_candidates=3, steps=3)
    assert sorted(take.seed for take in takes) == [5, 6, 7]
    for take in takes:
        assert take == pipeline.generate(videos(num_frames), seed=take.seed, steps=3)


def test_they_come_best_first_by_the_mean_over_what_is_heard(pipeline, videos):
    takes = pipeline.candidates(videos(130), num_candidates=4, steps=2)
    scores = [take.score for take in takes]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    best = [
        step
        for step in pipeline.candidate_steps(videos(130), num_candidates=4, steps=2)
        if step.audio is not None and step.candidate == takes[0].seed
    ]
    heard = np.array([len(step.audio) for step in best])
    assert [step.window for step in best] == list(range(len(best))) and len(best) > 2
    own = np.array([step.score for step in best])
    assert takes[0].score == pytest.approx(own @ heard / heard.sum())


def test_seeds_go_on_from_the_first_after_the_last(pipeline, videos):
    takes = pipeline.candidates(videos(3), seed=2**64 - 1, num_candidates=2, steps=1)
    assert sorted(take.seed for take in takes) == [0, 2**64 - 1]


def test_frames_are_seen_once(pipeline, videos):
    def calls(count):
        seen = []

        def visual_encoder(frames):
            seen.append(len(frames))
            return pipeline.system.engines["visual_encoder"](frames=frames)

        engines = pipeline.system.engines.with_graphs(visual_encoder=visual_encoder)
        other = Pipeline(dataclasses.replace(pipeline.system, engines=engines))
        assert len(other.candidates(videos(130), num_candidates=count, steps=1)) == count
        return sum(seen)

    assert calls(5) == calls(1) > 0


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_first_step_of_all_and_the_score_are_one_run(pipeline, videos, guidance):
    runs = []

    def backbone(**inputs):
        runs.append(inputs["tokens"].copy())
        return pipeline.system.engines["backbone"](**inputs)

    engines = pipeline.system.engines.with_graphs(backbone=backbone)
    other = Pipeline(dataclasses.replace(pipeline.system, engines=engines))
    takes = other.candidates(videos(25), num_candidates=4, steps=3, guidance=guidance)
    assert len(runs) == 4 * 2 + (
        2 if guidance == 1 else 1
    )  # guidance 1 has one branch, the score two
    assert takes == pipeline.candidates(videos(25), num_candidates=4, steps=3, guidance=guidance)


def test_coarse_tokens_are_scored_where_there_are_two_stages(coarse_to_fine, videos):
    takes = coarse_to_fine.candidates(videos(25), num_candidates=3, steps=2, fine_steps=2)
    *_, last = coarse_to_fine.generate_steps(videos(25), seed=takes[0].seed, steps=2, fine_steps=2)
    assert last.state.shape[0] == 5 and len({take.score for take in takes}) == 3
    changed = last.state[None].copy()
    changed[:, 2:] = 0
    features = np.zeros((4, 6), np.float32)
    scores = [coarse_to_fine.system.likelihood(features, x)[0] for x in (last.state[None], changed)]
    assert scores[0] == scores[1]


def test_gains_are_looked_up_for_each_token():
    random = np.random.default_rng(0)
    said = Said(*random.standard_normal((2, 3, 5, 7)).astype(np.float32))
    tokens = random.integers(7, size=(4, 3, 5)).astype(np.int16)
    expected = [
        np.mean([said.gains[k, t, one[k, t]] for k in range(3) for t in range(5)]) for one in tokens
    ]
    assert mean_gains(said.gains, tokens) == pytest.approx(expected)


@pytest.mark.parametrize("count", [0, -1, 33, 1000, 2.5, "many", None])
def test_a_number_that_there_is_not(pipeline, videos, count):
    with pytest.raises(OptionError, match=r"num_candidates is .*, expected .*1 to 32"):
        pipeline.candidates(videos(3), num_candidates=count)


def test_an_option_that_there_is_not(pipeline, videos):
    with pytest.raises(OptionError, match="colour is no option"):
        pipeline.candidates(videos(3), colour=3)


def test_a_model_without_tokens_has_no_score(v2a_bundle, videos):
    with pytest.raises(OptionError, match="cannot tell how well a sound fits"):
        vab_rt.load(v2a_bundle, threads=1).candidates(videos(25), num_candidates=1)


@pytest.mark.parametrize("suffix", ["wav", "mp4"])
def test_the_command_writes_the_best_and_the_others(run, tiny_bundle, videos, tmp_path, suffix):
    out, seeds = tmp_path / f"out.{suffix}", [5, 6, 7]
    words = ("generate", videos(130), out, "--model", tiny_bundle, "--steps", "2", "--seed", "5")
    told = run(*words, "--candidates", 3, "--json")
    assert told.code == 0 and told.err == ""
    report = json.loads(told.out.splitlines()[-1])
    files = [tmp_path / f"out{number}.{suffix}" for number in ("", ".2", ".3")]
    assert [Path(one["output"]) for one in report["candidates"]] == files
    scores = [one["score"] for one in report["candidates"]]
    assert scores == sorted(scores, reverse=True) and report["output"] == str(out)
    assert sorted(one["seed"] for one in report["candidates"]) == seeds
    assert report["seed"] == report["candidates"][0]["seed"] and report["timings_s"]["score"] > 0
    for file, one in zip(files, report["candidates"], strict=True):
        alone = tmp_path / f"alone.{suffix}"
        assert run(*words[:2], alone, *words[3:7], "--seed", one["seed"], "--force").code == 0
        assert alone.read_bytes() == file.read_bytes()


def test_people_are_told_seeds_and_scores(run, tiny_bundle, videos, tmp_path):
    words = ("generate", videos(25), tmp_path / "out.wav", "--model", tiny_bundle, "--steps", "1")
    lines = run(*words, "--candidates", 2).out.splitlines()
    assert len(lines) == 3 and "1.00 s of sound" in lines[0]
    for line, name in zip(lines[1:], ("out.wav", "out.2.wav"), strict=True):
        assert f"{name}: seed " in line and ", score " in line


def test_where_one_of_the_files_is_there_none_is_written(run, tiny_bundle, videos, tmp_path):
    (tmp_path / "out.3.wav").write_text("mine")
    words = ("generate", videos(25), tmp_path / "out.wav", "--model", tiny_bundle, "--steps", "1")
    said = run(*words, "--candidates", 4)
    assert said.code == 1 and "out.3.wav exists already" in said.err and said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.3.wav"]
    assert run(*words, "--candidates", 4, "--force").code == 0
    assert (tmp_path / "out.3.wav").read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("link", "target"),
    [("o.2.wav", "o.wav"), ("o.wav", "o.3.wav"), ("o.2.wav.vab.json", "o.3.wav.vab.json")],
)
def test_two_of_the_files_that_are_one(run, tiny_bundle, videos, tmp_path, link, target):
    (tmp_path / link).symlink_to(tmp_path / target)
    words = ("generate", videos(25), tmp_path / "o.wav", "--model", tiny_bundle, "--steps", "1")
    said = run(*words, "--candidates", 3, "--force")
    assert said.code == 1 and said.err.count("\n") == 1
    assert "are one file, expected one for each candidate" in said.err
    assert [path.name for path in tmp_path.iterdir()] == [link]
    (tmp_path / link).unlink()
    (tmp_path / target).write_text("mine")
    (tmp_path / link).hardlink_to(tmp_path / target)  # which ends where a file is replaced
    assert run(*words, "--candidates", 3, "--force").code == 0
    assert (tmp_path / link).read_bytes() != (tmp_path / target).read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--candidates", "0"), "num_candidates is 0, expected 1 to 32"),
        (("--candidates", "1000"), "num_candidates is 1000, expected 1 to 32"),
        (("--candidates", "2", "--continue", "begin.wav"), "expected no sound to go on with"),
        (("--library", ""), "library is '', expected a folder of recordings"),
    ],
)
def test_a_command_that_cannot_be_meant(
    run, tiny_bundle, videos, tmp_path, monkeypatch, more, message
):
    monkeypatch.chdir(tmp_path)
    Audio(np.zeros(1600, np.float32), 16_000).save("begin.wav")
    said = run("generate", videos(25), "out.wav", "--model", tiny_bundle, *more)
    assert said.code == 1 and message in said.err and said.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["begin.wav"]


def test_the_shipped_model_knows_its_own_sounds_and_their_time():
    """Of three examples each has its own sound as the best, and not 0.2 s early or late."""
    pipeline = vab_rt.load(threads=1)
    seen, tokens = [], []
    for name in NAMES:
        *_, last = pipeline.generate_steps(EXAMPLES / f"{name}.mp4")
        frames = vab_rt.Video(EXAMPLES / f"{name}.mp4").frames(pipeline.config)
        features = np.stack(list(pipeline.system.see(frames)))[: pipeline.config.num_frames]
        seen.append(features)
        tokens.append(last.state)
    for own, features in enumerate(seen):
        early, late = (np.roll(tokens[own], hops, axis=1) for hops in (-10, 10))
        scores = pipeline.system.likelihood(features, np.stack([*tokens, early, late]))
        assert scores.argmax() == own, scores
