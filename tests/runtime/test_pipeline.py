"""Real videos through real graphs: length, seeds, windows, batches, errors."""

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media import make_picture, make_video

import vab_rt
from vab_rt import Audio, GenerateOptions, Video
from vab_rt.errors import BackendError, BundleError, MediaError, OptionError, VabError
from vab_rt.loudness import CEILING, true_peaks
from vab_rt.pipeline import Pipeline
from vab_rt.seeing import FRAMES_PER_BATCH, as_frames, encode_images

STAGES = ("decode_video", "visual", "tokens", "codec")
FAST = GenerateOptions(steps=4)


def changed(pipeline: Pipeline, **engines) -> Pipeline:
    system = pipeline.system
    return Pipeline(replace(system, engines=system.engines.with_graphs(**engines)))


def sound_of(steps) -> np.ndarray:
    return np.concatenate([step.audio for step in steps if step.audio is not None])


@pytest.mark.parametrize("num_frames", [2, 24, 25, 49, 50, 51, 87, 250])
def test_the_sound_is_as_long_as_the_video_to_the_sample(pipeline, videos, num_frames):
    audio = pipeline.generate(videos(num_frames), FAST)
    assert isinstance(audio, Audio)
    assert audio.samples.shape == (num_frames * 640,)  # 25 frames a second, 16 kHz
    assert audio.samples.dtype == np.float32 and audio.sample_rate_hz == 16_000
    assert 0.05 < audio.samples.std() < 1


@pytest.mark.parametrize(
    ("start_s", "duration_s", "num_samples"),
    [
        (0, 1.2345, 19_752),
        (1.0, None, 16_000),
        (0.5, 0.25, 4000),
        (1.9, 50.0, 1600),
        (0, 1e9, 32_000),
    ],
)
def test_a_selection_is_as_long_as_it_was_asked_to_be(
    pipeline, videos, start_s, duration_s, num_samples
):
    part = Video(videos(50), start_s, duration_s)
    assert len(pipeline.generate(part, steps=2).samples) == num_samples


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_still_sounds_as_long_as_it_is_told_to(pipeline, tmp_path, suffix):
    still = make_picture(tmp_path / f"in.{suffix}")
    for duration_s in (0.5, 10.0):
        audio = pipeline.generate(Video(still, duration_s=duration_s), steps=1)
        assert len(audio.samples) == duration_s * 16_000
    with pytest.raises(OptionError, match="is a still, .* --duration, or in Python duration_s"):
        pipeline.generate(still, FAST)


def test_a_short_selection_sounds_as_it_does_within_its_surroundings(pipeline, videos):
    """The tiny model's clip of 2 s shows 1 s around a shorter selection."""
    short, around = Video(videos(200), 2.5, 0.25), Video(videos(200), 2.125, 1.0)
    expected = pipeline.generate(around, steps=2).samples[6000:9000]
    samples = pipeline.generate(short, steps=2).samples
    assert len(samples) == 4000  # the limiter sees the end of the last ones, and no further
    np.testing.assert_allclose(samples[:3000], expected, atol=1e-6)


def test_loud_sound_keeps_headroom_across_windows(pipeline, videos):
    def decoder(tokens):
        return np.clip(4 * pipeline.system.engines["codec_decoder"](tokens=tokens), -1, 1)

    loud = changed(pipeline, codec_decoder=decoder)
    first, again = (loud.generate(videos(87), FAST).samples for _ in range(2))
    assert np.array_equal(first, again) and first.shape == (87 * 640,)
    assert 0.5 < true_peaks(first).max() <= CEILING + 1e-6


def test_the_sound_follows_the_picture(pipeline, videos):
    early, late = (pipeline.generate(Video(videos(200), at, 2.0)) for at in (0.0, 1.0))
    assert not np.array_equal(early.samples, late.samples)


