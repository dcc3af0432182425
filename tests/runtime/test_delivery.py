"""Sound as an editor wants it: rate, channels, bits, loudness, fades; measured by other means than
those that made it."""

import re
import wave

import av
import numpy as np
import pytest
from media import channels_of, make_video, samples_of
from numpy.typing import NDArray

import vab_rt
from vab_rt.audio import Audio
from vab_rt.audio_file import AudioWriter, plan_output
from vab_rt.errors import MediaWarning, OptionError, OutputError

RATE = 16_000


def bursts(seconds: float, level: float = 0.5, rate: int = RATE) -> Audio:
    """Noise that comes and goes twice a second, as impacts do."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal(len(time))
    return Audio((level * noise * np.exp(-8 * (time % 0.5)) / 3).astype(np.float32), rate)


def loudness(sound: NDArray[np.float32], rate: int) -> float:
    """Integrated loudness of sound [C, S] at 48 kHz as ITU-R BS.1770-4 writes it, in LUFS."""
    assert rate == 48_000, "the standard's coefficients are for this rate"
    shelf = (
        [1.53512485958697, -2.69169618940638, 1.19839281085285],
        [-1.69065929318241, 0.73248077421585],
    )
    high = [1.0, -2.0, 1.0], [-1.99004745483398, 0.99007225036621]
    z = np.exp(-2j * np.pi * np.fft.rfftfreq(2 * sound.shape[-1]))
    spectrum = np.fft.rfft(sound.astype(np.float64), 2 * sound.shape[-1])
    for b, a in (shelf, high):
        spectrum *= (b[0] + b[1] * z + b[2] * z**2) / (1 + a[0] * z + a[1] * z**2)
    weighted = np.fft.irfft(spectrum)[:, : sound.shape[-1]]
    starts = range(0, sound.shape[-1] - 19_200 + 1, 4_800)
    power = np.array([np.mean(weighted[:, s : s + 19_200] ** 2, 1).sum() for s in starts])
    power = power[-0.691 + 10 * np.log10(power + 1e-20) > -70]
    gate = -0.691 + 10 * np.log10(power.mean()) - 10
    return -0.691 + 10 * np.log10(power[-0.691 + 10 * np.log10(power) > gate].mean())


def true_peak_dbtp(sound: NDArray[np.float32], times: int = 8) -> float:
    """By oversampling in the spectrum."""
    size = 2 ** int(np.ceil(np.log2(sound.shape[-1] + 1024)))
    spectrum = np.fft.rfft(np.pad(sound.astype(np.float64), ((0, 0), (512, 512))), size)
    return 20 * np.log10(np.abs(np.fft.irfft(spectrum, size * times) * times).max())


def test_the_meter_of_these_tests_is_right():
    """EBU Tech 3341, case 1: a stereo sine of 1 kHz at -23 dBFS has -23 LUFS."""
    tone = 10 ** (-23 / 20) * np.sin(2 * np.pi * 1000 * np.arange(20 * 48_000) / 48_000)
    assert loudness(np.stack([tone, tone]), 48_000) == pytest.approx(-23, abs=0.02)


RATES = [
    # suffix, what is asked for, rate of the file, what is kept of the length in samples of it
    ("wav", {}, 16_000),
    ("flac", {}, 16_000),
    ("mp4", {}, 48_000),
    ("mov", {}, 48_000),
    ("m4v", {}, 48_000),
    ("mkv", {}, 48_000),
    ("webm", {}, 48_000),
    ("avi", {}, 48_000),
    ("mp4", {"rate_hz": 16_000}, 16_000),
    ("wav", {"rate_hz": 48_000}, 48_000),
    ("wav", {"rate_hz": 192_000}, 192_000),
    ("flac", {"rate_hz": 44_100}, 44_100),
    ("flac", {"rate_hz": 192_000}, 192_000),
    ("aiff", {"rate_hz": 96_000}, 96_000),
    ("mp3", {"rate_hz": 44_100}, 44_100),
    ("opus", {"rate_hz": 48_000}, 48_000),
    ("m4a", {"rate_hz": 96_000}, 96_000),
    ("mov", {"rate_hz": 96_000, "codec": "pcm"}, 96_000),
    ("mkv", {"rate_hz": 192_000, "codec": "pcm"}, 192_000),
    ("avi", {"rate_hz": 96_000}, 96_000),
]


@pytest.mark.parametrize(("suffix", "asked", "rate"), RATES)
def test_the_rate_is_the_one_asked_for_and_the_length_is_exact(tmp_path, suffix, asked, rate):
    codec, b_frames = ("mpeg4", 0) if suffix == "avi" else ("libx264", 2)
    if suffix == "webm":
        codec = "libvpx"
    source = "in.webm" if suffix == "webm" else "in.mp4"
    video = make_video(tmp_path / source, codec=codec, b_frames=b_frames)
    out, audio = tmp_path / f"out.{suffix}", bursts(2.0)
    audio.save(out, video=video, delivery=vab_rt.Delivery(**asked))
    samples, found, first_s = samples_of(out)
    assert (found, first_s) == (48_000 if suffix in ("mkv", "webm", "opus") else rate, 0) or (
        found == rate
    )
    with av.open(str(out)) as container:
        stream = container.streams.audio[0]
        if stream.duration is not None and "mp4" in container.format.name:
            assert stream.duration * stream.time_base == 2
    if suffix in ("wav", "flac", "aiff", "avi", "opus", "mkv", "webm"):
        assert len(samples) == 2 * found
    own = audio.samples
    heard = np.interp(np.arange(len(own)) / RATE, np.arange(len(samples)) / found, samples)
    assert np.corrcoef(heard, own)[0, 1] > 0.97


FORMATS = [
    ("wav", {"bits": "16"}, "pcm_s16le", 1 / 32_768),
    ("wav", {"bits": 24}, "pcm_s24le", 1 / 2**23),
    ("wav", {"bits": "32f"}, "pcm_f32le", 0),
    ("mov", {"codec": "pcm"}, "pcm_s16le", None),
    ("mkv", {"codec": "pcm"}, "pcm_s16le", None),
    ("avi", {"codec": "pcm"}, "pcm_s16le", None),
    ("aac", {}, "aac", None),
    ("mka", {}, "opus", None),
    ("opus", {}, "opus", None),
    ("aiff", {}, "pcm_s16be", 1 / 32_768),
]


@pytest.mark.parametrize(("suffix", "asked", "codec", "off"), FORMATS)
def test_a_file_holds_what_was_asked_for(tmp_path, suffix, asked, codec, off):
    video = make_video(tmp_path / "in.mp4", codec="mpeg4", b_frames=0)
    out, audio = tmp_path / f"out.{suffix}", bursts(2.0)
    audio.save(out, video=video, delivery=vab_rt.Delivery(**asked))
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.name.removeprefix("lib") == codec
    if off is not None:
        np.testing.assert_allclose(samples_of(out)[0], audio.samples, atol=1.01 * off)


def test_aac_alone_is_late_by_no_more_than_its_encoder(tmp_path):
    audio, out = bursts(2.0), tmp_path / "out.aac"
    audio.save(out)
    samples, rate, _ = samples_of(out)
    assert rate == 48_000 and 96_000 <= len(samples) <= 96_000 + 2 * 1024
    assert np.argmax(np.abs(samples) > 0.05) == pytest.approx(1024, abs=96)
    assert np.abs(audio.samples[0]) > 0.01


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp4", "opus"])
def test_two_channels_are_the_same_sound_twice(tmp_path, suffix):
    video = make_video(tmp_path / "in.mp4")
    delivery = vab_rt.Delivery(num_channels=2)
    bursts(2.0).save(tmp_path / f"two.{suffix}", video=video, delivery=delivery)
    bursts(2.0).save(tmp_path / f"one.{suffix}", video=video)
    two, one = (channels_of(tmp_path / f"{name}.{suffix}")[0] for name in ("two", "one"))
    assert two.shape == (2, one.shape[-1])
    np.testing.assert_allclose(two[0], two[1], atol=0.01)
    if suffix in ("wav", "flac"):
        np.testing.assert_array_equal(two[:1], one)


LOUD = [
    ("wav", -23, 1, 0.5),
    ("wav", -23, 2, 0.5),
    ("flac", -16, 2, 0.02),
    ("mp4", -23, 1, 0.5),
    ("mov", -30, 2, 0.002),
]


@pytest.mark.parametrize(("suffix", "lufs", "num_channels", "level"), LOUD)
def test_loudness_is_what_another_meter_reads(tmp_path, suffix, lufs, num_channels, level):
    """Of a length in no whole tenths of a second, as most are."""
    video = make_video(tmp_path / "in.mp4", num_frames=99)
    delivery = vab_rt.Delivery(loudness_lufs=lufs, num_channels=num_channels, rate_hz=48_000)
    out = tmp_path / f"out.{suffix}"
    bursts(3.96, level).save(out, video=video, delivery=delivery)
    sound, rate, _ = channels_of(out)
    assert sound.shape == (num_channels, sound.shape[-1])
    assert loudness(sound, rate) == pytest.approx(lufs, abs=0.3)
    assert true_peak_dbtp(sound) < -1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.mp4", out.name])


def test_loudness_is_one_gain_that_the_writer_tells(tmp_path):
    audio, out = bursts(4.0, 0.1), tmp_path / "out.wav"
    delivery = vab_rt.Delivery(loudness_lufs=-30, bits="32f")
    with AudioWriter(plan_output(out, delivery=delivery), RATE) as writer:
        for piece in np.split(audio.samples, [100, 16_100, 50_000]):
            writer.write(piece)
    assert writer.num_samples == len(audio.samples)
    gain = 10 ** (writer.gain_db / 20)
    assert abs(writer.gain_db) > 1
    np.testing.assert_allclose(samples_of(out)[0], audio.samples * gain, rtol=1e-5, atol=1e-7)


def test_loudness_that_peaks_do_not_allow_is_told(tmp_path):
    with pytest.warns(MediaWarning, match=r"out.wav has -\d+\.\d LUFS and not -6: its peaks"):
        bursts(4.0).save(tmp_path / "out.wav", delivery=vab_rt.Delivery(loudness_lufs=-6))
    sound, *_ = channels_of(tmp_path / "out.wav")
    assert true_peak_dbtp(sound) < -1


@pytest.mark.parametrize(("level", "lufs", "is_told"), [(0.006, -36, True), (0.03, -36, False)])
def test_a_sound_of_noise_alone_that_is_raised_is_told(tmp_path, recwarn, level, lufs, is_told):
    delivery = vab_rt.Delivery(loudness_lufs=lufs)
    bursts(4.0, level).save(tmp_path / "out.wav", delivery=delivery)
    told = [str(one.message) for one in recwarn]
    expected = r"out.wav was all but silent \(-\d\d LUFS\): what is raised is noise"
    assert bool(told) == is_told and all(re.fullmatch(expected, one) for one in told), told


HEADROOM = [
    ("wav", {"rate_hz": 48_000}),
    ("wav", {"rate_hz": 44_100, "num_channels": 2}),
    ("flac", {"rate_hz": 22_050}),
    ("wav", {"rate_hz": 8_000}),
    ("wav", {"gain_db": 20}),
    ("wav", {"gain_db": 6, "rate_hz": 48_000, "fade_s": 0.1}),
    ("mov", {"codec": "pcm"}),
    ("mp4", {}),
]


@pytest.mark.parametrize(("suffix", "asked"), HEADROOM)
def test_resampled_and_raised_sound_has_headroom(tmp_path, suffix, asked):
    random = np.random.default_rng(0)
    audio = Audio(np.clip(random.standard_normal(2 * RATE), -1, 1).astype(np.float32), RATE)
    video = make_video(tmp_path / "in.mp4")
    audio.save(tmp_path / f"out.{suffix}", video=video, delivery=vab_rt.Delivery(**asked))
    sound, *_ = channels_of(tmp_path / f"out.{suffix}")
    assert true_peak_dbtp(sound) < -1
    assert np.abs(sound).max() > 0.4


@pytest.mark.parametrize("rate_hz", [None, 48_000])
def test_fades_reach_from_silence_to_silence(tmp_path, rate_hz):
    audio = Audio(np.full(2 * RATE, 0.25, np.float32), RATE)
    delivery = vab_rt.Delivery(fade_s=0.5, bits="32f", rate_hz=rate_hz)
    audio.save(tmp_path / "out.wav", delivery=delivery)
    samples, rate, _ = samples_of(tmp_path / "out.wav")
    time = (np.arange(len(samples)) + 0.5) / rate
    expected = 0.25 * np.clip(np.minimum(time, 2 - time) / 0.5, 0, 1)
    np.testing.assert_allclose(samples, expected, atol=0.02)
    assert np.abs(samples[[0, -1]]).max() < 1e-3


def test_a_fade_longer_than_the_sound_leaves_its_length(tmp_path):
    delivery = vab_rt.Delivery(fade_s=60)
    with AudioWriter(plan_output(tmp_path / "out.wav", delivery=delivery), RATE) as writer:
        for piece in np.split(bursts(3.0).samples, [10, 20_000]):
            writer.write(piece)
    assert len(samples_of(tmp_path / "out.wav")[0]) == 3 * RATE


def test_pieces_are_delivered_as_the_whole_would_be(tmp_path):
    audio = bursts(5.0, 2.0)
    delivery = vab_rt.Delivery(rate_hz=48_000, loudness_lufs=-20, fade_s=0.7, bits="32f")
    audio.save(tmp_path / "whole.wav", delivery=delivery)
    with AudioWriter(plan_output(tmp_path / "pieces.wav", delivery=delivery), RATE) as writer:
        for piece in np.split(audio.samples, [1, 900, 33_333, 70_000]):
            writer.write(piece)
    whole, pieces = (samples_of(tmp_path / f"{name}.wav")[0] for name in ("whole", "pieces"))
    np.testing.assert_allclose(pieces, whole, atol=1e-5)


def test_the_default_of_wav_is_16_bits_as_python_reads_them(tmp_path):
    bursts(1.0).save(tmp_path / "out.wav", delivery=vab_rt.Delivery())
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert file.getparams()[:4] == (1, 2, RATE, RATE)


REFUSED = [
    ("wav", {"rate_hz": 100}, OptionError, "rate is 100, expected 8000 to 192000"),
    ("wav", {"rate_hz": 48_000.5}, OptionError, "rate is 48000.5, expected a whole number"),
    ("wav", {"num_channels": 3}, OptionError, "channels is 3, expected 1, or 2 for the same"),
    ("wav", {"bits": "20"}, OptionError, "bits is '20', expected 16 or 24 or 32f"),
    ("flac", {"bits": "24"}, OptionError, r"bits is 24, which \.flac does not have, .*\.wav alone"),
    ("mp4", {"codec": "pcm"}, OptionError, r"codec is pcm, which \.mp4 does not have.*\.mov or"),
    ("mov", {"codec": "opus"}, OptionError, "codec is 'opus', expected pcm"),
    ("wav", {"loudness_lufs": 3}, OptionError, "loudness is 3, expected -50 to -5 LUFS"),
    ("wav", {"loudness_lufs": float("nan")}, OptionError, "loudness is nan, expected"),
    ("wav", {"fade_s": -1}, OptionError, "fade is -1, expected 0 to 60 s"),
    ("wav", {"fade_s": None}, OptionError, "fade is None, expected a number, 0 to 60 s"),
    ("wav", {"gain_db": "loud"}, OptionError, "gain is 'loud', expected a number"),
    ("wav", {"mix": "both"}, OptionError, "mix is 'both', expected replace or keep or duck"),
    ("webm", {"rate_hz": 44_100}, OptionError, r"rate is 44100 Hz, which libopus in \.webm cannot"),
    ("mp3", {"rate_hz": 96_000}, OptionError, r"rate is 96000 Hz, which libmp3lame in \.mp3"),
    ("mp4", {"rate_hz": 192_000}, OptionError, r"aac in \.mp4 cannot hold, expected one of 7350,"),
]


@pytest.mark.parametrize(("suffix", "asked", "error", "message"), REFUSED)
def test_what_a_file_cannot_hold_is_refused_before_any_work(
    tmp_path, suffix, asked, error, message
):
    video = make_video(tmp_path / "in.mp4")
    with pytest.raises(error, match=message) as caught:
        plan_output(tmp_path / f"out.{suffix}", video=video, delivery=vab_rt.Delivery(**asked))
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.parametrize(("seconds", "level"), [(2.0, 0.0), (0.2, 0.5)])
def test_silence_has_no_loudness(tmp_path, seconds, level):
    with pytest.raises(OptionError, match="loudness is -23 LUFS, but the sound is silent, or sho"):
        bursts(seconds, level).save(
            tmp_path / "out.wav", delivery=vab_rt.Delivery(loudness_lufs=-23)
        )
    assert list(tmp_path.iterdir()) == []


def test_frames_out_of_order_are_refused_in_avi(tmp_path):
    video = make_video(tmp_path / "in.mp4", b_frames=2)
    with pytest.raises(
        OutputError, match=r"which \.avi cannot .* or a video of upright mpeg4 without B-f"
    ):
        bursts(2.0).save(tmp_path / "out.avi", video=video)
