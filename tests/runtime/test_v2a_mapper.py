"""V2A-Mapper: real videos through real graphs, one embedding a window, denoised latents."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from recording_driver import through_buffers
from tiny_v2a import make_v2a_bundle, tiny_v2a_config

import vab_rt
from vab_rt import GenerateOptions, Video
from vab_rt.errors import BundleError, OptionError
from vab_rt.loudness import Limiter
from vab_rt.options import Tuning
from vab_rt.pipeline import Pipeline
from vab_rt.v2a_mapper.system import aggregate, latent_noise, unit

FAST = GenerateOptions(steps=3)
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pipeline(v2a_bundle):
    return vab_rt.load(v2a_bundle, threads=1)


def variant(tmp_path, **changes) -> Pipeline:
    """The same graphs, as far as they are, for another config."""
    folder = make_v2a_bundle(tmp_path / "variant", tiny_v2a_config(**changes))
    return vab_rt.load(folder, threads=1)


def changed(pipeline, **engines):
    system = pipeline.system
    return Pipeline(replace(system, engines=system.engines.with_graphs(**engines)))


def recording(pipeline, name, calls):
    def call(**inputs):
        calls.append(inputs)
        return pipeline.system.engines[name](**inputs)

    return changed(pipeline, **{name: call})


@pytest.mark.parametrize("num_frames", [2, 24, 50, 51, 87])
def test_the_sound_is_as_long_as_the_video_to_the_sample(pipeline, videos, num_frames):
    audio = pipeline.generate(videos(num_frames), FAST)
    assert audio.samples.shape == (num_frames * 640,)
    assert 0.05 < audio.samples.std() < 1


def test_ten_seconds_are_160000_samples_in_one_window(tmp_path, videos):
    ten = variant(tmp_path, clip_s=10.0)
    *_, last = ten.generate_steps(videos(250), FAST)
    assert last.state.shape == (3, 250, 2)
    assert (last.audio.shape, last.num_windows) == ((160_000,), 1)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(pipeline, videos, tmp_path):
    for name, seed in (("a.wav", 1), ("b.wav", 1), ("c.wav", 2)):
        pipeline.generate(videos(50), GenerateOptions(steps=3, seed=seed)).save(tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.wav", "b.wav", "c.wav"))
    assert a == b != c


def test_the_sound_follows_the_picture(pipeline, videos):
    early, late = (pipeline.generate(Video(videos(200), at, 2.0)) for at in (0.0, 3.0))
    assert not np.array_equal(early.samples, late.samples)


def test_steps_tell_where_they_are_and_what_they_took(pipeline, videos):
    steps = list(pipeline.generate_steps(videos(87), FAST))
    assert [(s.window, s.step) for s in steps] == list(itertools.product(range(3), range(3)))
    assert [s.audio is not None for s in steps] == [False, False, True] * 3
    assert all(s.state.shape == (3, 50, 2) and s.state.dtype == np.float32 for s in steps)
    assert list(steps[-1].timings_s) == ["decode_video", "visual", "latents", "vocoder"]
    assert all(seconds > 0 for seconds in steps[-1].timings_s.values())


def test_windows_share_their_latents_and_joins_cannot_be_heard(pipeline, videos):
    """The tiny networks are local, so the sound around a join comes from one column."""
    c = pipeline.config
    steps = [s for s in pipeline.generate_steps(videos(200), FAST) if s.audio is not None]
    whole = np.concatenate([s.audio for s in steps])
    for before, after in itertools.pairwise(steps):
        shared = c.num_overlap_hops
        np.testing.assert_array_equal(before.state[:, -shared:], after.state[:, :shared])
        assert not np.array_equal(before.state, after.state)
    rendered = np.full_like(whole, np.nan)
    for step in steps:
        clip = pipeline.render(step.state[None])[0]
        begin = step.window * (c.num_hops - c.num_overlap_hops) * c.hop_samples
        part = rendered[begin : begin + len(clip)]
        shared = ~np.isnan(part)
        np.testing.assert_allclose(part[shared], clip[: len(part)][shared], atol=1e-6)
        part[:] = clip[: len(part)]
    limited = Limiter(c.sample_rate_hz).add(rendered, is_last=True)
    np.testing.assert_allclose(whole, limited, atol=1e-6)


def test_embeddings_have_unit_length_where_the_latents_are_denoised(pipeline, videos):
    calls = []
    recording(pipeline, "unet", calls).generate(videos(87), FAST)
    assert len(calls) == 3 * 3
    for inputs in calls:
        np.testing.assert_allclose(np.linalg.norm(inputs["embedding"], axis=1), 1, atol=1e-6)
        assert inputs["conditional"].tolist() == [1, 0]  # the other branch is without it
    assert [i["timestep"].tolist() for i in calls[:3]] == [[667] * 2, [334] * 2, [1] * 2]


def test_guidance_one_runs_one_branch(pipeline, videos):
    calls = []
    options = GenerateOptions(steps=3, guidance=1)
    recording(pipeline, "unet", calls).generate(videos(50), options)
    assert [i["conditional"].tolist() for i in calls] == [[1]] * 3


def embeddings(pipeline, video, seeds=(0,)):
    calls = []
    recorded = recording(pipeline, "unet", calls)
    for seed in seeds:
        recorded.generate(Video(video, duration_s=2.0), steps=1, seed=seed)
    return np.stack([inputs["embedding"][0] for inputs in calls])


def test_a_prior_varies_with_the_seed_and_a_regression_does_not(pipeline, videos, tmp_path):
    prior = embeddings(pipeline, videos(50), range(4))
    assert np.unique(prior, axis=0).shape == (4, 6)
    regression = embeddings(variant(tmp_path, mapper="regression"), videos(50), range(4))
    assert np.unique(regression, axis=0).shape == (1, 6)


def test_without_a_mapper_the_embedding_is_the_mean_feature(tmp_path, videos):
    bare = variant(tmp_path, mapper="none")
    assert "mapper" not in bare.system.engines.graphs
    seen = []
    recorded = recording(bare, "visual_encoder", seen)
    found = embeddings(recorded, videos(50))[0]
    features = bare.system.engines["visual_encoder"](
        frames=np.concatenate([i["frames"] for i in seen])
    )
    np.testing.assert_allclose(found, unit(features.mean(0)[None])[0], atol=1e-6)


def test_a_short_video_is_not_its_last_frame_again_and_again(pipeline, videos):
    """1.2 s at 2 frames a second: the mean is of what was seen, not of all four places."""
    calls, seen = [], []
    recorded = recording(recording(pipeline, "mapper", calls), "visual_encoder", seen)
    recorded.generate(videos(30), FAST)
    frames = np.concatenate([inputs["frames"] for inputs in seen])
    assert 1 < len(frames) < pipeline.config.num_frames
    mean = pipeline.system.engines["visual_encoder"](frames=frames).mean(0)
    np.testing.assert_allclose(calls[0]["features"][0], mean, atol=1e-6)


def test_the_prior_is_guided_as_the_config_says(pipeline, videos, tmp_path):
    for system, branches in ((pipeline, [1]), (variant(tmp_path, mapper_guidance=2.0), [1, 0])):
        calls = []
        recording(system, "mapper", calls).generate(videos(50), FAST)
        assert [i["conditional"].tolist() for i in calls] == [branches] * 5
        assert calls[0]["timestep"].tolist() == [833] * len(branches)


def test_aggregators_choose_among_the_frames():
    features = RNG.standard_normal((7, 6)).astype(np.float32)
    mean, middle, random = (
        tiny_v2a_config(aggregator=name) for name in ("mean", "middle", "random")
    )
    np.testing.assert_allclose(aggregate(features, mean, 0), features.mean(0), atol=1e-6)
    shuffled = features[RNG.permutation(7)]
    np.testing.assert_allclose(aggregate(shuffled, mean, 0), features.mean(0), atol=1e-6)
    np.testing.assert_array_equal(aggregate(features, middle, 0), features[3])
    chosen = {tuple(aggregate(features, random, seed)) for seed in range(60)}
    assert chosen == {tuple(row) for row in features}
    assert np.array_equal(aggregate(features, random, 5), aggregate(features, random, 5))
    for config in (mean, middle, random):  # a picture is a video of one
        np.testing.assert_array_equal(aggregate(features[:1], config, 3), features[0])


def test_the_noise_of_a_window_is_standard_normal_and_of_its_seed():
    noise = latent_noise(tiny_v2a_config(clip_s=20.0), 7)
    assert noise.shape == (1, 3, 500, 2)
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.05
    assert not np.array_equal(noise, latent_noise(tiny_v2a_config(clip_s=20.0), 8))


def test_an_embedding_without_direction_is_refused(pipeline, videos):
    for value in (0, np.nan):
        broken = changed(pipeline, mapper=lambda value=value, **i: np.full_like(i["noisy"], value))
        with pytest.raises(BundleError, match=r"embedding of length (0|nan), expected a finite"):
            broken.generate(videos(25), FAST)


def test_sound_that_is_not_finite_is_refused(pipeline, videos):
    broken = changed(pipeline, vocoder=lambda mel: np.full((1, 32_000), np.nan, np.float32))
    with pytest.raises(BundleError, match=r"vocoder of tiny-v2a returned samples that are NaN"):
        broken.generate(videos(25), FAST)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"top_k": 5}, "top_k is 5, which model tiny-v2a has no use for, .* steps, guidance"),
        ({"steps": 1000}, "steps is 1000, expected 1 to 999 for model tiny-v2a"),
    ],
)
def test_options_that_the_model_cannot_use_are_refused(pipeline, videos, override, message):
    with pytest.raises(OptionError, match=message):
        pipeline.generate(videos(25), GenerateOptions(**override))


def test_a_bundle_recommends_its_options(tmp_path, videos):
    options = Tuning(steps=2, guidance=1.0)
    pipeline = vab_rt.load(make_v2a_bundle(tmp_path / "b", options=options), threads=1)
    calls = []
    recording(pipeline, "unet", calls).generate(videos(25))
    assert [i["conditional"].tolist() for i in calls] == [[1]] * 2


def test_the_command_line_runs_it_like_any_other(run, v2a_bundle, videos, tmp_path):
    words = (videos(50), tmp_path / "out.mp4", "--model", v2a_bundle, "--json", "--steps", 2)
    made = run("generate", *words, "--device", "cpu")
    report = json.loads(made.out)
    assert made.code == 0 and (report["model"], report["duration_s"]) == ("tiny-v2a", 2.0)
    assert {"latents", "vocoder"} <= report["timings_s"].keys()
    shown = run("info", v2a_bundle).out
    assert "3 x 50 x 2 of 8 mels (25 Hz, hop 640), 10 steps of 1000" in shown
    assert "prior, 6 to 6, mean of the frames, 6 steps" in shown


def test_a_video_sounds_the_same_through_device_buffers(launch, v2a_bundle, videos):
    options = "vab_rt.GenerateOptions(steps=4, seed=5)"
    length, difference, device, _, log = through_buffers(launch, v2a_bundle, videos(87), options)
    assert (length, device) == (87 * 640, "cuda")
    assert difference < 1e-6
    latent_bytes = 4 * 2 * 3 * 50 * 2  # both branches of guidance
    downloads = [line for line in log if line.startswith("download")]
    noises = [line for line in downloads if line.endswith(f" {latent_bytes}")]
    assert len(noises) == 2 * 3 * 4  # one a step, twice