def test_every_way_to_ask_gives_the_same_bytes(tiny_bundle, pipeline, videos, tmp_path, run):
    """Keywords, an options object, keywords over one, the steps, and the command."""
    part = Video(videos(100), 0.5, 3.4)  # three windows
    options = GenerateOptions(seed=7, steps=3)
    sounds = [
        pipeline.generate(part, seed=7, steps=3),
        pipeline.generate(part, options),
        pipeline.generate(part, GenerateOptions(seed=7, steps=9), steps=3),
        Audio(sound_of(pipeline.generate_steps(part, options)), 16_000),
    ]
    assert all(sound == sounds[0] for sound in sounds)
    for number, sound in enumerate(sounds):
        sound.save(tmp_path / f"{number}.wav")
    selection = ("--start", 0.5, "--duration", 3.4)
    wishes = ("--model", tiny_bundle, "--seed", 7, "--steps", 3)
    assert run("generate", videos(100), tmp_path / "4.wav", *wishes, *selection).code == 0
    assert len({(tmp_path / f"{number}.wav").read_bytes() for number in range(5)}) == 1


@pytest.mark.parametrize(
    ("field", "advice"), [("stepz", "check the spelling"), ("start_s", "give vab_rt.Video")]
)
def test_an_option_that_there_is_not(pipeline, videos, field, advice):
    message = (
        rf"{field} is no option, expected one of steps, .*, seed, kinds, library, .*; {advice}"
    )
    with pytest.raises(OptionError, match=message):
        pipeline.generate_steps(videos(25), **{field: 3})


def test_steps_tell_where_they_are(pipeline, videos):
    steps = list(pipeline.generate_steps(videos(87), FAST))  # 3.48 s: 2 + 1.4 + 0.08
    assert [(s.window, s.step) for s in steps] == list(itertools.product(range(3), range(4)))
    assert {s.num_windows for s in steps} == {3} and {s.num_steps for s in steps} == {4}
    assert [s.audio is not None for s in steps] == [False, False, False, True] * 3
    assert all(s.state.shape == (2, 100) for s in steps)
    for s in steps:
        assert (s.state == pipeline.config.mask_id).any() == (s.step < 3)


def test_steps_that_ended_before_there_was_sound(pipeline, videos):
    with pytest.raises(OptionError, match="ended before there was sound, expected all of a window"):
        pipeline.gather([next(pipeline.generate_steps(videos(25), steps=2))])


def test_the_number_of_windows_is_unknown_where_the_file_does_not_say(pipeline, tmp_path):
    video = make_video(tmp_path / "raw.h264", num_frames=87, b_frames=0)
    steps = list(pipeline.generate_steps(video, FAST))
    assert [s.num_windows for s in steps] == [None] * 8 + [3] * 4


def test_timings_grow_and_cover_every_stage(pipeline, videos):
    steps = list(pipeline.generate_steps(videos(87), FAST))
    assert list(steps[-1].timings_s) == list(STAGES)
    assert all(seconds > 0 for seconds in steps[-1].timings_s.values())
    for a, b in itertools.pairwise(steps):
        assert all(a.timings_s[stage] <= b.timings_s[stage] for stage in STAGES)


def test_windows_share_their_tokens(pipeline, videos):
    shared = pipeline.config.num_overlap_hops
    last = [s.state for s in pipeline.generate_steps(videos(200), FAST) if s.audio is not None]
    for before, after in itertools.pairwise(last):
        assert np.array_equal(before[:, -shared:], after[:, :shared])
        assert not np.array_equal(before, after)


def test_joins_cannot_be_seen(pipeline, videos):
    """The codec of the tiny bundle is local, so the sound around a join comes from one token."""
    config = pipeline.config

    def decoder(tokens):  # no peak that the limiter would lower
        return 0.3 * pipeline.system.engines["codec_decoder"](tokens=tokens)

    quiet = changed(pipeline, codec_decoder=decoder)
    steps = [s for s in quiet.generate_steps(videos(200), FAST) if s.audio is not None]
    whole = sound_of(steps)
    stride = config.num_token_steps - config.num_overlap_hops
    for step in steps:
        clip = quiet.render(step.state[None])[0]
        begin = step.window * stride * config.hop_samples
        length = min(len(clip), len(whole) - begin)
        assert np.array_equal(whole[begin : begin + length], clip[:length])


