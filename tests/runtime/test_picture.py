"""A picture of a result: what it shows stands where it should, whatever the video and the sound."""

import sys
from pathlib import Path

import numpy as np
import pytest
from media import frame_number, make_picture, make_video

from vab_rt.audio import Audio
from vab_rt.errors import BackendError, MediaError, OptionError, OutputError
from vab_rt.picture import FRAMES, MARK, SIZE, SOUND, plan_picture, save_picture
from vab_rt.spectrogram import Spectrogram, band_edges_hz
from vab_rt.strokes import strokes_of
from vab_rt.video import Video

Image = pytest.importorskip("PIL.Image", reason='not installed: pip install "vab-rt[picture]"')
RATE = 16_000


def struck(at_s, duration_s, rate_hz=RATE):
    """Silence with bursts of noise that decay within 100 ms."""
    samples = np.zeros(round(duration_s * rate_hz), np.float32)
    noise = np.random.default_rng(0).standard_normal(rate_hz // 10)
    burst = (0.1 * noise * np.exp(-np.arange(len(noise)) / rate_hz * 50)).astype(np.float32)
    for at in at_s:
        begin = round(at * rate_hz)
        room = samples[begin : begin + len(burst)]
        room += burst[: len(room)]
    return samples


def drawn(path, samples, video, rate_hz=RATE):
    save_picture(path, Audio(samples, rate_hz), video, force=True)
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", SIZE)
        return np.asarray(image)


def marked(image):
    """The columns of the upper edge of the spectrogram that are marked."""
    return set(np.flatnonzero((image[SOUND.top] == MARK).all(-1)))


def film(image):
    """Its images, from left to right, and the column of each one's middle."""
    row = (image[FRAMES.top : FRAMES.bottom] < 250).any((0, 2))
    begins, ends = np.flatnonzero(np.diff(np.pad(row, 1).astype(int))).reshape(-1, 2).T
    middle = (FRAMES.top + FRAMES.bottom) // 2
    return [
        (image[middle - 5 : middle + 5, begin:end], (begin + end) / 2)
        for begin, end in zip(begins, ends, strict=True)
    ]


@pytest.mark.parametrize("rate_hz", [16_000, 22_050, 48_000])
@pytest.mark.parametrize(
    ("at_s", "duration_s"),
    [((0.5, 1.0, 1.75), 2), ((0, 1.98), 2), ((0.1,), 0.2), ((1, 31.5, 59.9), 60), ((), 1)],
)
def test_marks_stand_where_it_strikes(at_s, duration_s, rate_hz, videos, tmp_path):
    samples = struck(at_s, duration_s, rate_hz)
    strokes = strokes_of(samples, rate_hz)
    assert np.abs(strokes / rate_hz - np.array(at_s)).max(initial=0) <= 0.011
    middles = [SOUND.left + int(s / len(samples) * SOUND.width) for s in strokes]
    expected = {x for middle in middles for x in range(middle - 1, middle + 2)}
    found = marked(drawn(tmp_path / "p.png", samples, videos(50), rate_hz))
    assert found == expected & set(range(SOUND.left, SOUND.right))


@pytest.mark.parametrize(
    ("made", "start_s", "duration_s"),
    [
        ({"num_frames": 50}, 0, 2),
        ({"num_frames": 50}, 0.5, 1.25),
        ({"num_frames": 50, "suffix": ".mkv", "gop": 50}, 1.9, 0.1),
        ({"num_frames": 90, "fps": 1}, 0, 90),  # sought
        ({"num_frames": 90, "fps": 1, "suffix": ".ts", "gop": 90}, 3, 85),
        ({"num_frames": 20, "fps": 10, "size": (48, 96)}, 0, 2),
        ({"num_frames": 1, "fps": 1}, 0, 1),
    ],
)
def test_frames_are_those_of_their_time(made, start_s, duration_s, tmp_path):
    path = tmp_path / f"in{made.pop('suffix', '.mp4')}"
    video = Video(make_video(path, **made), start_s, duration_s)
    images = film(drawn(tmp_path / "p.png", np.zeros(round(duration_s * RATE)), video))
    assert 6 <= len(images) <= 16
    for image, middle in images:
        at_s = start_s + (middle - SOUND.left) / SOUND.width * duration_s
        near = {
            int((at_s + pixel * duration_s / SOUND.width) * made.get("fps", 25))
            for pixel in (-1, 1)
        }
        assert frame_number(image) in {number % 50 for number in near}, at_s


def test_frames_are_upright_and_whole(tmp_path):
    def halves(_):
        return np.repeat([[[40] * 3, [200] * 3]], 32, 1).repeat(48, 0).astype(np.uint8)

    video = make_video(tmp_path / "in.mp4", num_frames=5, picture=halves, rotation=90)
    for image, _ in film(drawn(tmp_path / "p.png", np.zeros(3200), video)):
        assert image.shape[1] == 60  # of 80 high: 3 to 4
    rows = drawn(tmp_path / "p.png", np.zeros(3200), video)[FRAMES.top : FRAMES.bottom]
    column = rows[:, int(film(drawn(tmp_path / "p.png", np.zeros(3200), video))[0][1])].mean(-1)
    assert column[:30].mean() > 180 and column[-30:].mean() < 60  # turned to the left


def test_a_still_is_shown_as_long_as_it_sounds(tmp_path):
    still = Video(make_picture(tmp_path / "in.jpg"), duration_s=3)
    images = film(drawn(tmp_path / "p.png", np.zeros(3 * RATE), still))
    assert {frame_number(image) for image, _ in images} == {7}


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.full(1, 0.5), struck([0], 0.005)])
def test_silence_and_the_shortest_sounds(samples, videos, tmp_path):
    image = drawn(tmp_path / "p.png", samples, videos(25))
    is_heard = bool(samples.any())
    assert bool(marked(image)) == is_heard
    assert (image[SOUND.top : SOUND.bottom, SOUND.left : SOUND.right].max() > 200) == is_heard


