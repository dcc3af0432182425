"""FoleyWorld: deterministic, and its sound and its truth follow from its picture."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from foleyworld_scenes import steady, with_place

from training.foleyworld import (
    CLASSES,
    CLIP_S,
    FAMILIES,
    NUM_SAMPLES,
    SAMPLE_RATE_HZ,
    SPLITS,
    clip_seeds,
    make_scene,
)
from training.foleyworld.pictures import Canvas, View
from training.foleyworld.rendering import frame_times
from training.foleyworld.sounds import active_rms
from training.foleyworld.truth import LEVEL_RATE_HZ
from vab_rt.errors import OptionError

TIMES = np.array([0.3, 2.5, 7.1])


def centroid_hz(audio: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(audio)) ** 2
    return float((power * np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE_HZ)).sum() / power.sum())


@pytest.mark.parametrize("kind", CLASSES)
def test_a_seed_is_a_clip(kind):
    one, two, other = make_scene(7, kind), make_scene(7, kind), make_scene(8, kind)
    np.testing.assert_array_equal(one.audio(), two.audio())
    np.testing.assert_array_equal(one.frames(TIMES, 64, 64), two.frames(TIMES, 64, 64))
    assert one.truth == two.truth
    assert not np.array_equal(one.audio(), other.audio())
    assert not np.array_equal(one.frames(TIMES, 64, 64), other.frames(TIMES, 64, 64))


def test_the_class_is_drawn_evenly_from_the_seed():
    counts = Counter(make_scene(seed).classes[0] for seed in range(800))
    assert tuple(counts.keys()) != CLASSES
    assert min(counts[kind] for kind in CLASSES) > 0.5 * 800 / len(CLASSES)
    assert max(counts.values()) < 1.7 * 800 / len(CLASSES)


def test_there_are_sixteen_classes_in_families():
    assert " ".join(CLASSES) == (
        "ball drum hammer footsteps clock knock rain waves engine wind fire saw "
        "siren bird bell alarm"
    )
    assert Counter(FAMILIES.values()) == {"impact": 6, "continuous": 6, "tonal": 4}


def test_splits_share_no_seed():
    for name, seeds in SPLITS.items():
        assert clip_seeds(name, 5, 3) == list(seeds[5:8])
        others = [other for key, other in SPLITS.items() if key != name]
        assert not any(seeds[0] in other or seeds[-1] in other for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dev", 0, 1), "choose one of train, validation, test"),
        (("test", 9_999_999, 2), "test has 10000000 seeds"),
        (("test", -1, 2), "first seed is -1; expected 0 or more"),
        (("test", 0, 0), "0 clips asked for; expected 1 or more"),
    ],
)
def test_seeds_outside_a_split_are_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        clip_seeds(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "cat"), r"'cat'.*ball, drum"),
        ((-1,), "seed is -1; expected 0 or more"),
        ((0, None, 3), "a scene has 1 or 2"),
        ((0, "waves", 2), "waves fills the picture"),
    ],
)
def test_scenes_that_there_are_not_are_refused(arguments, message):
    with pytest.raises(OptionError, match=message):
        make_scene(*arguments)


@pytest.mark.parametrize("kind", CLASSES)
def test_audio_format_and_level(kind):
    for seed in range(2):
        audio = make_scene(seed, kind).audio()
        assert audio.dtype == np.float32
        assert audio.shape == (NUM_SAMPLES,)
        assert np.abs(audio).max() <= 0.9
        assert 0.03 < active_rms(audio) < 0.2


def test_the_ball_touches_the_ground_at_the_bounce():
    scene = with_place(make_scene(1, "ball"), side=0.0, distance=1.0)
    (ball,) = scene.sources
    ball = replace(ball, material="rubber", color="yellow", ground=(34, 34, 40))
    scene = replace(scene, sources=(ball,))
    events = scene.truth.events["ball"]
    assert all("striking the ground" in scene.caption(time_s) for time_s in events)

    def lowest_row(time_s: float) -> int:
        """Of the yellow pixels: much more red than blue."""
        picture = scene.frames(np.array([time_s]), 128, 128)[0].astype(int)
        return int(np.flatnonzero((picture[..., 0] - picture[..., 2] > 90).any(axis=1)).max())

    def ground_row(time_s: float) -> float:
        y, zoom = float(scene.camera.y(time_s)), float(scene.camera.zoom(time_s))
        return 64 * (1 - (ball.place.ground[1] - y) * zoom)

    assert all(abs(lowest_row(time_s) - ground_row(time_s)) <= 4 for time_s in events)
    assert lowest_row(events[0] - 0.25) < ground_row(events[0] - 0.25) - 12


@pytest.mark.parametrize("kind", CLASSES)
def test_distance_sets_loudness_and_apparent_size(kind):
    scenes = [with_place(make_scene(3, kind), distance=d) for d in (1.0, 1.7, 3.0)]
    loudness = [active_rms(scene.audio()) for scene in scenes]
    assert loudness[0] > 1.3 * loudness[1] > 1.3 * 1.3 * loudness[2]
    assert scenes[0].caption(1.0).endswith("near")
    assert scenes[2].caption(1.0).endswith("far away")
    scales = [scene.sources[0].place.scale for scene in scenes]
    assert scales == sorted(scales, reverse=True)


@pytest.mark.parametrize("kind", CLASSES)
def test_size_sets_pitch(kind):
    small, large = (with_place(make_scene(4, kind), size=size) for size in (0.05, 0.95))
    assert centroid_hz(small.audio()) > 1.25 * centroid_hz(large.audio())
    assert "small" in small.caption(1.0)
    assert "large" in large.caption(1.0)


@pytest.mark.parametrize(("kind", "reference"), [("rain", 0.5), ("waves", 0.8)])
def test_loudness_follows_what_is_seen(kind, reference):
    for seed in range(4):
        scene = make_scene(seed, kind)
        levels = np.array(scene.truth.levels[kind])
        blocks = scene.audio().reshape(len(levels), -1)
        loudness = np.sqrt((blocks**2).mean(axis=1))
        assert np.corrcoef(levels, loudness)[0, 1] > reference


def test_the_engines_pitch_follows_its_speed():
    for seed in range(3):
        scene = make_scene(seed, "engine")
        levels = np.array(scene.truth.levels["engine"])
        blocks = scene.audio().reshape(len(levels), -1)
        pitch = np.array([centroid_hz(block * np.hanning(len(block))) for block in blocks])
        assert np.corrcoef(levels, pitch)[0, 1] > 0.8


def test_levels_span_the_clip():
    for kind in CLASSES:
        levels = make_scene(2, kind).truth.levels[kind]
        assert len(levels) == CLIP_S * LEVEL_RATE_HZ
        assert min(levels) >= 0.0
        assert max(levels) <= 1.0


@pytest.mark.parametrize("kind", CLASSES)
def test_a_square_picture_is_the_centre_of_a_wide_one(kind):
    scene = make_scene(11, kind)
    wide, square = scene.frames(TIMES, 114, 64), scene.frames(TIMES, 64, 64)
    difference = np.abs(wide[:, :, 25:-25].astype(int) - square.astype(int))
    assert difference.max() <= 1
    assert wide.shape == (3, 64, 114, 3)
    assert wide.dtype == np.uint8


@pytest.mark.parametrize("kind", CLASSES)
def test_the_picture_moves_inside_the_square(kind):
    for seed in range(2):
        scene = steady(make_scene(seed, kind))
        frames = scene.frames(np.linspace(0.1, 9.9, 25), 128, 64).astype(int)
        change = np.abs(frames - frames[:1]).max(axis=(0, 3))
        assert change[:, 32:96].max() > 60
        if kind not in ("rain", "waves", "wind"):  # these fill the picture
            assert change[:, :31].max() <= 10  # the exposure's flicker
            assert change[:, 97:].max() <= 10


@pytest.mark.parametrize("kind", CLASSES)
def test_captions_name_the_state(kind):
    captions = {make_scene(5, kind).caption(time_s) for time_s in frame_times(8.0)}
    assert 3 <= len(captions) <= 7
    assert all(kind.rstrip("s") in caption for caption in captions)


def test_frames_are_sampled_at_mid_frame():
    np.testing.assert_allclose(frame_times(2.0)[:3], [0.25, 0.75, 1.25])
    assert len(frame_times(2.0)) == 20


@pytest.mark.parametrize("width", [31, 64, 113])
def test_shapes_cover_their_area_in_world_units(width):
    canvas = Canvas.blank(width, 63)
    np.testing.assert_allclose(canvas.xs, -canvas.xs[::-1], atol=1e-6)
    np.testing.assert_allclose(canvas.ys, -canvas.ys[::-1], atol=1e-6)
    square = [(-0.2, -0.2), (-0.2, 0.2), (0.2, 0.2), (0.2, -0.2)]
    canvas.circle((0.0, 0.5), 0.3, (255, 0, 0))
    canvas.box((-0.3, -0.3), (0.3, 0.1), (0, 255, 0))
    canvas.at((0.1, -0.6), 0.5).polygon(square, (0, 0, 255))
    area = canvas.image.sum(axis=(1, 2)) / 255 * canvas.pixel**2
    np.testing.assert_allclose(area, [np.pi * 0.09, 0.24, 0.04], rtol=0.02)


def test_scenery_moves_on_its_own():
    scenes = [replace(make_scene(seed), sources=()) for seed in range(60)]
    forms = Counter(thing.form for scene in scenes for thing in scene.distractors)
    assert set(forms) == {"cloud", "balloon", "car", "lever"}
    times = np.linspace(0.1, 9.9, 8)
    for form in forms:
        moving = 0
        for scene in scenes:
            things = tuple(thing for thing in scene.distractors if thing.form == form)
            if things:
                frames = replace(steady(scene), distractors=things).frames(times, 64, 64)
                moving += int(np.ptp(frames.astype(int), axis=0).max() > 20)
        assert moving >= 0.7 * sum(form in [t.form for t in s.distractors] for s in scenes)


def test_half_of_the_cameras_drift_and_every_light_changes():
    cameras = [make_scene(seed).camera for seed in range(200)]
    drifting = [np.ptp(camera.zoom.values) > 0 for camera in cameras]
    assert 0.35 < np.mean(drifting) < 0.65
    lights = np.array([camera.light(np.linspace(0, 10, 21)) for camera in cameras])
    assert np.ptp(lights, axis=1).min() > 0.02
    assert lights.min() >= 0.74
    assert lights.max() <= 1.16


@pytest.mark.parametrize("size", [(64, 64), (200, 48)])
def test_a_drifted_backdrop_is_the_backdrop_seen_from_there(size):
    """Bilinear sampling of the still agrees with painting anew, but for edges."""
    width, height = size
    backdrop = make_scene(12).backdrop
    rest, view = View(0.0, 0.0, 0.95), View(0.055, -0.055, 0.91)
    anew, sampled = Canvas.blank(width, height), Canvas.blank(width, height)
    backdrop.paint(anew.through(view))
    backdrop.still(rest, width, height).look(sampled, view)
    difference = np.abs(anew.image - sampled.image)
    assert np.median(difference) < 1.0
    assert difference.mean() < 5.0
    backdrop.still(view, width, height).look(sampled, view)
    np.testing.assert_array_equal(anew.image, sampled.image)
