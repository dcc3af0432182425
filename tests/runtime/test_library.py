"""A library of one's own: which recordings are played, where, and what cannot be one."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import vab_rt
from vab_rt.audio import Audio
from vab_rt.cli import app_of
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError
from vab_rt.library import Recording, find_sounds, fit, lay, license_of, trimmed
from vab_rt.sounds import decode_sound
from vab_rt.strokes import is_struck, strokes_of

RATE = 16_000
AT = np.array([4000, 20_000, 33_600])
HAMMER = Path(__file__).parents[2] / "examples" / "hammer.mp4"


def struck(at=AT, length=48_000, pitch=900.0) -> np.ndarray:
    """Strokes that ring for a moment."""
    sound = np.zeros(length, np.float32)
    t = np.arange(3000) / RATE
    ring = (np.sin(2 * np.pi * pitch * t) * np.exp(-t * 30)).astype(np.float32)
    for begin in at:
        sound[begin : begin + 3000] += ring[: length - begin]
    return sound


def write_sound(path: Path, samples: np.ndarray, rate_hz: int) -> None:
    Audio(samples, rate_hz).save(path)


def noise(length: int) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal(length).astype(np.float32)


def recording(samples: np.ndarray) -> Recording:
    return Recording(Path("a.wav"), samples)


def test_strokes_are_where_a_sound_rises():
    assert np.abs(strokes_of(struck(), RATE) - AT).max() <= RATE // 100
    assert is_struck(struck(), RATE) and not is_struck(noise(48_000), RATE)


def test_struck_recordings_are_laid_at_the_strokes_and_at_their_level():
    own = 0.2 * struck(pitch=300.0)
    other = struck(at=[1600], length=8000)
    track, is_covered, is_mute = lay([recording(other)], own, RATE, np.random.default_rng(0))
    assert np.abs(strokes_of(track, RATE) - AT).max() <= RATE // 100
    assert 0.15 < np.abs(track).max() < 0.3
    assert not is_covered[:3000].any() and is_covered[4100:5000].all()
    assert not (is_covered & is_mute).any()


def test_what_goes_on_is_laid_where_the_own_sound_is():
    own = np.concatenate([noise(16_000), np.zeros(16_000, np.float32), noise(16_000)])
    track, is_covered, _ = lay([recording(noise(5000) * 3)], own, RATE, np.random.default_rng(0))
    assert is_covered[:15_000].all() and not is_covered[17_000:31_000].any()
    assert track[:16_000].std() == pytest.approx(0.1, rel=0.2)


def test_what_goes_on_rises_where_the_own_sound_strikes():
    track, plays, _ = lay([recording(noise(48_000))], struck(), RATE, np.random.default_rng(0))
    assert np.abs(strokes_of(track * plays, RATE) - AT).max() <= RATE // 100
    later = track[AT[0] + 1600 : AT[0] + 2400]
    assert 0.05 < later.std() / track[AT[0] : AT[0] + 800].std() < 0.2, "rings as the own does"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dog/001.wav", 0.75), ("barks/Two-Dogs_2.wav", 0.75), ("dogma.wav", 0.75),
        ("hotdogstand.wav", 0.0), ("sea/x.wav", 0.125), ("sea_waves/x.wav", 0.25), ("x.wav", 0.0),
    ],
)  # fmt: skip
def test_names_that_fit(name, expected):
    assert fit(Path(name), {"dog": 0.75, "sea_waves": 0.25}) == expected


def test_silence_around_a_recording_is_no_part_of_it():
    padded = np.pad(noise(8000), 16_000)
    assert abs(len(trimmed(padded, RATE)) - 8000) <= 2 * RATE // 100
    assert len(trimmed(np.zeros(8000, np.float32), RATE)) == 0


def test_a_long_file_is_read_as_far_as_asked(tmp_path):
    write_sound(tmp_path / "a.flac", noise(160_000), RATE)
    assert len(decode_sound(tmp_path / "a.flac", RATE, 2.0)) == 32_000
    assert len(decode_sound(tmp_path / "a.flac", RATE)) == 160_000


def test_the_nearest_license_is_told(tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "LICENSE.txt").touch()
    assert license_of(tmp_path / "dog" / "a.wav", tmp_path) == tmp_path / "LICENSE.txt"
    (tmp_path / "dog" / "attribution.md").touch()
    assert license_of(tmp_path / "dog" / "a.wav", tmp_path) == tmp_path / "dog/attribution.md"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    write_sound(folder / "clink.wav", struck(at=[800], length=6000, pitch=3000.0), RATE)
    (folder / "broken.wav").write_bytes(b"RIFF of nothing")
    (folder / "LICENSE").touch()
    return folder


def test_the_command_plays_it_in_time_and_tells_what(library, tmp_path):
    """With the default model: the blows stay where they were, and ring as the recording does."""
    run = CliRunner().invoke
    own, played = tmp_path / "own.wav", tmp_path / "played.wav"
    assert run(app_of(), ["generate", str(HAMMER), str(own)]).exit_code == 0
    told = run(
        app_of(),
        ["generate", str(HAMMER), str(played), "--library", str(library), "--json"]
        + ["--library-strength", "1"],
    )
    report = json.loads(told.stdout.splitlines()[-1])
    assert report["library"] == [
        {"file": str(library / "clink.wav"), "license_file": str(library / "LICENSE")}
    ]
    before, after = (decode_sound(path, RATE) for path in (own, played))
    assert len(after) == len(before)
    strokes = strokes_of(before, RATE)
    nearest = [np.abs(strokes_of(after, RATE) - stroke).min() for stroke in strokes]
    assert len(strokes) >= 5 and np.median(nearest) <= RATE // 50
    spectra = [np.abs(np.fft.rfft(sound)) ** 2 for sound in (before, after)]
    rings = [part[28_000:32_000].sum() / part.sum() for part in spectra]  # 2.8 to 3.2 kHz
    assert rings[1] > 3 * rings[0]


def test_none_of_it_is_kept_at_strength_zero(library):
    pipeline = vab_rt.load(threads=1)
    own = pipeline.generate(HAMMER)
    kept = pipeline.generate(HAMMER, library=library, library_strength=0.0)
    assert np.array_equal(own.samples, kept.samples)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "is not there, expected a folder of recordings"),
        ({}, "holds no sound, expected files that end in one of: wav"),
        ({"a.txt": b"", ".b.wav": b""}, "holds no sound"),
    ],
)
def test_what_is_no_library(tmp_path, files, message):
    folder = tmp_path / "library"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
    with pytest.raises(OptionError, match=message):
        find_sounds(folder)


def test_a_library_without_a_usable_file_is_one_line(tmp_path):
    write_sound(tmp_path / "silent.wav", np.zeros(8000, np.float32), RATE)
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    with pytest.raises(OptionError, match="has no file that can be used"):
        vab_rt.load(threads=1).generate(HAMMER, library=tmp_path)


def test_a_model_without_an_encoder_takes_none(pipeline, library, videos):
    assert isinstance(pipeline.config, ModelConfig)
    with pytest.raises(OptionError, match="comes without codec_encoder"):
        pipeline.generate_steps(videos(25), library=library)


def test_a_library_that_is_no_path(pipeline, videos):
    with pytest.raises(OptionError, match="library is 3, expected a folder"):
        pipeline.generate_steps(videos(25), library=3)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan"), "much"])
def test_a_strength_that_there_is_not(pipeline, videos, strength):
    with pytest.raises(OptionError, match="library_strength is .*, expected .*0 to 1"):
        pipeline.generate_steps(videos(25), library_strength=strength)


def test_nothing_else_strikes_than_without_it(library):
    """Between recordings that strike it is quiet, whatever still rings of the model's own."""
    pipeline = vab_rt.load(threads=1)
    own, played = pipeline.generate(HAMMER), pipeline.generate(HAMMER, library=library)
    first, second = (strokes_of(sound.samples, RATE) / RATE for sound in (own, played))
    assert len(first) > 3 and np.abs(first[:, None] - second).min(1).max() < 0.1
    assert len(second) <= len(first) + 2