def clips_of(pipeline, num_clips):
    c, rng = pipeline.config, np.random.default_rng(0)
    shape = (num_clips, c.num_codebooks, c.num_token_steps)
    features = rng.standard_normal((num_clips, c.num_frames, c.visual_dim)).astype(np.float32)
    seeds = rng.integers(0, 2**64, num_clips, np.uint64)
    return features, np.full(shape, c.mask_id, np.int32), seeds


def test_a_clip_never_shares_a_call_with_another(pipeline):
    """Or the scales of an int8 backbone would leak from one clip to the next."""
    sizes = []

    def backbone(**inputs):
        sizes.append((len(inputs["tokens"]), inputs["conditional"].tolist()))
        assert len(np.unique(inputs["features"], axis=0)) == 1
        return pipeline.system.engines["backbone"](**inputs)

    features, start, seeds = clips_of(pipeline, 3)
    options = pipeline.system.options(GenerateOptions(steps=1))
    list(changed(pipeline, backbone=backbone).system.decode_tokens(features, start, seeds, options))
    assert sizes == [(2, [1.0, 0.0])] * 3


def test_without_guidance_the_backbone_runs_once_a_step(pipeline, videos):
    batches = []

    def backbone(**inputs):
        batches.append(inputs["conditional"].tolist())
        return pipeline.system.engines["backbone"](**inputs)

    watched = changed(pipeline, backbone=backbone)
    watched.generate(videos(25), GenerateOptions(steps=2, guidance=1.0))
    watched.generate(videos(25), GenerateOptions(steps=1, guidance=2.0))
    assert batches == [[1.0], [1.0], [1.0, 0.0]]


def test_frames_are_encoded_a_few_at_a_time_as_they_arrive():
    read, batches = itertools.count(), []

    def encoder(frames):
        batches.append(len(frames))
        return frames[:, 0, 0].astype(np.float32)  # [N, 3]

    frames = (np.full((8, 8, 3), next(read), np.uint8) for _ in range(20))
    features = encode_images(as_frames(frames), encoder)
    assert next(features).tolist() == [0, 0, 0]
    assert next(read) == FRAMES_PER_BATCH  # this takes number 8 from the frames
    assert len(list(features)) == 19 and sum(batches) == 20


def test_a_long_video_is_never_held(pipeline, videos):
    """The first sound of a long video is there before its end was read."""
    steps = pipeline.generate_steps(videos(500), FAST)
    first = next(s for s in steps if s.audio is not None)
    assert first.window == 0 and first.num_windows == 14  # 20 s: 1 + ceil(18 / 1.4)
    steps.close()


