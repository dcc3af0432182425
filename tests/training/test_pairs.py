"""Pairs of real pictures and sounds: what is heard is what is seen, when it is seen."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

import av
from real_folders import RATE_HZ, clicks, small_config, write_folders

from training.datasets.material import AMBIENCE, gather, model_kinds
from training.datasets.moving_pictures import Layer, Pose, Shot, film, read_picture
from training.datasets.one_shots import (
    are_struck,
    envelope_db,
    one_shots,
    onsets,
    stretch,
)
from training.datasets.pair_clips import pair_clips
from training.datasets.pair_scenes import draw_views
from training.datasets.pairs import draw_pair
from training.datasets.rendered import Clips
from training.datasets.sound_folders import list_pictures, list_sounds, read_sounds

CONFIG = small_config()


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    folder = write_folders(tmp_path_factory.mktemp("real"))
    listed = list_sounds(folder / "sounds")
    sounds = read_sounds(listed, RATE_HZ)
    pictures = list_pictures(folder / "pictures")
    return gather(sounds, pictures, "train", model_kinds(listed), RATE_HZ)


def test_material_is_known_by_its_folders(material):
    assert material.kinds == ("hiss", "hum", "tick", AMBIENCE)
    assert material.struck == {"tick"} and material.sounding == ["hiss", "hum", "tick"]
    assert set(material.pictures) == {"hiss", "tick", AMBIENCE}  # a vase makes no sound


def test_the_same_seed_gives_the_same_clip_and_another_does_not(material):
    one, again, other = (draw_pair(seed, material, CONFIG) for seed in (3, 3, 4))
    for name in ("frames", "images", "shown", "heard", "audio"):
        assert np.array_equal(getattr(one, name), getattr(again, name)), name
    assert not np.array_equal(one.audio, other.audio)
    assert one.frames.shape == (250, 32, 32, 3) and one.images.shape == (4, 64, 64, 3)


@pytest.mark.parametrize("seed", range(6))
def test_strokes_are_heard_and_seen_at_their_moment(seed, material):
    pair = draw_pair(seed, material, CONFIG, kind="tick", form="struck")
    level = envelope_db(pair.audio, RATE_HZ)
    heard_s = np.array(onsets(pair.audio, RATE_HZ)) / RATE_HZ
    assert len(pair.events_s) >= 4 and pair.kinds == ("tick",)
    for event_s in pair.events_s:
        assert np.abs(heard_s - event_s).min() < 0.03
        before = level[max(0, round(200 * event_s) - 10) : round(200 * event_s) - 1]
        assert before.size == 0 or before.mean() < level.max() - 6
    assert (pair.shown >= 0).all() and set(np.unique(pair.heard)) == {-1, 2}


def test_what_is_not_seen_says_so_and_what_is_unknown_is_quiet(material):
    hum = draw_pair(0, material, CONFIG, kind="hum")
    assert (hum.shown == -1).all() and (hum.heard[:, 0] == 1).all()
    quiet = draw_pair(0, material, CONFIG, kind=AMBIENCE)
    level = 20 * np.log10(quiet.audio.std())
    assert -60 < level < -35 and (quiet.heard[:, 0] == 3).all() and (quiet.shown >= 0).all()
    hiss = draw_pair(0, material, CONFIG, kind="hiss")
    assert hiss.audio.std() > 5 * quiet.audio.std() and not hiss.events_s


def test_views_show_their_kind_large_and_small(material):
    """Each kind's picture has a color of its own, which part of the frame holds."""
    views, again = (list(draw_views(count, material, 64)) for count in (200, 20))
    for (image, kind), (image_again, kind_again) in zip(views[:20], again, strict=True):
        assert kind == kind_again and np.array_equal(image, image_again)
    assert {image.shape for image, _ in views} == {(64, 64, 3)}
    shares: dict[str, list[float]] = {}
    for image, kind in views:
        main = {"tick": 0, AMBIENCE: 1, "hiss": 2}[kind]
        shares.setdefault(kind, []).append(float((image.argmax(2) == main).mean()))
    assert len(shares["hiss"]) > 50 and len(shares["tick"]) > 50  # `hum` has no picture
    assert 15 < len(shares[AMBIENCE]) < 50
    assert min(shares[AMBIENCE]) > 0.5
    for kind in ("hiss", "tick"):
        seen = np.array(shares[kind])
        assert (seen > 0.02).mean() > 0.95  # what falls or swings may be outside for a moment
        assert (seen > 0.9).mean() > 0.3 and (seen < 0.5).mean() > 0.1


