"""A part of a sound made anew, and sounds that go on: what stays, what changes, what is refused."""

import json
import shutil
import warnings
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
from media import make_video

import vab_rt
from vab_rt.audio import Audio
from vab_rt.errors import MediaError, MediaWarning, OptionError, OutputError
from vab_rt.loudness import true_peaks
from vab_rt.take import Take, packets_sha256, path_of, read_take

EXAMPLES = Path(__file__).parents[2] / "examples"
HAMMER, WAVES = EXAMPLES / "hammer.mp4", EXAMPLES / "waves.mp4"
RATE, HOP = 16_000, 320


@pytest.fixture(scope="module")
def shipped() -> vab_rt.Pipeline:
    return vab_rt.load(threads=1)


@pytest.fixture(scope="module")
def takes(shipped, tmp_path_factory) -> dict[Path, Audio]:
    """The sounds of two clips, as the runtime gives them."""
    return {clip: shipped.generate(clip, seed=7) for clip in (HAMMER, WAVES)}


@pytest.fixture(scope="module")
def minute(tmp_path_factory) -> Path:
    """Sixty seconds of something that moves now and then."""

    def picture(number: int) -> np.ndarray:
        image = np.full((48, 64, 3), 60, np.uint8)
        row = 4 + abs(number % 40 - 20)
        image[row : row + 12, 20:40] = 220
        return image

    path = tmp_path_factory.mktemp("minute") / "minute.mp4"
    return make_video(path, num_frames=1500, picture=picture)


@pytest.fixture(scope="module")
def long_take(shipped, minute) -> Audio:
    return shipped.generate(minute, seed=1)


def changed(first: Audio, second: Audio) -> tuple[float, float]:
    """Between which seconds two sounds differ."""
    assert len(first.samples) == len(second.samples)
    places = np.flatnonzero(first.samples != second.samples)
    return places[0] / first.sample_rate_hz, (places[-1] + 1) / first.sample_rate_hz


def level_db(samples: np.ndarray) -> float:
    return 20 * float(np.log10(np.sqrt(np.mean(samples.astype(float) ** 2)) + 1e-9))


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp4", ".ogg"])
def test_the_command_changes_the_part_alone(run, takes, suffix, tmp_path):
    old, new = tmp_path / f"old{suffix}", tmp_path / f"new{suffix}"
    takes[HAMMER].save(old, video=HAMMER)
    told = run("regenerate", HAMMER, old, new, "--from", 3, "--to", 5, "--json")
    assert told.code == 0, told.err
    report = json.loads(told.out)
    assert (report["seed"], report["start_s"], report["end_s"]) == (8, 3.0, 5.0)
    before, after = Audio.load(old), Audio.load(new)
    if suffix in (".wav", ".flac"):
        begin, end = changed(before, after)
        assert 3 - HOP / RATE <= begin < 3.2 and 4.8 < end <= 5 + HOP / RATE
    assert after.duration_s == pytest.approx(before.duration_s, abs=0.001)
    tokens = before.take.tokens != after.take.tokens
    assert tokens[:, 150:250].mean() > 0.3 and not tokens[:, :150].any()
    assert not tokens[:, 250:].any()
    if suffix == ".mp4":
        with av.open(str(new)) as written, av.open(str(HAMMER)) as source:
            assert [bytes(p) for p in written.demux(video=0)] == [
                bytes(p) for p in source.demux(video=0)
            ]