@settings(max_examples=25)
@given(
    start_s=st.floats(0, 3.9),
    duration_s=st.none() | st.floats(0.001, 5),
    steps=st.integers(1, 5),
    top_k=st.sampled_from([0, 1, 5, 16, 17, 2**31 - 1]),
    guidance=st.sampled_from([0.0, 0.5, 1.0, 100.0]),
    temperature=st.sampled_from([0.01, 1.0, 100.0]),
    mask_temperature=st.sampled_from([0.0, 1000.0]),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_allowed_options_work(pipeline, videos, start_s, duration_s, **fields):
    samples = pipeline.generate(Video(videos(100), start_s, duration_s), **fields).samples
    left_s = 4.0 - start_s
    expected_s = left_s if duration_s is None else min(left_s, duration_s)
    assert abs(len(samples) - expected_s * 16_000) <= 1
    assert np.isfinite(samples).all()


@pytest.mark.parametrize("duration_s", [1e-5, 1e-9, 1e-300])
def test_a_selection_of_less_than_a_sample(pipeline, videos, duration_s):
    with pytest.raises(OptionError, match="s long, expected at least one sample"):
        pipeline.generate(Video(videos(25), duration_s=duration_s))


@pytest.mark.parametrize("part", [(5.0,), (1e9,), (1e9, 1e9)])
def test_a_start_beyond_the_end(pipeline, videos, part):
    with pytest.raises(OptionError, match=r"start is (5|1000000000) s, expected less"):
        pipeline.generate(Video(videos(25), *part))


def test_a_missing_video(pipeline, tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        pipeline.generate(tmp_path / "none.mp4")


def test_features_that_are_not_numbers(pipeline, videos):
    def encoder(frames):
        return np.full((len(frames), pipeline.config.visual_dim), np.nan, np.float32)

    with pytest.raises(VabError, match="expected finite"):
        changed(pipeline, visual_encoder=encoder).generate(videos(25))


def test_a_codec_that_returns_no_numbers(pipeline, videos):
    def decoder(tokens):
        return np.full((len(tokens), pipeline.config.num_samples), np.inf, np.float32)

    with pytest.raises(BundleError, match="the codec of tiny returned .*expected -1 to 1"):
        changed(pipeline, codec_decoder=decoder).generate(videos(25))


def test_ready_engines_are_used_instead_of_the_bundles_own(tiny_bundle, pipeline, videos):
    engines = replace(pipeline.system.engines, device="mine")
    ready = vab_rt.load(tiny_bundle, engines=engines)
    assert ready.device == "mine" and ready.system.engines is engines
    expected = pipeline.generate(videos(25), FAST).samples
    assert np.array_equal(ready.generate(videos(25), FAST).samples, expected)


@pytest.mark.parametrize("wish", [{"device": "cpu"}, {"threads": 2}, {"precision": "int8"}])
def test_ready_engines_leave_nothing_to_choose(tiny_bundle, pipeline, wish):
    with pytest.raises(OptionError, match="came with ready engines, expected none"):
        vab_rt.load(tiny_bundle, engines=pipeline.system.engines, **wish)


def test_loading_reports_device_and_time(tiny_bundle, without_gpus):
    pipeline = vab_rt.load(str(tiny_bundle))
    assert pipeline.device == "cpu" and pipeline.load_s > 0
    with pytest.raises(BackendError, match="device cuda needs onnxruntime with the CUDA provider"):
        vab_rt.load(tiny_bundle, "cuda")


def test_threads_share_a_pipeline_and_get_what_each_would_get_alone(tiny_bundle, videos):
    pipeline = vab_rt.load(tiny_bundle, threads=2)
    wishes = [
        (videos(frames), seed) for seed, frames in enumerate([87, 50, 25, 87, 50, 25, 49, 51])
    ]
    alone = [pipeline.generate(video, seed=seed, steps=8) for video, seed in wishes]
    together = threading.Barrier(len(wishes))

    def make(video, seed) -> Audio:
        together.wait(60)
        return pipeline.generate(video, seed=seed, steps=8)

    with ThreadPoolExecutor(len(wishes)) as threads:
        assert list(threads.map(make, *zip(*wishes, strict=True))) == alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_is_told_at_once_that_the_pipeline_is_not_its_own(pipeline, videos):
    if not (child := os.fork()):
        try:
            pipeline.generate(videos(25), FAST)
        except BackendError as error:
            os._exit(7 * ("load it after the fork" in str(error)))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.fixture(scope="module")
def with_threads(tiny_bundle):
    return vab_rt.load(tiny_bundle, threads=2)


def test_windows_rendered_beside_the_next_are_the_same(pipeline, with_threads, videos):
    alone, beside = (list(p.generate_steps(videos(130), FAST)) for p in (pipeline, with_threads))
    assert [(s.window, s.step) for s in beside] == [(s.window, s.step) for s in alone]
    for one, other in zip(alone, beside, strict=True):
        assert np.array_equal(one.state, other.state)
        assert (one.audio is None) == (other.audio is None)
    assert np.array_equal(sound_of(alone), sound_of(beside))


def test_what_is_rendered_beside_is_waited_for_and_its_errors_raised(with_threads, videos):
    begun, ended = [], []
    codec = with_threads.system.engines["codec_decoder"]

    def counted(tokens):
        begun.append(1)
        audio = codec(tokens=tokens)
        ended.append(1)
        return audio

    steps = changed(with_threads, codec_decoder=counted).generate_steps(videos(130), FAST)
    for step in steps:
        if step.window == 1:
            break
    steps.close()
    assert len(begun) == len(ended) > 0

    def broken(tokens):
        return np.full_like(codec(tokens=tokens), np.nan)

    with pytest.raises(BundleError, match="NaN"):
        list(changed(with_threads, codec_decoder=broken).generate_steps(videos(130), FAST))
