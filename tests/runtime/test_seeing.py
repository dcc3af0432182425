"""Frames to features: which frames each stream sees, whatever the length of the video."""

import numpy as np
import pytest
from tiny_bundle import tiny_config

from vab_rt.config import MOTION_FRAMES
from vab_rt.contract import contract_of
from vab_rt.errors import BundleError, MediaError
from vab_rt.seeing import ahead, as_frames, encode_two_streams, given_kinds, kinds_seen, runs
from vab_rt.threads import Helpers

REACH, STRIDE = 3, 10


@pytest.mark.parametrize("num_threads", [0, 1, 2])
def test_items_made_ahead_are_the_same_and_so_is_what_goes_wrong(num_threads):
    made: list[int] = []

    def items():
        for i in range(95):
            made.append(i)
            yield i
        raise MediaError("no more of it")

    threads = Helpers(num_threads) if num_threads else None
    found = ahead(items(), threads, 10)
    assert [next(found) for _ in range(15)] == list(range(15))
    assert len(made) <= 30  # ten that are used, ten that wait, ten that are being made
    with pytest.raises(MediaError, match="no more of it"):
        list(found)
    stopped = ahead(items(), threads, 10)
    assert next(stopped) == 0
    stopped.close()
    before = len(made)
    if threads is not None:
        threads.map(str, range(num_threads))
    assert len(made) == before  # nothing is made behind the back of who has closed it
    assert list(ahead(iter("abc"), None, 2)) == ["a", "b", "c"]


def numbered(count):
    """Frames whose bytes are their number."""
    return (np.full((2, 2, 3), i, np.uint8) for i in range(count))


@pytest.mark.parametrize("count", [1, 2, 49, 50, 51, 53, 56, 100, 133])
def test_each_run_goes_on_where_the_last_one_ended(count):
    """And sees the frames around it; before the first frame and after the last one all is still."""
    seen = []
    for run, new in runs(numbered(count), REACH):
        assert run.shape == (MOTION_FRAMES + 2 * REACH, 2, 2, 3)
        around = np.arange(len(seen) - REACH, len(seen) + MOTION_FRAMES + REACH)
        assert run[:, 0, 0, 0].tolist() == around.clip(0, count - 1).tolist()
        seen += run[REACH : REACH + new, 0, 0, 0].tolist()
    assert seen == list(range(count))


def test_no_frames_give_no_run():
    assert list(runs(numbered(0), REACH)) == []


@pytest.mark.parametrize("count", [1, 9, 10, 11, 75, 120])
def test_a_feature_is_of_the_latest_image_and_of_the_motion_around_it(count):
    config = tiny_config(
        clip_s=8.0, visual_rate_hz=25.0, visual_dim=4,
        image_stride=STRIDE, motion_dim=3, motion_reach=REACH,
    )  # fmt: skip

    def images(frames):
        return frames[:, 0, 0, :1].astype(np.float32)  # its number

    def motion(frames):
        numbers = frames[..., 0, 0, 0].astype(np.float32)  # [N, run]
        inner = slice(REACH, REACH + MOTION_FRAMES)
        shifts = (np.roll(numbers, shift, 1)[:, inner] for shift in (REACH, 0, -REACH))
        return np.stack(list(shifts), 2)

    features = np.stack(
        list(encode_two_streams(as_frames(numbered(count)), images, motion, config))
    )
    at = np.arange(count)
    assert features[:, 0].tolist() == (at // STRIDE * STRIDE).tolist()
    around = [(at + shift).clip(0, count - 1) for shift in (-REACH, 0, REACH)]
    assert features[:, 1:].T.tolist() == [row.tolist() for row in around]


@pytest.mark.parametrize("count", [1, 10, 11, 75])
def test_images_of_another_size_are_read_one_in_a_stride(count):
    c = tiny_config(
        clip_s=8.0, visual_rate_hz=25.0, visual_dim=4,
        image_stride=STRIDE, motion_dim=3, motion_reach=REACH, motion_size=2,
    )  # fmt: skip
    assert (c.frame_size, c.large_stride) == (2, STRIDE)
    large = (np.full((c.image_size, c.image_size, 3), 100 + i, np.uint8) for i in range(count))

    def images(frames):
        assert frames.shape[1:] == (c.image_size, c.image_size, 3)
        return frames[:, 0, 0, :1].astype(np.float32)

    def motion(frames):
        return np.zeros((1, MOTION_FRAMES, 3), np.float32)

    frames = as_frames(numbered(count), large, STRIDE)
    features = np.stack(list(encode_two_streams(frames, images, motion, c)))
    assert features[:, 0].tolist() == (100 + np.arange(count) // STRIDE).tolist()


def test_kinds_are_seen_on_average_and_may_be_given_instead():
    c = tiny_config(visual_dim=5, motion_dim=1, kinds=("dog", "rain", "ambience"))
    seen = np.array([[0.2, 0.7, 0.1, 9, 1], [0.4, 0.5, 0.1, 9, 2]], np.float32)
    assert list(kinds_seen(seen, c)) == ["rain", "dog", "ambience"]
    assert kinds_seen(seen, c)["rain"] == pytest.approx(0.6)
    given = given_kinds(seen, ("dog", "ambience"), c)
    assert given.tolist() == [[0.5, 0, 0.5, 0, 1], [0.5, 0, 0.5, 0, 2]]
    assert given_kinds(seen, (), c) is seen and kinds_seen(seen, tiny_config()) == {}


def test_only_a_model_with_motion_has_the_graph():
    assert "motion_encoder" not in contract_of(tiny_config())
    config = tiny_config(visual_dim=6, motion_dim=2, motion_reach=1)
    graphs = contract_of(config)
    frames, motion = graphs["motion_encoder"].inputs[0], graphs["motion_encoder"].outputs[0]
    assert frames.shape == ("N", MOTION_FRAMES + 2, config.image_size, config.image_size, 3)
    assert motion.shape == ("N", MOTION_FRAMES, 2)
    assert graphs["visual_encoder"].outputs[0].shape == ("N", 4)


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({"image_stride": 0}, "image_stride is 0, expected a divisor of"),
        ({"image_stride": 3}, "image_stride is 3, expected a divisor of"),
        ({"motion_dim": 6, "visual_dim": 6}, "motion_dim is 6 and motion_reach 0, expected 0 to"),
        ({"motion_dim": -1}, "motion_dim is -1 and"),
        ({"motion_dim": 1, "motion_reach": 51}, "motion_reach 51, expected"),
        ({"motion_dim": 1, "motion_size": 9}, "motion_size is 9, expected 0 to image_size"),
        ({"motion_size": 4}, "motion_size is 4, .* 0 without motion_dim"),
        ({"kinds": ("dog", "dog")}, "2 names, expected different"),
        ({"kinds": ("dog", "")}, "2 names, .* none empty"),
        ({"kinds": tuple("abcdefg")}, "7 names, .* at most 6"),
    ],
)
def test_streams_that_cannot_be_are_refused(facts, named):
    with pytest.raises(BundleError, match=named):
        tiny_config(**facts)
