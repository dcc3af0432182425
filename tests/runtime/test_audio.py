"""Written sound: as long as it was to the sample, the same bytes twice, whole or not there."""

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import frame_number, make_video, packets_of, samples_of

from vab_rt.audio import Audio
from vab_rt.audio_file import AudioWriter, plan_output
from vab_rt.errors import OptionError, OutputError
from vab_rt.video import Video

RATE = 16_000
AUDIO_SUFFIXES = ["wav", "flac", "mp3", "m4a", "ogg", "opus", "aiff", "mka"]


def clicking_tone(seconds: float, click_at: float, rate: int = RATE) -> Audio:
    """Silence, a click, then a tone: where the click is tells whether sound is aligned."""
    time = np.arange(round(seconds * rate)) / rate
    samples = 0.3 * np.sin(2 * np.pi * 440 * time) * (time > click_at + 0.1)
    begin = round(click_at * rate)
    samples[begin : begin + 8] = 0.9
    return Audio(samples.astype(np.float32), rate)


def click_time(samples: np.ndarray, rate: int) -> float:
    return int(np.argmax(np.abs(samples) > 0.2)) / rate


LENGTHS = [(suffix, num) for suffix in AUDIO_SUFFIXES for num in (31_999, 160_000, 100, 150_401)]
LENGTHS.remove(("mka", 100))  # less than a packet, of which matroska cannot cut that much


@pytest.mark.parametrize(("suffix", "num_samples"), LENGTHS)
def test_length_is_exact(tmp_path, suffix, num_samples):
    path = tmp_path / f"out.{suffix}"
    random = np.random.default_rng(0)
    samples = 0.1 * random.standard_normal(num_samples).astype(np.float32)
    Audio(samples, RATE).save(path)
    assert declared_samples(path) == num_samples