def test_a_tone_lies_at_its_height_from_its_beginning_on(videos, tmp_path):
    at = np.arange(2 * RATE) / RATE
    tone = np.where(at < 1, 0, 0.5 * np.sin(2 * np.pi * 1000 * at)).astype(np.float32)
    image = drawn(tmp_path / "p.png", tone, videos(50)).sum(-1)
    tick = [y for y in range(SOUND.top + 20, SOUND.bottom - 60) if image[y, SOUND.left - 2] < 300]
    inside = image[SOUND.top + 20 : SOUND.bottom, SOUND.left : SOUND.right]
    assert abs(SOUND.top + 20 + inside[:, 1050].argmax() - tick[0]) <= 2
    assert inside[:, 650].max() < 100 < inside[:, 750].max()


@pytest.mark.parametrize("duration_s", [0.73, 90])
def test_sound_in_pieces_is_the_same_sound(duration_s):
    at_s = np.arange(0.2, duration_s, 0.9)
    samples = struck(at_s, duration_s)
    whole, pieces = Spectrogram(RATE), Spectrogram(RATE)
    whole.add(samples)
    for piece in np.split(samples, sorted(np.random.default_rng(1).integers(0, len(samples), 30))):
        pieces.add(piece)
    for sound in (whole, pieces):
        sound.finish()
        assert np.allclose(sound.strokes_s() * RATE, strokes_of(samples, RATE))
    level_db, column_s = whole.levels_db()
    assert column_s == pieces.levels_db()[1] and len(level_db) <= 4097
    assert np.allclose(level_db, pieces.levels_db()[0], atol=0.01)
    assert len(level_db) == -(-duration_s // column_s)
    loud = level_db.max(1) > level_db.max() - 20
    begins = np.flatnonzero(np.diff(np.pad(loud, (1, 0)).astype(int)) == 1) * column_s
    assert np.abs(begins - at_s).max() <= 0.05 + column_s


def test_what_is_kept_does_not_grow():
    sound, second = Spectrogram(RATE), np.zeros(RATE, np.float32)
    sizes = []
    for _ in range(300):
        sound.add(second)
        sizes.append(len(sound.levels_db()[0]))
    assert max(sizes) <= 4097 and sizes[-1] < max(sizes)


def test_bands_end_with_the_sound():
    assert band_edges_hz(16_000)[-1] == pytest.approx(8000)
    assert band_edges_hz(96_000)[-1] == pytest.approx(16_000)


@pytest.mark.parametrize(
    ("name", "make", "error", "reason"),
    [
        ("p.png", lambda p: p.write_bytes(b"old"), OutputError, "exists already.*--force"),
        ("p.jpg", None, OutputError, "p.jpg ends in .jpg, expected .png"),
        ("png", None, OutputError, "png ends in no suffix, expected .png"),
        ("none/p.png", None, OutputError, "none does not exist"),
        ("d.png", Path.mkdir, OutputError, "is a folder"),
        ("l.png", lambda p: p.symlink_to("out.wav"), OutputError, "is where the sound goes"),
    ],
)
def test_a_picture_that_cannot_be_is_refused(name, make, error, reason, videos, tmp_path):
    path = tmp_path / name
    if make is not None:
        make(path)
    with pytest.raises(error, match=reason):
        plan_picture(path, videos(25), out=tmp_path / "out.wav")


def test_the_input_is_never_replaced(tmp_path):
    still = make_picture(tmp_path / "in.png")
    before = still.read_bytes()
    with pytest.raises(OutputError, match="is the input itself"):
        save_picture(still, Audio(np.zeros(9, np.float32), RATE), Video(still, 0, 1), force=True)
    assert still.read_bytes() == before


def test_sound_and_video_that_there_is_not(videos, tmp_path):
    path = tmp_path / "p.png"
    with pytest.raises(OptionError, match="the sound has no samples"):
        save_picture(path, Audio(np.zeros(0, np.float32), RATE), videos(25))
    with pytest.raises(MediaError, match="none.mp4 does not exist"):
        save_picture(path, Audio(np.zeros(9, np.float32), RATE), tmp_path / "none.mp4")
    with pytest.raises(OptionError, match="start is 5 s, expected less than the video's 1 s"):
        save_picture(path, Audio(np.zeros(9, np.float32), RATE), Video(videos(25), 5))
    assert not list(tmp_path.iterdir())


def test_the_command_draws_what_python_draws(run, tiny_bundle, pipeline, videos, tmp_path):
    words = ("--model", tiny_bundle, "--no-take", "--seed", 3, "--start", 0.2, "--picture")
    result = run("generate", videos(60), tmp_path / "out.wav", *words, tmp_path / "p.png")
    assert (result.code, result.err) == (0, "")
    part = Video(videos(60), 0.2)
    save_picture(tmp_path / "q.png", pipeline.generate(part, seed=3), part)
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "q.png").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out.wav", "p.png", "q.png"}
    again = run("generate", videos(60), tmp_path / "new.wav", *words, tmp_path / "p.png")
    assert again.code == 1 and "p.png exists already" in again.err
    assert not (tmp_path / "new.wav").exists()