@pytest.mark.parametrize("suffix", [".aac", ".m4a", ".mp3"])
def test_a_sound_of_ours_is_read_from_its_beginning_to_its_end(takes, suffix, tmp_path):
    """Also where the file cannot tell of its encoder's delay, which its take makes certain."""
    made, path = takes[HAMMER], tmp_path / f"made{suffix}"
    made.save(path)
    found = Audio.load(path)
    assert found.duration_s == pytest.approx(made.duration_s, abs=1e-3)
    samples = found.samples[:: found.sample_rate_hz // RATE][: len(made.samples)]
    assert np.corrcoef(samples, made.samples[: len(samples)])[0, 1] > 0.98


@pytest.mark.parametrize("bits", ["24", "32f"])
def test_what_was_delivered_otherwise_stays_bit_for_bit(run, tmp_path, bits):
    """At the rate, loudness, channels and bits that the sound has."""
    old, new = tmp_path / "old.wav", tmp_path / "new.wav"
    words = ("--rate", 48_000, "--channels", 2, "--bits", bits, "--loudness", -20)
    assert run("generate", WAVES, old, *words).code == 0
    assert run("regenerate", WAVES, old, new, "--from", 3, "--to", 5).code == 0
    before, after = (raw_samples(path) for path in (old, new))
    assert before.shape == after.shape == (480_000, 2) and before.dtype == after.dtype
    kept = np.ones(480_000, bool)
    kept[round(2.98 * 48_000) : round(5.02 * 48_000)] = False
    assert (before[kept] == after[kept]).all() and (before[~kept] != after[~kept]).mean() > 0.9
    part = slice(3 * 48_000, 5 * 48_000)
    assert abs(level_db(after[part]) - level_db(before[part])) < 6
    take = Audio.load(new).take
    assert take.gain_db == Audio.load(old).take.gain_db != 0


def test_a_part_of_a_loud_sound_has_headroom(run, tmp_path):
    old, new = tmp_path / "old.wav", tmp_path / "new.wav"
    assert run("generate", HAMMER, old, "--loudness", -8).code == 0
    assert run("regenerate", HAMMER, old, new, "--from", 1, "--to", 9).code == 0
    assert true_peaks(Audio.load(new).samples).max() < 10 ** (-1 / 20)


def test_an_end_made_anew_fades_as_the_old_did(run, tmp_path):
    old, new = tmp_path / "old.wav", tmp_path / "new.wav"
    assert run("generate", WAVES, old, "--fade", 1).code == 0
    assert run("regenerate", WAVES, old, new, "--from", 8).code == 0
    sound = Audio.load(new)
    last = [level_db(sound.samples[at : at + 1600]) for at in (136_000, 158_400)]
    assert last[1] < last[0] - 15 and sound.take.fade_s == 1.0
    assert run("regenerate", WAVES, new, new, "--from", 8, "--no-take", "--force").code == 0
    assert not path_of(new).exists()


def raw_samples(path: Path) -> np.ndarray:
    """[S, channels] as they are stored."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    return np.concatenate(frames, 1).reshape(-1, 2)


def test_the_same_seed_gives_the_same_part(shipped, takes):
    old = takes[HAMMER]
    again = [shipped.regenerate(HAMMER, old, 2, 4, seed=seed) for seed in (3, 3, 4)]
    assert again[0] == again[1] and again[0] != again[2]
    assert again[0].seed == again[0].take.seed == 3


def test_seams_are_not_heard(shipped, takes):
    """Of a sound that goes on: neither a step in level nor one between samples stands out."""
    old = takes[WAVES]
    new = shipped.regenerate(WAVES, old, 3, 6, seed=2)
    half = RATE // 10

    def step_db(samples: np.ndarray, at: int) -> float:
        return abs(level_db(samples[at - half : at]) - level_db(samples[at : at + half]))

    elsewhere = [step_db(old.samples, at) for at in range(RATE, 9 * RATE, half)]
    for at in (3 * RATE, 6 * RATE):
        assert step_db(new.samples, at) < np.max(elsewhere) + 1
        around = np.abs(np.diff(new.samples[at - HOP : at + HOP])).max()
        assert around <= np.abs(np.diff(old.samples)).max()


def test_a_part_of_a_long_video_takes_one_window(shipped, minute, long_take, tmp_path):
    long_take.save(tmp_path / "long.wav")
    old = Audio.load(tmp_path / "long.wav")
    for start_s, end_s in ((6, 8), (0, 2), (58, 60), (33.3, 35.1)):
        steps = list(shipped.regenerate_steps(minute, old, start_s, end_s, seed=2))
        assert {step.window for step in steps} == {0} and steps[-1].num_windows == 1
        begin, end = changed(old, Audio(steps[-1].audio, RATE))
        assert start_s - 0.02 <= begin and end <= end_s + 0.02
        tokens = np.flatnonzero((steps[-1].take.tokens != old.take.tokens).any(0))
        assert start_s * 50 - 1 <= tokens[0] and tokens[-1] <= end_s * 50


def test_a_long_part_takes_as_many_windows_as_it_needs(shipped, minute, long_take):
    old = long_take
    steps = list(shipped.regenerate_steps(minute, old, 20, 40, seed=2))
    assert steps[-1].window == 2
    begin, end = changed(old, Audio(steps[-1].audio, RATE))
    assert 20 <= begin < 21 and 39 < end <= 40
    again = shipped.regenerate(minute, Audio(steps[-1].audio, RATE, take=steps[-1].take), 50, 52)
    assert changed(Audio(steps[-1].audio, RATE), again)[0] >= 50


def test_a_part_of_a_part(shipped, run, tmp_path):
    """A sound knows which part of the video it is of, and what the model saw around it."""
    assert run("generate", HAMMER, tmp_path / "a.wav", "--start", 1, "--duration", 2.5).code == 0
    old = Audio.load(tmp_path / "a.wav")
    assert (old.take.start_s, old.take.duration_s, old.take.lead_samples) == (1, 2.5, 12_000)
    new = shipped.regenerate(HAMMER, old, 1, 2, seed=5)
    begin, end = changed(old, new)
    assert 0.98 <= begin and end <= 2.02 and len(new.samples) == 40_000
    with pytest.raises(OptionError, match="expected 1 s for 2.5 s as the sound was made"):
        shipped.regenerate(vab_rt.Video(HAMMER, 2, 2.5), old, 1, 2)


def test_a_sound_of_elsewhere_is_heard_first(shipped, takes):
    old = Audio(takes[WAVES].samples.astype(float), RATE)
    new = shipped.regenerate(WAVES, old, 4, 6, seed=1)
    begin, end = changed(old, new)
    assert 3.98 <= begin and end <= 6.02
    assert abs(level_db(new.samples[64_000:96_000]) - level_db(old.samples[64_000:96_000])) < 6


def test_tokens_are_kept_of_all_of_a_sound_or_of_none(shipped, minute, long_take):
    """Of a sound of elsewhere the model hears only what is around the part."""
    given = Audio(long_take.samples, RATE)
    assert shipped.regenerate(minute, given, 1, 2).take is None
    begin = Audio(given.samples[: 20 * RATE], RATE)
    assert shipped.continue_sound(minute, begin).take is None


@pytest.mark.parametrize("rate_hz", [RATE, 48_000])
def test_a_sound_goes_on(shipped, takes, rate_hz, run, tmp_path):
    given = Audio(np.repeat(takes[WAVES].samples[:48_000], rate_hz // RATE), rate_hz)
    given.save(tmp_path / "given.wav")
    told = run("generate", WAVES, tmp_path / "out.wav", "--continue", tmp_path / "given.wav")
    assert told.code == 0, told.err
    given, out = Audio.load(tmp_path / "given.wav"), Audio.load(tmp_path / "out.wav")
    assert out.sample_rate_hz == rate_hz and out.duration_s == 10
    kept = round(2.96 * rate_hz)
    assert (out.samples[:kept] == given.samples[:kept]).all()
    rest = out.samples[len(given.samples) :]
    assert abs(level_db(rest) - level_db(given.samples)) < 10


def test_what_goes_on_from_another_beginning_is_told(shipped, recwarn):
    begin, middle = (shipped.generate(vab_rt.Video(HAMMER, at, 2), steps=1) for at in (0, 4))
    with pytest.raises(MediaError, match="missing.mp4 does not exist"):
        shipped.continue_sound("missing.mp4", begin)
    shipped.continue_steps(HAMMER, begin)
    shipped.continue_steps(vab_rt.Video(HAMMER, 4), middle)
    assert not recwarn.list
    with pytest.warns(
        MediaWarning, match=r"made for hammer.mp4 from 0 s on, .* of .*waves.mp4 from"
    ):
        shipped.continue_steps(WAVES, begin)
    with pytest.warns(MediaWarning, match=r"from 4 s on, .* the beginning of .*mp4 from 0 s on"):
        shipped.continue_steps(HAMMER, middle)


def test_one_token_is_long_enough(shipped, takes):
    old = takes[HAMMER]
    new = shipped.regenerate(HAMMER, old, 9.98, 10)  # whose difference is less than 0.02
    assert (new.samples[:159_360] == old.samples[:159_360]).all()


def test_a_sound_that_is_none(tmp_path):
    with pytest.raises(MediaError, match="none.wav does not exist, expected a sound file"):
        Audio.load(tmp_path / "none.wav")
    with av.open(str(tmp_path / "nan.wav"), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.full((1, 99), np.nan, np.float32), "flt", "mono")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(MediaError, match="nan.wav has samples that are NaN"):
        Audio.load(tmp_path / "nan.wav")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (("--from", 5, "--to", 3), "the part is from 5 to 3 s, expected its beginning before"),
        (("--from", 3, "--to", 3.01), "expected at least 0.02 s"),
        (("--from", 9, "--to", 11), "the part's end is 11.0, expected 0 to 10 s"),
        (("--from", -1, "--to", 2), "the part's start is -1.0, expected 0 to 10 s"),
        (("--from", "nan"), "the part's start is nan"),
        (("--model", "real"), "tokens of the model vab-tiny, expected those of vab-real"),
    ],
)
def test_what_is_no_part(run, takes, part, message, tmp_path):
    takes[HAMMER].save(tmp_path / "old.wav")
    told = run("regenerate", HAMMER, tmp_path / "old.wav", tmp_path / "new.wav", *part)
    assert told.code == 1 and message in told.err and told.err.count("\n") == 1
    assert not (tmp_path / "new.wav").exists()


def test_the_length_that_is_told_may_be_asked_for(shipped, takes, run, tmp_path):
    old = Audio(takes[HAMMER].samples[:-1], RATE)  # 9.9999 s: 10 to the millisecond
    for told_s in (10, 10.004):  # the page of the server tells hundredths
        assert shipped.regenerate(HAMMER, old, 9, told_s).duration_s == old.duration_s
    with pytest.raises(OptionError, match=r"end is 10\.1, expected 0 to 10 s"):
        shipped.regenerate(HAMMER, old, 9, 10.1)
    old.save(tmp_path / "old.wav")
    words = (HAMMER, tmp_path / "old.wav", tmp_path / "new.wav", "--from", 9, "--to", 10.004)
    told = run("regenerate", *words, "--json")
    assert json.loads(told.out)["end_s"] == old.duration_s


def test_sounds_that_do_not_fit(shipped, takes, minute, pipeline, tmp_path):
    old = takes[HAMMER]
    with pytest.raises(OptionError, match="of a video of 10 s, expected the 60 s"):
        shipped.regenerate(minute, old, 1, 2)
    with pytest.raises(OptionError, match="of a video of 10 s, expected the 60 s"):
        shipped.regenerate(minute, Audio(old.samples, RATE), 1, 2)
    with pytest.raises(OptionError, match=r"was made for hammer.mp4, expected one of .*waves.mp4"):
        shipped.regenerate(WAVES, old, 1, 2)
    renamed = tmp_path / "renamed.mp4"
    shutil.copy(HAMMER, renamed)
    assert shipped.regenerate(renamed, old, 1, 2).duration_s == 10
    with pytest.raises(OptionError, match="expected less than the 10 s"):
        shipped.continue_sound(HAMMER, old)
    with pytest.raises(OptionError, match="expected at least 0.04 s"):
        shipped.continue_sound(HAMMER, Audio(old.samples[:400], RATE))
    library = tmp_path / "library"
    library.mkdir()
    old.save(library / "one.wav")
    with pytest.raises(OptionError, match="a library plays in a sound that is generated whole"):
        list(shipped.regenerate_steps(HAMMER, old, 1, 2, library=str(library)))
    mixed = msgspec.structs.replace(old, take=msgspec.structs.replace(old.take, mix="duck"))
    with pytest.raises(OptionError, match=r"mixed with the video's own \(duck\)"):
        shipped.regenerate(HAMMER, mixed, 1, 2)
    stranger = np.full_like(old.take.tokens, 2047)
    damaged = msgspec.structs.replace(old.take, tokens=stranger)
    with pytest.raises(OptionError, match="holds the token 2047"):
        shipped.regenerate(HAMMER, msgspec.structs.replace(old, take=damaged), 1, 2)
    with pytest.raises(vab_rt.VabError, match="2 different channels, expected mono"):
        Audio.load(stereo(tmp_path / "stereo.wav"))


def stereo(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=RATE, layout="stereo")
        samples = np.random.default_rng(0).integers(-9999, 9999, (1, 2 * RATE)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, "s16", "stereo")
        frame.sample_rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_take_comes_back_as_it_was(takes, tmp_path):
    sound = tmp_path / "a.wav"
    takes[HAMMER].save(sound)
    found, expected = read_take(sound), takes[HAMMER].take
    assert (found.tokens == expected.tokens).all()
    for name in Take.__struct_fields__:
        if name != "tokens":
            assert getattr(found, name) == getattr(expected, name), name
    assert path_of(sound).name == "a.wav.vab.json"


@pytest.mark.parametrize("more", [(), ("--candidates", 2)])
def test_no_sound_without_the_take_that_was_wanted(takes, run, more, tmp_path):
    sound = tmp_path / ("a" * 245 + ".wav")  # its take's name is too long
    with pytest.raises(OutputError, match="too long"):
        takes[HAMMER].save(sound)
    result = run("generate", HAMMER, sound, *more)
    assert result.code == 1 and "too long" in result.err
    assert not any(tmp_path.iterdir())
    takes[HAMMER].save(sound, take=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda take: take | {"format_version": 2}, "version 2, expected 1"),
        (lambda take: take | {"shape": [4, 501]}, "bytes, expected 4008"),
        (lambda take: take | {"shape": [1 << 20, 1 << 20]}, "tokens have the shape"),
        (lambda take: take | {"packed": "AAAA"}, "cannot be read"),
        (lambda take: take | {"num_samples": 0}, "its lengths are not those of a sound"),
        (lambda take: take | {"gain_db": 1e9}, "its gain is 1e[+]09 dB"),
        (lambda take: take | {"more": 1}, "unknown field"),
        (lambda take: [take], "cannot be read"),
        (lambda take: take | {"sound_sha256": "0"}, "it was changed since"),
    ],
)
def test_a_damaged_take_is_told_and_left(takes, change, message, tmp_path):
    sound = tmp_path / "a.wav"
    takes[HAMMER].save(sound)
    path = path_of(sound)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.warns(MediaWarning, match=message):
        assert Audio.load(sound).take is None


def test_a_sound_that_was_edited_is_noticed(takes, tmp_path):
    first, second = tmp_path / "a.wav", tmp_path / "b.wav"
    takes[HAMMER].save(first)
    Audio(takes[HAMMER].samples * 0.5, RATE).save(second)
    assert packets_sha256(first) != packets_sha256(second)
    second.replace(first)
    with pytest.warns(MediaWarning, match="it was changed since a.wav.vab.json was written"):
        Audio.load(first)
    path_of(first).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Audio.load(first).take is None