def declared_samples(path: Path) -> int:
    """Samples at 16 kHz that a player presents: what the container declares, else what decodes."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        if "mp4" in container.format.name and stream.duration is not None:
            return round(stream.duration * stream.time_base * RATE)
    samples, rate, _ = samples_of(path)
    return round(len(samples) * RATE / rate)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_lossless_formats_hold_16_bits(tmp_path, suffix):
    samples = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    Audio(samples, RATE).save(tmp_path / f"out.{suffix}")
    written, rate, _ = samples_of(tmp_path / f"out.{suffix}")
    assert rate == RATE
    np.testing.assert_allclose(written, samples, atol=1.01 / 32768)


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_lossy_formats_sound_like_the_original(tmp_path, suffix):
    audio = clicking_tone(2.0, 0.5)
    audio.save(tmp_path / f"out.{suffix}")
    samples, rate, _ = samples_of(tmp_path / f"out.{suffix}")
    assert click_time(samples, rate) == pytest.approx(0.5, abs=0.002)
    tone = samples[round(1.0 * rate) : round(1.9 * rate)]
    spectrum = np.abs(np.fft.rfft(tone * np.hanning(len(tone))))
    assert np.argmax(spectrum) * rate / len(tone) == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(tone**2)) == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


def test_loud_sound_is_clipped_not_wrapped(tmp_path):
    Audio(np.array([2.0, -2.0, 1.0, -1.0], np.float32), RATE).save(tmp_path / "out.wav")
    written, _, _ = samples_of(tmp_path / "out.wav")
    np.testing.assert_allclose(written, [1, -1, 1, -1], atol=1 / 32767)


@pytest.mark.parametrize("suffix", [*AUDIO_SUFFIXES, "aac", "mp4", "mov", "mkv"])
def test_the_same_sound_gives_the_same_bytes(tmp_path, suffix):
    video = Video(make_video(tmp_path / "in.mp4"))
    audio = clicking_tone(2.0, 0.5)
    audio.save(tmp_path / f"a.{suffix}", video=video)
    audio.save(tmp_path / f"b.{suffix}", video=video)
    assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("rate", [8000, 22_050, 24_000, 44_100, 48_000, 15_999])
@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_other_sample_rates(tmp_path, suffix, rate):
    clicking_tone(1.0, 0.5, rate).save(tmp_path / f"out.{suffix}")
    samples, written_rate, _ = samples_of(tmp_path / f"out.{suffix}")
    assert click_time(samples, written_rate) == pytest.approx(0.5, abs=0.003)


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_pieces_make_the_same_file_as_the_whole(tmp_path, suffix):
    audio = clicking_tone(3.0, 0.5)
    audio.save(tmp_path / f"whole.{suffix}")
    with AudioWriter(plan_output(tmp_path / f"pieces.{suffix}"), RATE) as writer:
        for piece in np.split(audio.samples, [RATE, 2 * RATE]):
            writer.write(piece)
    assert writer.num_samples == len(audio.samples)
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    assert (tmp_path / f"pieces.{suffix}").read_bytes() == whole


def test_uneven_pieces_hold_the_same_samples(tmp_path):
    audio = clicking_tone(3.0, 0.5)
    audio.save(tmp_path / "whole.flac")
    with AudioWriter(plan_output(tmp_path / "pieces.flac"), RATE) as writer:
        for piece in np.split(audio.samples, [1, 64, 7777, 40_000]):
            writer.write(piece)
    np.testing.assert_array_equal(
        samples_of(tmp_path / "pieces.flac")[0], samples_of(tmp_path / "whole.flac")[0]
    )


def test_sounds_are_equal_when_all_their_samples_are():
    one, same, louder = (Audio(np.array(x, np.float32), 16_000) for x in ([0, 1], [0, 1], [0, 2]))
    assert one == same
    others = (louder, Audio(one.samples, 8_000), Audio(one.samples[:1], 16_000), one.samples[0], "")
    assert all(one != other for other in others)
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_duration():
    assert Audio(np.zeros(150_400, np.float32), RATE).duration_s == 9.4


MUXED = [
    ("in.mp4", "mp4", "libx264"),
    ("in.mp4", "mov", "libx264"),
    ("in.mp4", "mkv", "libx264"),
    ("in.mov", "mp4", "libx264"),
    ("in.mkv", "mp4", "libx264"),
    ("in.mp4", "mp4", "libx265"),
    ("in.webm", "webm", "libvpx-vp9"),
    ("in.webm", "mp4", "libvpx-vp9"),
    ("in.mp4", "webm", "libsvtav1"),
    ("in.mp4", "m4v", "libx264"),
    ("in.avi", "avi", "mpeg4"),
    ("in.mp4", "avi", "mpeg4"),
]


@pytest.mark.parametrize(("source", "suffix", "codec"), MUXED)
def test_the_video_stream_is_copied_bit_for_bit(tmp_path, source, suffix, codec):
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    if codec == "libsvtav1":
        options = {"preset": "12", "svtav1-params": "lp=1"}
    first_s, b_frames = int(not source.endswith("avi")), 0 if suffix == "avi" else 2
    video = make_video(
        tmp_path / source, codec=codec, options=options, first_s=first_s, b_frames=b_frames
    )
    out = tmp_path / f"out.{suffix}"
    clicking_tone(2.0, 0.5).save(out, video=Video(video))
    assert packets_of(out) == packets_of(video)
    shown = shown_frames(out)
    assert [number for _, number in shown] == list(range(50))
    assert [float(at) for at, _ in shown] == pytest.approx([n / 25 for n in range(50)], abs=1e-3)
    samples, rate, first_s = samples_of(out)
    assert first_s == 0
    assert click_time(samples, rate) == pytest.approx(0.5, abs=0.002)
    assert declared_samples(out) == 2 * RATE


def shown_frames(path: Path) -> list[tuple[Fraction, int]]:
    """Time and number of every frame that a player shows."""
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, frame_number(frame.to_ndarray(format="rgb24")))
            for frame in container.decode(video=0)
        ]


def test_the_source_sound_is_replaced(tmp_path):
    video = make_video(tmp_path / "in.mp4", with_sound=True)
    clicking_tone(2.0, 0.5).save(tmp_path / "out.mp4", video=Video(video))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
    samples, rate, _ = samples_of(tmp_path / "out.mp4")
    assert click_time(samples, rate) == pytest.approx(0.5, abs=0.002)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_rotation_and_shape_of_pixels_are_kept(tmp_path, suffix):
    video = make_video(tmp_path / "in.mp4", rotation=90, aspect=Fraction(4, 3))
    out = tmp_path / f"out.{suffix}"
    clicking_tone(2.0, 0.5).save(out, video=Video(video))
    with av.open(str(out)) as container:
        assert next(container.decode(video=0)).rotation == 90
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert container.streams.video[0].average_rate == 25


@pytest.mark.parametrize("suffix", ["mp4", "mov"])
@pytest.mark.parametrize("start_s", [0.48, 0.7, 1.23])
def test_a_selection_begins_anywhere_in_mp4(tmp_path, suffix, start_s):
    """Frames from the key frame before the start are in the file; none before it is shown."""
    video = make_video(tmp_path / "in.mp4")
    out = tmp_path / f"out.{suffix}"
    clicking_tone(0.6, 0.3).save(out, video=Video(video, start_s, 0.6))
    shown = shown_frames(out)
    # FFmpeg shows the first whole frame at 0; players that honour parts of frames are exact.
    for at, number in shown:
        assert 0 <= number / 25 - start_s - float(at) + 1e-3 < 1 / 25
    assert 0 <= shown[0][0] <= Fraction(1, 25)
    assert 0.6 - 0.04 < shown[-1][0] + Fraction(1, 25) < 0.6 + 0.2
    copied, source = packets_of(out), packets_of(video)
    assert b"".join(copied) in b"".join(source)
    samples, rate, first_s = samples_of(out)
    assert first_s == 0 and click_time(samples, rate) == pytest.approx(0.3, abs=0.002)


def test_a_selection_without_b_frames_ends_exactly(tmp_path):
    video = make_video(tmp_path / "in.mp4", b_frames=0)
    clicking_tone(1.0, 0.3).save(tmp_path / "out.mp4", video=Video(video, 0.0, 1.0))
    assert [number for _, number in shown_frames(tmp_path / "out.mp4")] == list(range(25))


def test_a_selection_begins_at_a_key_frame_in_matroska(tmp_path):
    video = make_video(tmp_path / "in.mp4", gop=12)
    out = tmp_path / "out.mkv"
    clicking_tone(0.6, 0.3).save(out, video=Video(video, 0.48, 0.6))
    shown = shown_frames(out)
    assert shown[0] == (0, 12)
    with pytest.raises(OutputError, match=r"between key frames.* use --start 0\.48, or write"):
        clicking_tone(0.6, 0.3).save(tmp_path / "no.mkv", video=Video(video, 0.7, 0.6))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mkv"]


@pytest.mark.parametrize(
    ("fps", "first"), [(Fraction(24), 50), (Fraction(30_000, 1001), 50), (Fraction(6, 7), 1250)]
)
def test_the_key_frame_that_is_advised_is_taken(tmp_path, fps, first):
    """None of these has a time in whole milliseconds, and the last one is late in the video."""
    video = make_video(tmp_path / "in.mp4", num_frames=first + 40, fps=fps, gop=50, b_frames=0)
    asked_s = float((first + 30) / fps)
    sound = clicking_tone(0.6, 0.3)
    with pytest.raises(OutputError, match="between key frames") as refused:
        sound.save(tmp_path / "no.mkv", video=Video(video, asked_s, 0.6))
    advised = re.search(r"use --start ([0-9.]+)", str(refused.value))
    assert advised is not None
    sound.save(tmp_path / "out.mkv", video=Video(video, float(advised[1]), 0.6))
    assert shown_frames(tmp_path / "out.mkv")[0] == (0, first % 50)


def test_sound_is_interleaved_with_the_pictures(tmp_path):
    video = make_video(tmp_path / "in.mp4", num_frames=250)
    clicking_tone(10.0, 0.5).save(tmp_path / "out.mp4", video=Video(video))
    with av.open(str(tmp_path / "out.mp4")) as container:
        packets = sorted((p for p in container.demux() if p.size), key=lambda p: p.pos)
        times = [(p.stream.type, float(p.dts * p.time_base)) for p in packets]
    for kind in ("video", "audio"):
        latest = 0.0
        for other, at in times:
            latest = max(latest, at)
            assert other != kind or latest - at < 1.5


def test_a_video_without_timestamps_cannot_be_copied(tmp_path):
    video = make_video(tmp_path / "in.h264")
    with pytest.raises(OutputError, match="has no timestamps"):
        clicking_tone(2.0, 0.5).save(tmp_path / "out.mp4", video=Video(video))
    assert [p.name for p in tmp_path.iterdir()] == ["in.h264"]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_all_of_a_video(tmp_path, kind):
    video = make_video(tmp_path / "in.mp4")
    clicking_tone(2.0, 0.5).save(tmp_path / "out.mp4", video=kind(video))
    assert packets_of(tmp_path / "out.mp4") == packets_of(video)


@pytest.mark.parametrize("shape", [(1, 100), (100, 1), ()])
def test_samples_of_another_shape_are_refused(tmp_path, shape):
    samples = np.zeros(shape, np.float32)
    message = rf"have the shape {re.escape(str(list(shape)))}, expected one dimension, \[S\]"
    with pytest.raises(OptionError, match=message):
        Audio(samples, RATE)
    with (
        pytest.raises(OptionError, match=message),
        AudioWriter(plan_output(tmp_path / "out.wav"), RATE) as writer,
    ):
        writer.write(samples)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_refused(tmp_path, number):
    with pytest.raises(OptionError, match="samples are NaN or infinite, expected -1 to 1"):
        Audio(np.full(9, number, np.float32), RATE).save(tmp_path / "out.wav")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(9, np.int16), RATE, "samples are int16, expected floats from -1 to 1; divide"),
        (np.zeros(9, complex), RATE, "samples are complex128, expected floats"),
        (np.zeros(9, np.float32), 0, "sample_rate_hz is 0, expected samples a second"),
    ],
)
def test_what_is_no_sound_is_refused(samples, rate, message):
    with pytest.raises(OptionError, match=message):
        Audio(samples, rate)


@pytest.mark.parametrize("start_s", [2.0, 100.0])
def test_a_copy_cannot_begin_beyond_the_end(tmp_path, start_s):
    video = make_video(tmp_path / "in.mp4", first_s=1)
    message = rf"start is {start_s:g} s, expected less than the video's 2 s; choose an earlier"
    with pytest.raises(OptionError, match=message):
        clicking_tone(1.0, 0.5).save(tmp_path / "out.mkv", video=Video(video, start_s))
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_video_suffix_needs_a_video(tmp_path):
    with pytest.raises(OutputError, match=r"is a video file, .* or write \.wav"):
        clicking_tone(1.0, 0.5).save(tmp_path / "out.mp4")


@pytest.mark.parametrize("name", ["out.xyz", "out", ".wav"])
def test_an_unknown_suffix_lists_the_known(tmp_path, name):
    with pytest.raises(
        OutputError, match="expected one of wav, flac, mp3, m4a, ogg, opus, aac, aiff"
    ):
        clicking_tone(1.0, 0.5).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_suffixes_in_capitals(tmp_path):
    clicking_tone(1.0, 0.5).save(tmp_path / "OUT.WAV")
    assert samples_of(tmp_path / "OUT.WAV")[1] == RATE


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    video = make_video(tmp_path / "in.mp4")
    for suffix in [*AUDIO_SUFFIXES, "mp4", "mkv"]:
        with (
            pytest.raises(error),
            AudioWriter(plan_output(tmp_path / f"out.{suffix}", video=video), RATE) as writer,
        ):
            writer.write(np.zeros(30_000, np.float32))
            assert len(list(tmp_path.iterdir())) == 2  # the input and the part
            raise error
        assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_a_failure_keeps_the_file_that_was_there(tmp_path):
    (tmp_path / "out.wav").write_bytes(b"before")
    with (
        pytest.raises(RuntimeError),
        AudioWriter(plan_output(tmp_path / "out.wav", force=True), RATE) as writer,
    ):
        writer.write(np.zeros(30_000, np.float32))
        raise RuntimeError
    assert (tmp_path / "out.wav").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    with (
        pytest.raises(OutputError, match="exists already"),
        AudioWriter(plan_output(tmp_path / "out.wav"), RATE) as writer,
    ):
        writer.write(np.zeros(100, np.float32))
        (tmp_path / "out.wav").write_bytes(b"another's")
    assert (tmp_path / "out.wav").read_bytes() == b"another's"
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


def test_the_written_file_has_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    Audio(np.zeros(100, np.float32), RATE).save(tmp_path / "out.wav")
    assert (tmp_path / "out.wav").stat().st_mode == (tmp_path / "usual").stat().st_mode
