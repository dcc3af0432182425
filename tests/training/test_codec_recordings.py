"""Your recordings become rows of sound; what cannot be read is left out and named."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from training import foleyworld
from training.codecs.recordings import (
    ROW_S,
    read_facts,
    read_recordings,
    read_sound,
    recordings,
    rows_of,
    sound_files,
    world_sounds,
)
from vab_rt.audio import Audio
from vab_rt.errors import DataError, MediaError, OutputError

RATE_HZ = 16_000
ROW = round(ROW_S * RATE_HZ)


def write_tone(path, duration_s: float, rate_hz: int = RATE_HZ) -> None:
    times = np.arange(round(duration_s * rate_hz)) / rate_hz
    tone = 0.5 * np.sin(2 * np.pi * 440 * times).astype(np.float32)
    Audio(samples=tone, sample_rate_hz=rate_hz).save(path)


@pytest.mark.parametrize("name", ["tone.wav", "tone.flac", "tone.m4a"])
def test_sound_of_any_container_and_rate_is_read_at_the_models(tmp_path, name):
    write_tone(tmp_path / name, 1.0, 44_100 if name == "tone.wav" else RATE_HZ)
    samples = read_sound(tmp_path / name, RATE_HZ)
    assert samples.dtype == np.float32 and abs(len(samples) - RATE_HZ) < 2100
    middle = samples[4000:12_000]
    line = np.abs(np.fft.rfft(middle * np.hanning(8000))).argmax()
    assert line == 220 and abs(np.abs(middle).max() - 0.5) < 0.05


def test_rows_cover_every_sample_and_repeat_what_is_short():
    samples = np.linspace(-1, 1, 2500, dtype=np.float32)
    rows = rows_of(samples, 1000)
    assert rows.shape == (3, 1000) and rows.dtype == np.int16
    assert rows[0, 0] == -32767 and rows[2, -1] == 32767
    np.testing.assert_array_equal(rows[2, :500], rows[1, 500:])
    short = rows_of(samples[:400], 1000)
    np.testing.assert_array_equal(short[0, 400:800], short[0, :400])
    assert rows_of(samples[:2000], 1000).shape == (2, 1000)


def test_a_folder_is_read_once_and_every_20th_file_held_out(tmp_path):
    media = tmp_path / "media"
    (media / "deep").mkdir(parents=True)
    for i in range(20):
        write_tone(media / "deep" / f"{i:02d}.wav", 1.0)
    (media / "notes.txt").write_text("no sound")
    (media / "broken.mp3").write_bytes(b"not sound at all" * 100)
    write_tone(media / "short.wav", 0.1)
    folder = recordings(tmp_path / "out", media, RATE_HZ)
    assert read_recordings(folder).audio.shape == (19, ROW)
    assert len(read_recordings(folder, held_out=True)) == 1
    skipped = read_facts(folder).skipped
    assert {path.rpartition("/")[2] for path in skipped} == {"broken.mp3", "short.wav"}
    assert "expected at least 0.2 s" in skipped[str(media / "short.wav")]
    write_tone(media / "another.wav", 1.0)
    assert len(read_recordings(recordings(folder, media, RATE_HZ))) == 19


def test_recordings_of_another_folder_are_not_taken_for_these(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    write_tone(media / "tone.wav", 1.0)
    folder = recordings(tmp_path / "out", media, RATE_HZ)
    with pytest.raises(DataError, match="at 16000 Hz, expected .* at 8000 Hz"):
        recordings(folder, media, 8000)
    with pytest.raises(DataError, match="holds no sound"):
        read_recordings(folder, held_out=True)
    (folder / "recordings.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        read_recordings(folder)


def test_folders_without_sound_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a folder"):
        sound_files(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match="holds no sound, expected files that end in one of: .wav|wav"
    ):
        sound_files(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"not sound")
    with pytest.raises(DataError, match="none of 1 files can be read"):
        recordings(tmp_path / "out", tmp_path, RATE_HZ)
    with pytest.raises(MediaError, match="broken.wav cannot be read"):
        read_sound(tmp_path / "broken.wav", RATE_HZ)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    write_tone(media / "tone.wav", 1.0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="free for each hour"):
        recordings(tmp_path / "file" / "out", media, RATE_HZ)


def test_the_sound_of_the_world_is_made_without_its_pictures(tmp_path):
    folder = world_sounds(tmp_path / "sounds", 2)
    audio = read_recordings(folder).audio
    seeds = foleyworld.clip_seeds("train", 0, 2)
    assert audio.shape == (2, 160_000)
    true = foleyworld.make_scene(seeds[1]).audio()
    np.testing.assert_allclose(audio[1] / 32767, true, atol=1e-4)
    assert world_sounds(folder, 2) == folder
    with pytest.raises(DataError, match="2 clips in their order at .* expected .* 3 clips"):
        world_sounds(folder, 3)