def test_a_cut_changes_picture_and_sound_at_once(material):
    for seed in range(200):
        pair = draw_pair(seed, material, CONFIG)
        if set(pair.kinds) == {"hiss", AMBIENCE}:
            break
    changes = np.abs(np.diff(pair.frames.astype(float).mean((1, 2)), axis=0)).sum(1)
    cut_s = (np.argmax(changes) + 1) / CONFIG.visual_rate_hz
    level = envelope_db(pair.audio, RATE_HZ)
    assert abs(np.argmax(np.abs(np.diff(level))) / 200 - cut_s) < 0.06


def test_single_sounds_are_cut_at_their_onset():
    random = np.random.default_rng(1)
    samples = clicks(random)
    found = np.array(onsets(samples, RATE_HZ)) / RATE_HZ
    np.testing.assert_allclose(found, [0.1, 0.6, 1.2], atol=0.006)
    shots = one_shots(samples, RATE_HZ)
    assert [round(len(shot) / RATE_HZ, 1) for shot in shots] == [0.5, 0.6, 0.4]
    assert all(np.abs(shot[:160]).max() > 0.3 * np.abs(shot).max() for shot in shots)
    hum = 0.2 * np.sin(np.arange(2 * RATE_HZ) / 5).astype(np.float32)
    assert are_struck([samples], RATE_HZ) and not are_struck([hum], RATE_HZ)
    joined = stretch([hum[:5000], hum[:9000]], 60_000, RATE_HZ)
    assert len(joined) == 60_000 and envelope_db(joined, RATE_HZ)[4:].min() > -27


def test_a_picture_stands_as_its_camera_was_held(tmp_path):
    image = np.full((64, 128, 3), 250, np.uint8)
    image[:, :64] = 5  # the left half is the upper one
    with av.open(str(tmp_path / "flat.jpg"), "w", format="image2") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 128, 64, "yuvj420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))
    turned = bytes.fromhex("4d4d002a00000008000101120003000000010006000000000000")  # orientation 6
    exif = b"Exif\0\0" + turned
    content = (tmp_path / "flat.jpg").read_bytes()
    marked = content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif + content[2:]
    (tmp_path / "held.jpg").write_bytes(marked)
    flat, held = (read_picture(tmp_path / f"{name}.jpg")[0] for name in ("flat", "held"))
    assert flat.shape == (3, 256, 512) and held.shape == (3, 512, 256)
    assert flat[:, :, :200].max() < 50 and held[:, :200].max() < 50
    assert flat[:, :, 312:].min() > 200 and held[:, 312:].min() > 200


def test_a_layer_is_where_its_pose_says():
    def layer(pose, shape):
        white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
        return Layer((white,), lambda times_s: pose, shape)

    def seen(pose, shape="box"):
        shot = Shot(0.0, (layer(pose, shape),), lambda times_s: np.ones(len(times_s)))
        return film([shot], np.array([0.0]), 64)[0, :, :, 0] > 127

    rows, columns = np.nonzero(seen(Pose(0.5, 0.25, 0.25, 0.125)))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 27, 40, 55)
    rows, columns = np.nonzero(seen(Pose(0.0, 0.0, 0.8, 0.05, np.pi / 4)))  # against the clock
    assert (rows[columns < 20] > 40).all() and (rows[columns > 44] < 24).all()
    disc = seen(Pose(0.0, 0.0, 0.5, 0.5), "disc")
    assert abs(disc.mean() - np.pi / 16) < 0.01


def test_pairs_and_the_world_are_kept_together_and_go_on(material, tmp_path):
    world = Clips(
        audio=np.full((2, CONFIG.num_samples), 7, np.int16),
        frames=np.full((2, 250, 32, 32, 3), 9, np.uint8),
        labels=np.zeros((2, 1)),
        primary=np.zeros(2, int),
        captions=[],
    )
    made = pair_clips(tmp_path / "clips", material, world, "train", 3, CONFIG)
    of_world = [i for i in range(5) if (made.frames[i] == 9).all()]
    assert len(made) == 5 and len(of_world) == 2
    assert (made.heard[of_world] == -1).all() and (made.shown[of_world] >= 0).all()
    others = [i for i in range(5) if i not in of_world]
    first = draw_pair(0, material, CONFIG)
    np.testing.assert_array_equal(made.frames[others[0]], first.frames)
    assert made.events_s[others[0]] == first.events_s
