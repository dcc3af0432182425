"""A video's own sound beside ours: both are heard, in time to the sample, and nothing is lost."""

import tracemalloc
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from command import Result
from media import channels_of, make_picture, make_video, samples_of
from numpy.typing import NDArray

import vab_rt
from vab_rt.audio import Audio
from vab_rt.audio_file import AudioWriter, plan_output
from vab_rt.errors import MediaError, MediaWarning, OptionError

RATE, FILE_RATE = 16_000, 48_000
Sound = NDArray[np.float32]


def noise(seed: int, seconds: float, num_channels: int = 1, rate: int = FILE_RATE) -> Sound:
    """[C, S] of frequencies that all rates here have."""
    random = np.random.default_rng(seed)
    spectrum = np.fft.rfft(random.standard_normal((num_channels, round(seconds * rate))))
    spectrum[:, np.fft.rfftfreq(round(seconds * rate), 1 / rate) > 6000] = 0
    sound = np.fft.irfft(spectrum, round(seconds * rate))
    return (0.1 * sound / sound.std()).astype(np.float32)


def with_sound(
    path: Path,
    sound: Sound,
    rate: int = FILE_RATE,
    *,
    seconds: float = 2.0,
    codec: str = "pcm_s16le",
    late_s: float = 0.0,
    first_s: int = 0,
) -> Path:
    """A video with this sound [C, S], which begins `late_s` after the first frame."""
    plain = make_video(path.with_name("plain.mp4"), num_frames=round(seconds * 25))
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        pictures = out.add_stream_from_template(source.streams.video[0], opaque=True)
        layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(sound)]
        track = out.add_stream(codec, rate=rate, layout=layout)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = pictures
                shift = round(first_s / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                out.mux(packet)
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = round((first_s + late_s) * rate)
        out.mux(track.encode(frame))
        out.mux(track.encode(None))
    return path


def heard(path: Path) -> Sound:
    """[C, S]"""
    sound, rate_hz, _ = channels_of(path)
    assert rate_hz == FILE_RATE
    return sound


def share_of(part: Sound, whole: Sound) -> tuple[float, int]:
    """How loud a sound [S] is in another, 1: as it was; and how many samples later."""
    num = len(part) + len(whole)
    crossed = np.fft.irfft(np.fft.rfft(whole, num) * np.conj(np.fft.rfft(part, num)), num)
    at = int(np.argmax(np.abs(crossed)))
    return crossed[at] / np.sum(part.astype(np.float64) ** 2), at if at < num / 2 else at - num


def ours_at(rate: int, ours: Audio) -> Sound:
    """Our sound [S] at another rate, by way of its spectrum."""
    num = round(len(ours.samples) * rate / RATE)
    spectrum = np.zeros(num // 2 + 1, complex)
    own = np.fft.rfft(ours.samples)
    spectrum[: len(own)] = own[: len(spectrum)]
    return (np.fft.irfft(spectrum, num) * rate / RATE).astype(np.float32)


KEPT = [
    # container, codec, rate and channels of its sound, start, how late it begins, output
    ("in.mov", "pcm_s16le", 48_000, 1, 0.0, 0.0, "wav"),
    ("in.mov", "pcm_s16le", 44_100, 2, 0.0, 0.0, "flac"),
    ("in.mov", "pcm_s16le", 48_000, 2, 0.73, 0.0, "wav"),
    ("in.mov", "pcm_s16le", 48_000, 1, 0.0, 0.4, "wav"),
    ("in.mp4", "aac", 48_000, 2, 0.0, 0.0, "mp4"),
    ("in.mp4", "aac", 44_100, 1, 0.5, 0.0, "mp4"),
    ("in.mkv", "flac", 48_000, 2, 0.48, 0.0, "mkv"),
    ("in.mkv", "libopus", 48_000, 1, 0.0, 0.0, "flac"),
    ("in.mp4", "libmp3lame", 48_000, 1, 0.9, 0.0, "wav"),
]


@pytest.mark.parametrize(("name", "codec", "rate", "channels", "start", "late", "suffix"), KEPT)
def test_both_sounds_are_there_in_time(tmp_path, name, codec, rate, channels, start, late, suffix):
    theirs = noise(1, 2.0 - late, channels, rate)
    video = with_sound(tmp_path / name, theirs, rate, codec=codec, late_s=late)
    length = 2.0 - start
    ours = Audio(noise(2, length, rate=RATE)[0], RATE)
    part = vab_rt.Video(video, start)
    out = tmp_path / f"out.{suffix}"
    delivery = vab_rt.Delivery(mix="keep", rate_hz=FILE_RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is dropped
        ours.save(out, video=part, delivery=delivery)
    mixed = heard(out)
    assert len(mixed) == channels
    padding = 1024 if suffix == "mp4" else 0
    assert 0 <= mixed.shape[-1] - round(length * FILE_RATE) <= padding
    lossy = suffix == "mp4" or codec not in ("pcm_s16le", "flac")
    own = ours_at(FILE_RATE, ours)
    for channel, source in zip(mixed, theirs, strict=True):
        gain, at = share_of(own, channel)
        assert gain == pytest.approx(1, abs=0.05) and abs(at) <= 1
        begun = source[round(start * rate) :]
        gain, at = share_of(theirs_at_file_rate(begun, rate), channel)
        assert gain == pytest.approx(1, abs=0.1 if lossy else 0.05)
        assert abs(at - round(late * FILE_RATE)) <= 1


def theirs_at_file_rate(sound: Sound, rate: int) -> Sound:
    """[S] at the files' rate."""
    if rate == FILE_RATE:
        return sound
    time = np.arange(round(len(sound) * FILE_RATE / rate)) * rate / FILE_RATE
    spectrum = np.fft.rfft(sound)
    num = len(time)
    wide = np.zeros(num // 2 + 1, complex)
    wide[: len(spectrum)] = spectrum[: len(wide)]
    return (np.fft.irfft(wide, num) * num / len(sound)).astype(np.float32)


@pytest.mark.parametrize(("gain_db", "expected"), [(-20, 0.1), (6.0206, 2.0)])
def test_the_gain_is_that_of_our_sound(tmp_path, gain_db, expected):
    theirs = noise(1, 2.0)
    video = with_sound(tmp_path / "in.mov", theirs)
    ours = Audio(noise(2, 2.0, rate=RATE)[0] / 2, RATE)
    delivery = vab_rt.Delivery(mix="keep", gain_db=gain_db, rate_hz=FILE_RATE, bits="32f")
    ours.save(tmp_path / "out.wav", video=video, delivery=delivery)
    mixed = heard(tmp_path / "out.wav")[0]
    assert share_of(ours_at(FILE_RATE, ours), mixed)[0] == pytest.approx(expected, rel=0.03)
    assert share_of(theirs[0], mixed)[0] == pytest.approx(1, abs=0.02)


def test_duck_lowers_the_old_sound_while_ours_sounds(tmp_path):
    theirs = noise(1, 6.0)
    video = with_sound(tmp_path / "in.mov", theirs, seconds=6.0)
    samples = 2 * noise(2, 6.0, rate=RATE)[0]
    samples[: 2 * RATE] = samples[4 * RATE :] = 0
    ours = Audio(samples, RATE)
    levels = {}
    for mix in ("keep", "duck"):
        out = tmp_path / f"{mix}.wav"
        ours.save(out, video=video, delivery=vab_rt.Delivery(mix=mix, rate_hz=FILE_RATE))
        mixed = heard(out)[0]
        assert len(mixed) == 6 * FILE_RATE
        spans = [(0.5, 1.9), (2.3, 3.9), (5.0, 6.0)]
        pieces = [slice(round(a * FILE_RATE), round(b * FILE_RATE)) for a, b in spans]
        levels[mix] = [share_of(theirs[0][piece], mixed[piece])[0] for piece in pieces]
        middle = slice(round(2.3 * FILE_RATE), round(3.9 * FILE_RATE))
        gain, at = share_of(ours_at(FILE_RATE, ours)[middle], mixed[middle])
        assert gain == pytest.approx(1, abs=0.05) and at == 0
    assert levels["keep"] == pytest.approx([1, 1, 1], abs=0.03)
    before, during, after = levels["duck"]
    assert before == pytest.approx(1, abs=0.03) and after == pytest.approx(1, abs=0.05)
    assert 0.1 < during < 0.5


@pytest.mark.parametrize(
    ("channels", "asked", "expected"),
    [(1, None, 1), (2, None, 2), (6, None, 2), (2, 1, 1), (1, 2, 2)],
)
def test_channels_are_those_of_the_video_at_most_two(tmp_path, channels, asked, expected):
    video = with_sound(tmp_path / "in.mov", noise(1, 2.0, channels))
    delivery = vab_rt.Delivery(mix="keep", num_channels=asked, rate_hz=FILE_RATE)
    Audio(noise(2, 2.0, rate=RATE)[0], RATE).save(
        tmp_path / "out.wav", video=video, delivery=delivery
    )
    mixed = heard(tmp_path / "out.wav")
    assert mixed.shape == (expected, 2 * FILE_RATE)
    if expected == 2 and channels > 1:
        assert np.corrcoef(mixed)[0, 1] < 0.8
    if channels == 2 and asked == 1:
        assert share_of(noise(1, 2.0, 2).mean(0), mixed[0])[0] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("theirs_s", [0.5, 4.0])
def test_the_result_is_as_long_as_the_video(tmp_path, theirs_s):
    theirs = noise(1, theirs_s)
    video = with_sound(tmp_path / "in.mov", theirs)
    ours = Audio(noise(2, 2.0, rate=RATE)[0], RATE)
    delivery = vab_rt.Delivery(mix="keep", rate_hz=FILE_RATE)
    ours.save(tmp_path / "out.wav", video=video, delivery=delivery)
    mixed = heard(tmp_path / "out.wav")[0]
    assert len(mixed) == 2 * FILE_RATE
    both = min(2.0, theirs_s)
    assert share_of(theirs[0][: round(both * FILE_RATE)], mixed)[0] == pytest.approx(1, abs=0.05)
    rest = mixed[round(both * FILE_RATE) :] - ours_at(FILE_RATE, ours)[round(both * FILE_RATE) :]
    assert np.abs(rest[:-100]).max(initial=0) < 0.02


def test_loud_sounds_together_have_headroom_and_a_loudness(tmp_path):
    video = with_sound(tmp_path / "in.mov", 8 * noise(1, 2.0, 2))
    ours = Audio(8 * noise(2, 2.0, rate=RATE)[0], RATE)
    for name, more in (("a", {}), ("b", {"loudness_lufs": -23.0, "fade_s": 0.2})):
        delivery = vab_rt.Delivery(mix="keep", rate_hz=FILE_RATE, **more)
        ours.save(tmp_path / f"{name}.wav", video=video, delivery=delivery)
        mixed = heard(tmp_path / f"{name}.wav")
        assert np.abs(mixed).max() < 10 ** (-1 / 20)
    assert np.abs(mixed).max() < 0.3


def test_a_minute_is_mixed_in_little_memory(tmp_path):
    """Beside a minute of a film; ours comes in windows."""
    theirs = noise(1, 60.0, 2)
    video = with_sound(tmp_path / "in.mp4", theirs, codec="aac", seconds=60.0)
    delivery = vab_rt.Delivery(mix="duck", loudness_lufs=-23)
    plan = plan_output(tmp_path / "out.mp4", video=video, delivery=delivery)
    ours = noise(2, 60.0, rate=RATE)[0]
    with AudioWriter(plan, RATE) as writer:
        tracemalloc.start()
        for piece in np.split(ours, 8):
            writer.write(piece)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 0.5 * theirs.nbytes
    mixed = heard(tmp_path / "out.mp4")
    assert mixed.shape[-1] == pytest.approx(60 * FILE_RATE, abs=1024)
    late = slice(50 * FILE_RATE, 58 * FILE_RATE)
    for part in (theirs[0], ours_at(FILE_RATE, Audio(ours, RATE))):
        gain, at = share_of(part[late], mixed[0][late])
        assert gain > 0.05 and abs(at) <= 1


def test_what_is_not_mixed_is_told(tmp_path):
    video = with_sound(tmp_path / "in.mov", noise(1, 2.0))
    ours = Audio(noise(2, 2.0, rate=RATE)[0], RATE)
    with pytest.warns(MediaWarning, match="left out: 1 sound track") as caught:
        ours.save(tmp_path / "out.mov", video=video)
    assert len(caught) == 1


def test_of_several_sound_tracks_the_first_is_mixed(tmp_path):
    """Also where both are marked to be played, as mp4 and mov have it, and the other has more."""
    first, other = noise(1, 2.0), noise(2, 2.0, 2)
    plain = make_video(tmp_path / "plain.mp4")
    with av.open(str(plain)) as source, av.open(str(tmp_path / "in.mov"), "w") as out:
        pictures = out.add_stream_from_template(source.streams.video[0], opaque=True)
        tracks = [
            out.add_stream("pcm_s16le", rate=FILE_RATE, layout=layout)
            for layout in ("mono", "stereo")
        ]
        for track in tracks:
            track.disposition = Disposition.default
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = pictures
                out.mux(packet)
        for track, sound in zip(tracks, (first, other), strict=True):
            frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=track.layout.name)
            frame.sample_rate, frame.pts = FILE_RATE, 0
            out.mux(track.encode(frame))
            out.mux(track.encode(None))
    delivery = vab_rt.Delivery(mix="keep", rate_hz=FILE_RATE)
    silence = Audio(np.zeros(2 * RATE, np.float32), RATE)
    silence.save(tmp_path / "out.wav", video=tmp_path / "in.mov", delivery=delivery)
    mixed = heard(tmp_path / "out.wav")
    assert len(mixed) == 1 and share_of(first[0], mixed[0])[0] == pytest.approx(1, abs=0.05)


def test_mixing_needs_a_video_with_sound(tmp_path):
    ours = Audio(noise(2, 2.0, rate=RATE)[0], RATE)
    silent, still = make_video(tmp_path / "in.mp4"), make_picture(tmp_path / "in.png")
    for video, message in (
        (silent, r"in\.mp4 has no sound, expected some to mix with; leave --mix out"),
        (still, r"in\.png has no sound"),
        (None, "mix is keep, but no video is there"),
    ):
        with pytest.raises(OptionError, match=message):
            ours.save(tmp_path / "out.wav", video=video, delivery=vab_rt.Delivery(mix="keep"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "in.png"]


@pytest.mark.parametrize("damage", ["another codec", "zeros"])
def test_sound_that_cannot_be_read_is_refused_in_one_line(tmp_path, damage):
    video = with_sound(tmp_path / "in.mov", noise(1, 2.0), codec="aac")
    data = bytearray(video.read_bytes())
    with av.open(str(video)) as container:
        packets = [(p.pos, p.size) for p in container.demux(audio=0) if p.size]
    if damage == "zeros":
        for at, size in packets:
            data[at : at + size] = bytes(size)
    else:
        data = data.replace(b"mp4a", b"xxxx").replace(b"esds", b"xxxx")
    video.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MediaError, match=r"the sound of .*in\.mov cannot be read \(") as caught:
            plan_output(tmp_path / "o.wav", video=video, delivery=vab_rt.Delivery(mix="duck"))
    assert "\n" not in str(caught.value)


def test_a_clock_that_starts_again_goes_on(tmp_path):
    theirs = noise(1, 2.0)
    part = with_sound(tmp_path / "part.ts", theirs, codec="aac", first_s=3)
    video = tmp_path / "in.ts"
    video.write_bytes(2 * part.read_bytes())
    ours = Audio(noise(2, 3.0, rate=RATE)[0], RATE)
    delivery = vab_rt.Delivery(mix="keep", rate_hz=FILE_RATE)
    ours.save(tmp_path / "out.wav", video=vab_rt.Video(video, 0.5, 3.0), delivery=delivery)
    mixed = heard(tmp_path / "out.wav")[0]
    first, second = round(1.5 * FILE_RATE), 3 * FILE_RATE
    for own, piece in (
        (theirs[0][-first:], mixed[:first]),
        (theirs[0][:first], mixed[first:second]),
    ):
        gain, at = share_of(own, piece)
        assert gain == pytest.approx(1, abs=0.1) and abs(at) < 0.05 * FILE_RATE


COMMANDS = [
    (["--mix", "keep"], "has no sound, expected some to mix with"),
    (["--mix", "both"], "mix is 'both', expected replace or keep or duck"),
    (["--rate", "44100"], r"rate is 44100 Hz, which libopus in .webm cannot hold, expected one of"),
    (["--bits", "24"], "bits is 24, which .webm does not have"),
    (["--loudness", "3"], "loudness is 3.0, expected -50 to -5 LUFS"),
    (["--channels", "6"], "channels is 6, expected 1, or 2"),
]


@pytest.mark.parametrize(("more", "message"), COMMANDS)
def test_the_command_refuses_in_one_line(run, tiny_bundle, tmp_path, more, message):
    video = make_video(tmp_path / "in.webm", codec="libvpx", num_frames=10)
    result = run("generate", video, tmp_path / "out.webm", "--model", tiny_bundle, *more)
    assert (result.code, result.out) == (1, "")
    assert message in result.err and result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.webm"]


def test_the_command_mixes_and_delivers(run, tiny_bundle, tmp_path):
    video, out = with_sound(tmp_path / "in.mov", noise(1, 2.0, 2)), tmp_path / "out.mov"
    more = ("--mix", "duck", "--gain-db", -6, "--codec", "pcm", "--loudness", -23, "--fade", 0.1)
    result = run("generate", video, out, "--model", tiny_bundle, *more)
    assert isinstance(result, Result) and (result.code, result.err) == (0, "")
    assert heard(out).shape == (2, 2 * FILE_RATE)
    _, rate, first_s = samples_of(out)
    assert (rate, first_s) == (FILE_RATE, 0)
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.name == "pcm_s16le"
    with pytest.raises(MediaError, match=r"2 different channels.* generate it without the mix"):
        Audio.load(out)
