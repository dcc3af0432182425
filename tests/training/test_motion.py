"""The motion encoder: what it may see, what it learns from, and that the runtime sees the same."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import msgspec
import numpy as np
from checkpoints import tiny_checkpoint, tiny_config

from export.build_engines import main as build_engines
from training.checkpoint import read_checkpoint
from training.datasets.rendered import Clips
from training.fitting import averaged_weights
from training.motion_training import (
    MotionSettings,
    Rises,
    Spectra,
    motion_weights,
    train_motion,
    training_crops,
)
from training.visual_encoder import MotionEncoder, build_visual_encoder
from vab_rt.errors import ExportError, OptionError
from vab_rt.pipeline import load
from vab_rt.seeing import as_frames, encode_two_streams

TWO_STREAMS = {
    "visual_rate_hz": 25.0, "visual_dim": 40, "image_stride": 5, "motion_dim": 16,
    "motion_reach": MotionEncoder.REACH, "image_size": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def config():
    return tiny_config(**TWO_STREAMS)


def clicks(config, count):
    """Squares that jump at random times, each with a click."""
    random = np.random.default_rng(0)
    frames = np.zeros((count, config.num_frames, 32, 32, 3), np.uint8)
    audio = np.zeros((count, config.num_samples), np.int16)
    hop = config.num_samples // config.num_frames
    for clip in range(count):
        for i in range(config.num_frames):
            if i and random.random() < 0.1:
                at = i * hop
                audio[clip, at : at + 200] = random.integers(-9000, 9000, 200)
                place = random.integers(0, 20, 2)
            elif i == 0:
                place = np.array([8, 8])
            frames[clip, i, place[0] : place[0] + 10, place[1] : place[1] + 10] = 200
    return Clips(audio, frames, np.zeros((count, 1)), np.zeros(count, int), [])


def test_a_feature_sees_its_own_frame_and_as_many_beside_it(config):
    torch.manual_seed(0)
    encoder = MotionEncoder(config).eval()
    frames = torch.randint(0, 256, (1, 15, 32, 32, 3), dtype=torch.uint8)
    before = encoder(frames)
    assert before.shape == (1, 9, config.motion_dim)
    changed = frames.clone()
    changed[0, 7] = 255 - changed[0, 7]
    differs = (encoder(changed) != before).any(2)[0].tolist()
    assert differs == [False] + 7 * [True] + [False]


def test_torch_and_the_runtime_see_the_same(config):
    encoder = build_visual_encoder(config)
    frames = torch.randint(0, 256, (57, 32, 32, 3), dtype=torch.uint8)

    def engine(module):
        return lambda frames: module(torch.from_numpy(frames)).numpy()

    with torch.no_grad():
        whole = encoder(frames).numpy()
        streams = engine(encoder.images), engine(encoder.motion)
        streamed = np.stack(list(encode_two_streams(as_frames(frames.numpy()), *streams, config)))
    np.testing.assert_allclose(streamed, whole, atol=1e-5)


def test_it_learns_to_hear_a_click_where_something_jumps(tmp_path, config):
    settings, rises = MotionSettings(batch=8, crop_s=1.0, held=0.0), [1.0]  # it hears nothing
    for minutes in (0.25, 0.5, 1, 2, 4, 8):  # each goes on with the run before, if that had little
        if rises[-1] >= 0.7:
            stage = train_motion(tmp_path, clicks(config, 12), config, minutes, 0, settings)
            rises += [losses["rise"] for *_, losses in stage if losses]
    assert rises[-1] < 0.7
    weights = motion_weights(averaged_weights(tmp_path / "motion.pt"))
    MotionEncoder(config).load_state_dict(weights)


def test_rises_stand_where_the_sound_begins(config):
    audio = torch.zeros(1, 16_000)
    audio[0, 8000:8400] = torch.randn(400)
    rise = Spectra(config)(audio)[0, :, -1]
    assert abs(int(rise.argmax()) - 25) <= 1 and rise[:23].max() < 0.1 * rise.max()


def test_crops_are_drawn_where_sounds_begin(config):
    audio = np.zeros((1, config.num_samples), np.int16)
    audio[0, 20_000:20_400] = 9000
    clips = Clips(audio, np.zeros((1, config.num_frames, 32, 32, 3)), None, np.zeros(1), [])
    rises, random = Rises(clips, config, Spectra(config)), np.random.default_rng(0)
    drawn = [rises.draw(0, random) for _ in range(50)]
    assert all(abs(frame - 20_000 / 640) <= 1 for frame in drawn)


def test_crops_of_a_lower_frame_rate_repeat_frames_and_never_look_ahead(config):
    numbers = np.arange(config.num_frames, dtype=np.uint8)
    frames = np.broadcast_to(numbers[None, :, None, None, None], (1, len(numbers), 32, 32, 3))
    clips = Clips(np.zeros((1, config.num_samples), np.int16), frames, None, np.zeros(1), [])
    rises = Rises(clips, config, Spectra(config))
    random = np.random.default_rng(0)
    for _ in range(20):
        settings = MotionSettings(batch=1, crop_s=1.0, held=1.0)
        crop, sound = training_crops(clips, config, settings, random, rises)
        assert crop.shape == (1, 25 + 2 * config.motion_reach, 32, 32, 3)
        assert sound.shape == (1, 16_000 + 2 * config.hop_samples)


def test_a_rate_that_splits_samples_is_refused(tmp_path):
    odd = tiny_config(**TWO_STREAMS | {"visual_rate_hz": 15.0, "image_stride": 5})
    with pytest.raises(OptionError, match="16000 samples and 15 frames a second, expected 2 steps"):
        next(train_motion(tmp_path, clicks(odd, 1), odd, 1.0, 0, MotionSettings()))


def test_a_bundle_with_motion_hears_motion(tmp_path, config, videos):
    torch.save(tiny_checkpoint(config), tmp_path / "ckpt.pt")
    build_engines([str(tmp_path / "ckpt.pt"), "--out", str(tmp_path / "bundle")])
    pipeline = load(tmp_path / "bundle")
    assert "motion_encoder" in pipeline.system.engines.graphs
    assert len(pipeline.generate(videos(60)).samples) == 60 * 640
    checkpoint = read_checkpoint(tmp_path / "ckpt.pt")
    frames = np.random.default_rng(0).integers(0, 256, (33, 32, 32, 3), np.uint8)
    with torch.no_grad():
        expected = checkpoint.visual_encoder()(torch.from_numpy(frames)).numpy()
    found = np.stack(list(pipeline.system.see(as_frames(frames))))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_checkpoint_without_its_motion_encoder_is_refused(tmp_path, config):
    content = tiny_checkpoint(config)
    del content["motion_encoder"]
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(ExportError, match="motion_encoder is missing"):
        read_checkpoint(tmp_path / "ckpt.pt")
    of_none = tiny_checkpoint(tiny_config()) | {"motion_encoder": {}}
    torch.save(of_none, tmp_path / "ckpt.pt")
    with pytest.raises(ExportError, match="'motion_encoder' is unexpected"):
        read_checkpoint(tmp_path / "ckpt.pt")


def test_shards_of_other_streams_are_refused(config):
    from training.datasets.shard_format import check_facts, clip_facts
    from vab_rt.errors import DataError

    one_stream = msgspec.structs.replace(config, motion_dim=0, motion_reach=0, image_stride=1)
    check_facts("here", clip_facts(config), config)
    check_facts("here", clip_facts(one_stream), one_stream)
    assert not {"image_stride", "motion_dim"} & clip_facts(one_stream).keys()
    for found, model in ((config, one_stream), (one_stream, config)):
        with pytest.raises(DataError, match="here has (image_stride|motion_dim) "):
            check_facts("here", clip_facts(found), model)
