"""Several sounds of one video: each is what its seed gives, and the model says which fit best."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import fine_config, make_bundle, tiny_config

import vab_rt
from vab_rt.errors import OptionError
from vab_rt.pipeline import Pipeline
from vab_rt.systems.vab import Said, mean_gains

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("ball", "hammer", "waves")


@pytest.fixture(scope="module")
def coarse_to_fine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coarse-to-fine") / "bundle"
    return vab_rt.load(make_bundle(folder, tiny_config(), fine=fine_config()), threads=1)


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
