"""The soundtrack of a file: 16 kHz mono, on the clock of its frames, from any moment on."""

from fractions import Fraction

import av
import numpy as np
import pytest
from media import make_video

from training.datasets.soundtrack import read_soundtrack
from vab_rt.audio import Audio
from vab_rt.delivery import Delivery
from vab_rt.errors import MediaError
from vab_rt.media import probe

RATE_HZ = 16_000


def clicks(*times_s, length_s):
    samples = np.zeros(round(length_s * RATE_HZ), np.float32)
    for time_s in times_s:
        samples[round(time_s * RATE_HZ) :][:80] = 0.8
    return Audio(samples, RATE_HZ)


def click_times(samples):
    """Seconds at which a click begins."""
    loud = np.flatnonzero(np.abs(samples) > 0.3)
    firsts = loud[np.diff(loud, prepend=-RATE_HZ) > RATE_HZ // 10]
    return firsts / RATE_HZ


def stereo_video(path, left, right, seconds=1):
    """Pictures and uncompressed stereo at 48 kHz with constant channels."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream("pcm_f32le", rate=48_000, layout="stereo")
        for number in range(25 * seconds):
            image = np.full((32, 32, 3), 99, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        samples = np.tile(np.array([left, right], np.float32), 48_000 * seconds)[None]
        audio = av.AudioFrame.from_ndarray(samples, format="flt", layout="stereo")
        audio.sample_rate, audio.pts = 48_000, 0
        container.mux([*sound.encode(audio), *sound.encode(None)])
    return path


@pytest.fixture(scope="module")
def clicking(tmp_path_factory):
    """12 s of pictures with a click at 1, 4.5, 7.25 and 11 s."""
    folder = tmp_path_factory.mktemp("clicking")
    silent = make_video(folder / "silent.mp4", num_frames=300)
    sound = clicks(1, 4.5, 7.25, 11, length_s=12)
    for suffix in ("mp4", "mkv"):
        # At its own rate: another's resampler knows moments to a third of a sample.
        delivery = Delivery(rate_hz=RATE_HZ)
        sound.save(folder / f"sound.{suffix}", video=silent, delivery=delivery)
    return folder


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_whole_track_is_in_time(clicking, suffix):
    samples = read_soundtrack(clicking / f"sound.{suffix}", RATE_HZ, Fraction(0), Fraction(12))
    assert samples.shape == (12 * RATE_HZ,) and samples.dtype == np.float32
    assert click_times(samples) == pytest.approx([1, 4.5, 7.25, 11], abs=0.005)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("begin_s", [0.5, 4, 7, 10.5])
def test_a_part_is_what_the_whole_track_has_there(clicking, suffix, begin_s):
    path, begin = clicking / f"sound.{suffix}", Fraction(begin_s)
    whole = read_soundtrack(path, RATE_HZ, Fraction(0), Fraction(12))
    part = read_soundtrack(path, RATE_HZ, begin, Fraction(1))
    there = whole[round(begin_s * RATE_HZ) :][:RATE_HZ]
    assert len(click_times(part)) == 1
    shift = np.correlate(part, there, "full").argmax() - (RATE_HZ - 1)
    assert abs(shift) <= {"mp4": 0, "mkv": RATE_HZ // 1000}[suffix]  # mkv rounds times to 1 ms
    assert np.abs(np.roll(part, -shift) - there)[100:-100].max() < 0.02


def test_silence_follows_the_end(clicking):
    samples = read_soundtrack(clicking / "sound.mp4", RATE_HZ, Fraction(21, 2), Fraction(4))
    assert len(samples) == 4 * RATE_HZ
    assert click_times(samples) == pytest.approx([0.5], abs=0.005)
    assert not samples[2 * RATE_HZ :].any()


def test_sound_that_begins_late_is_placed_where_it_is_heard(tmp_path):
    """Pictures from 2 s of the container's clock: its second 3 is the pictures' second 1."""
    silent = make_video(tmp_path / "late.mkv", num_frames=100, first_s=2)
    clicks(1, length_s=4).save(tmp_path / "sound.mkv", video=silent)
    first = probe(tmp_path / "sound.mkv").first_s
    samples = read_soundtrack(tmp_path / "sound.mkv", RATE_HZ, first, Fraction(4))
    assert click_times(samples) == pytest.approx([1], abs=0.01)


def test_channels_are_averaged_without_clipping(tmp_path):
    path = stereo_video(tmp_path / "stereo.mkv", left=0.9, right=0.5)
    samples = read_soundtrack(path, RATE_HZ, Fraction(0), Fraction(1))
    assert samples[4000:12000] == pytest.approx(0.7, abs=1e-3)
    loud = read_soundtrack(
        stereo_video(tmp_path / "loud.mkv", left=1.5, right=1.5), RATE_HZ, Fraction(0), Fraction(1)
    )
    assert loud.max() == 1


def test_a_file_without_sound_says_so(tmp_path):
    path = make_video(tmp_path / "silent.mp4", num_frames=10)
    with pytest.raises(MediaError, match=r"silent\.mp4 has no sound, expected a soundtrack"):
        read_soundtrack(path, RATE_HZ, Fraction(0), Fraction(1))


def test_a_moment_after_the_sound_says_so(clicking):
    with pytest.raises(MediaError, match="no sound from 13 s on"):
        read_soundtrack(clicking / "sound.mp4", RATE_HZ, Fraction(13), Fraction(1))