def test_of_candidates_the_best_is_drawn(run, tiny_bundle, pipeline, videos, tmp_path):
    words = ("generate", videos(60), tmp_path / "out.wav", "--candidates", 3, "--steps", 2)
    words += ("--no-take", "--picture", tmp_path / "p.png")
    assert run(*words, "--model", tiny_bundle).code == 0
    best = pipeline.candidates(videos(60), num_candidates=3, steps=2)[0]
    save_picture(tmp_path / "q.png", best, videos(60))
    assert (tmp_path / "p.png").read_bytes() == (tmp_path / "q.png").read_bytes()
    for sound in tmp_path.glob("*.wav"):
        sound.unlink()
    again = run(*words, "--model", tmp_path / "none")  # before any model is loaded
    assert again.code == 1 and "p.png exists already" in again.err


def test_without_pillow_nothing_is_begun(run, tiny_bundle, videos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BackendError, match=r"pip install 'vab-rt\[picture\]'"):
        plan_picture(tmp_path / "p.png", videos(25))
    words = ("--model", tiny_bundle, "--picture", tmp_path / "p.png")
    result = run("generate", videos(25), tmp_path / "out.wav", *words)
    assert result.code == 1 and result.err.startswith("error: pictures need Pillow")
    assert result.err.count("\n") == 1 and not list(tmp_path.iterdir())
    assert run("generate", videos(25), tmp_path / "out.wav", *words[:2]).code == 0
