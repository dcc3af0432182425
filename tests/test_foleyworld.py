"""FoleyWorld: deterministic, and its sound and its truth follow from its picture."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from training.foleyworld import (
    CLASSES,
    CLIP_S,
    FAMILIES,
    NUM_SAMPLES,
    SAMPLE_RATE_HZ,
    SPLITS,
    Scene,
    clip_seeds,
    make_scene,
    read_truth,
)
from training.foleyworld.__main__ import main
from training.foleyworld.pictures import Canvas
from training.foleyworld.rendering import frame_times
from training.foleyworld.sounds import active_rms
from training.foleyworld.truth import LEVEL_RATE_HZ

IMPACTS = [kind for kind, family in FAMILIES.items() if family == "impact"]
TIMES = np.array([0.3, 2.5, 7.1])


def with_place(scene: Scene, **changes: float) -> Scene:
    """The same scene with its source elsewhere or of another size."""
    (source,) = scene.sources
    return replace(scene, sources=(replace(source, place=replace(source.place, **changes)),))


def centroid_hz(audio: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(audio)) ** 2
    return float((power * np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE_HZ)).sum() / power.sum())


@pytest.mark.parametrize("kind", CLASSES)
def test_a_seed_is_a_clip(kind: str) -> None:
    one, two, other = make_scene(7, kind), make_scene(7, kind), make_scene(8, kind)
    np.testing.assert_array_equal(one.audio(), two.audio())
    np.testing.assert_array_equal(one.frames(TIMES, 64, 64), two.frames(TIMES, 64, 64))
    assert one.truth == two.truth
    assert not np.array_equal(one.audio(), other.audio())
    assert not np.array_equal(one.frames(TIMES, 64, 64), other.frames(TIMES, 64, 64))


def test_the_class_is_drawn_evenly_from_the_seed() -> None:
    kinds = [make_scene(seed).truth.classes[0] for seed in range(400)]
    counts = [kinds.count(kind) for kind in CLASSES]
    assert min(counts) > 0.5 * 400 / len(CLASSES)
    assert max(counts) < 1.7 * 400 / len(CLASSES)


def test_splits_share_no_seed() -> None:
    for name, seeds in SPLITS.items():
        assert clip_seeds(name, 5, 3) == list(seeds[5:8])
        others = [other for key, other in SPLITS.items() if key != name]
        assert not any(seeds[0] in other or seeds[-1] in other for other in others)
    with pytest.raises(ValueError, match="choose one of train, validation, test"):
        clip_seeds("dev", 0, 1)
    with pytest.raises(ValueError, match="test has 10000000 seeds"):
        clip_seeds("test", 9_999_999, 2)


def test_unknown_class_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'cat'.*ball, drum"):
        make_scene(0, "cat")


@pytest.mark.parametrize("kind", CLASSES)
def test_audio_format_and_level(kind: str) -> None:
    for seed in range(4):
        audio = make_scene(seed, kind).audio()
        assert audio.dtype == np.float32
        assert audio.shape == (NUM_SAMPLES,)
        assert np.abs(audio).max() <= 0.9
        assert 0.03 < active_rms(audio) < 0.2


def rise_db(audio: np.ndarray, time_s: float) -> float:
    """Peak of the 10 ms after a time over the 10 ms before it."""
    at, span = round(time_s * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ // 100
    before, after = np.abs(audio[max(0, at - span) : at]), np.abs(audio[at : at + span])
    return float(20 * np.log10(after.max() / (before.max() + 1e-4)))


@pytest.mark.parametrize("kind", [*IMPACTS, "bird"])
def test_events_are_where_the_sound_starts(kind: str) -> None:
    for seed in range(6):
        scene = make_scene(seed, kind)
        audio, events = scene.audio(), scene.truth.events[kind]
        assert len(events) >= 4
        assert list(events) == sorted(events)
        assert events[0] >= 0.0
        assert events[-1] < CLIP_S
        assert events[-1] > CLIP_S / 2
        late = [time_s + 0.02 for time_s in events]
        assert min(rise_db(audio, time_s) for time_s in events) > 3.0
        assert max(rise_db(audio, time_s) for time_s in late) < 3.0


@pytest.mark.parametrize("kind", ["drum", "hammer"])
def test_the_picture_flashes_at_the_blow(kind: str) -> None:
    for seed in range(4):
        scene = make_scene(seed, kind)
        events = np.array(scene.truth.events[kind])
        shifts = (-0.012, -0.004, 0.004)
        earlier, before, at = (scene.frames(events + s, 64, 64).astype(int) for s in shifts)
        lit = np.maximum(at - before, 0).sum(axis=(1, 2, 3))
        moved = np.maximum(before - earlier, 0).sum(axis=(1, 2, 3))
        assert lit.min() > 1.5 * moved.max()
        assert all("hitting" in c or "striking" in c for c in map(scene.caption, events))


def test_the_ball_touches_the_ground_at_the_bounce() -> None:
    scene = with_place(make_scene(1, "ball"), side=0.0, distance=1.0)
    (ball,) = scene.sources
    ball = replace(ball, material="rubber", color="yellow")
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

    just_before = [time_s - 0.002 for time_s in events]  # the flash at the contact hides the ball
    assert all(abs(lowest_row(time_s) - ground_row(time_s)) <= 4 for time_s in just_before)
    assert lowest_row(events[0] - 0.25) < ground_row(events[0] - 0.25) - 12


@pytest.mark.parametrize("kind", CLASSES)
def test_distance_sets_loudness_and_apparent_size(kind: str) -> None:
    scenes = [with_place(make_scene(3, kind), distance=d) for d in (1.0, 1.7, 3.0)]
    loudness = [active_rms(scene.audio()) for scene in scenes]
    assert loudness[0] > 1.3 * loudness[1] > 1.3 * 1.3 * loudness[2]
    assert scenes[0].caption(1.0).endswith("near")
    assert scenes[2].caption(1.0).endswith("far away")
    scales = [scene.sources[0].place.scale for scene in scenes]
    assert scales == sorted(scales, reverse=True)


@pytest.mark.parametrize("kind", CLASSES)
def test_size_sets_pitch(kind: str) -> None:
    small, large = (with_place(make_scene(4, kind), size=size) for size in (0.05, 0.95))
    assert centroid_hz(small.audio()) > 1.25 * centroid_hz(large.audio())
    assert "small" in small.caption(1.0)
    assert "large" in large.caption(1.0)


@pytest.mark.parametrize(("kind", "reference"), [("rain", 0.5), ("waves", 0.8), ("siren", 0.4)])
def test_loudness_follows_what_is_seen(kind: str, reference: float) -> None:
    for seed in range(4):
        scene = make_scene(seed, kind)
        levels = np.array(scene.truth.levels[kind])
        blocks = scene.audio().reshape(len(levels), -1)
        loudness = np.sqrt((blocks**2).mean(axis=1))
        assert np.corrcoef(levels, loudness)[0, 1] > reference


@pytest.mark.parametrize("kind", ["engine", "siren"])
def test_pitch_follows_what_is_seen(kind: str) -> None:
    for seed in range(4):
        scene = make_scene(seed, kind)
        levels = np.array(scene.truth.levels[kind])
        blocks = scene.audio().reshape(len(levels), -1)
        loud = (blocks**2).mean(axis=1) > 1e-4
        pitch = np.array([centroid_hz(block * np.hanning(len(block))) for block in blocks[loud]])
        assert np.corrcoef(levels[loud], pitch)[0, 1] > 0.8


def test_levels_span_the_clip() -> None:
    for kind in CLASSES:
        levels = make_scene(2, kind).truth.levels[kind]
        assert len(levels) == CLIP_S * LEVEL_RATE_HZ
        assert min(levels) >= 0.0
        assert max(levels) <= 1.0


@pytest.mark.parametrize("kind", CLASSES)
def test_a_square_picture_is_the_centre_of_a_wide_one(kind: str) -> None:
    scene = make_scene(11, kind)
    wide, square = scene.frames(TIMES, 114, 64), scene.frames(TIMES, 64, 64)
    difference = np.abs(wide[:, :, 25:-25].astype(int) - square.astype(int))
    assert difference.max() <= 1
    assert wide.shape == (3, 64, 114, 3)
    assert wide.dtype == np.uint8


@pytest.mark.parametrize("kind", CLASSES)
def test_the_picture_moves_inside_the_square(kind: str) -> None:
    for seed in range(4):
        frames = make_scene(seed, kind).frames(np.linspace(0.1, 9.9, 25), 128, 64).astype(int)
        change = np.abs(frames - frames[:1]).max(axis=(0, 3))
        assert change[:, 32:96].max() > 60
        if kind not in ("rain", "waves", "siren"):  # these fill the picture, or light it
            assert change[:, :31].max() <= 2
            assert change[:, 97:].max() <= 2


@pytest.mark.parametrize("kind", CLASSES)
def test_captions_name_the_state(kind: str) -> None:
    captions = {make_scene(5, kind).caption(time_s) for time_s in frame_times(8.0)}
    assert 3 <= len(captions) <= 7
    assert all(kind.rstrip("s") in caption for caption in captions)


def test_frames_are_sampled_at_mid_frame() -> None:
    np.testing.assert_allclose(frame_times(2.0)[:3], [0.25, 0.75, 1.25])
    assert len(frame_times(2.0)) == 20


@pytest.mark.parametrize("width", [31, 64, 113])
def test_shapes_cover_their_area_in_world_units(width: int) -> None:
    canvas = Canvas.blank(width, 63)
    np.testing.assert_allclose(canvas.xs, -canvas.xs[::-1], atol=1e-6)
    np.testing.assert_allclose(canvas.ys, -canvas.ys[::-1], atol=1e-6)
    square = [(-0.2, -0.2), (-0.2, 0.2), (0.2, 0.2), (0.2, -0.2)]
    canvas.circle((0.0, 0.5), 0.3, (255, 0, 0))
    canvas.box((-0.3, -0.3), (0.3, 0.1), (0, 255, 0))
    canvas.at((0.1, -0.6), 0.5).polygon(square, (0, 0, 255))
    area = canvas.image.sum(axis=(0, 1)) / 255 * canvas.pixel**2
    np.testing.assert_allclose(area, [np.pi * 0.09, 0.24, 0.04], rtol=0.02)


def read_streams(path: Path) -> tuple[list[np.ndarray], np.ndarray | None]:
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return pictures, None
        blocks = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return pictures, np.concatenate(blocks)


def test_mp4_round_trip(tmp_path: Path) -> None:
    arguments = ["render", "--out", str(tmp_path), "--clips", "1", "--seed", "3", "--kind", "drum"]
    main([*arguments, "--width", "114", "--height", "64", "--fps", "10"])
    (path,) = tmp_path.glob("*.mp4")
    scene = make_scene(clip_seeds("test", 3, 1)[0], "drum")
    assert read_truth(path.with_suffix(".json")) == scene.truth
    pictures, audio = read_streams(path)
    expected = scene.frames(frame_times(10.0), 114, 64)
    assert len(pictures) == len(expected) == 100
    assert np.abs(np.array(pictures).astype(int) - expected).mean() < 6
    assert audio is not None
    assert abs(len(audio) - NUM_SAMPLES) <= 2048
    shared = min(len(audio), NUM_SAMPLES)
    assert np.corrcoef(audio[:shared], scene.audio()[:shared])[0, 1] > 0.8


def test_silent_mp4_has_no_audio_track(tmp_path: Path) -> None:
    main(["render", "--out", str(tmp_path), "--clips", "1", "--silent", "--kind", "ball",
          "--width", "64", "--height", "64", "--fps", "5"])  # fmt: skip
    (path,) = tmp_path.glob("*.mp4")
    pictures, audio = read_streams(path)
    assert len(pictures) == 50
    assert audio is None


def test_sheet(tmp_path: Path) -> None:
    main(["sheet", "--out", str(tmp_path / "sheet.png"), "--clips", "1"])
    assert (tmp_path / "sheet.png").stat().st_size > 10_000
