"""ESC-50 and Speech Commands: their layouts, their folds, and what is said of damaged ones."""

import csv
import json
import wave

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import tiny_checkpoint, tiny_config

from training.audio_sets import (
    folds,
    main,
    read_esc50,
    read_speech_commands,
    tokenised,
)
from training.checkpoint import read_checkpoint
from vab_rt.errors import DataError, MediaError


def write_wav(path, seconds, pitch_hz, rate_hz=8000):
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    samples = np.round(8000 * np.sin(2 * np.pi * pitch_hz * times)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(samples.tobytes())


@pytest.fixture
def esc50(tmp_path):
    """Two classes in two folds, two clips each."""
    folder = tmp_path / "ESC-50-master"
    rows = []
    for i, (fold, category) in enumerate([(1, "dog"), (1, "rain"), (2, "dog"), (2, "rain")] * 2):
        name = f"{fold}-{i}-A.wav"
        write_wav(folder / "audio" / name, 0.5, 300 if category == "dog" else 3000)
        rows.append({"filename": name, "fold": fold, "target": i, "category": category})
    (folder / "meta").mkdir()
    with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["filename", "fold", "target", "category"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture
def speech_commands(tmp_path):
    folder = tmp_path / "speech_commands"
    for word, pitch_hz in (("yes", 300), ("no", 600), ("cat", 1200), ("bird", 2400)):
        for take in range(4):
            write_wav(folder / word / f"{take}.wav", 0.8, pitch_hz)
    write_wav(folder / "_background_noise_" / "hum.wav", 10.0, 50)
    (folder / "validation_list.txt").write_text("yes/0.wav\ncat/0.wav\n")
    (folder / "testing_list.txt").write_text("yes/1.wav\nno/1.wav\ncat/1.wav\n")
    return folder


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "ckpt.pt"
    torch.save(tiny_checkpoint(tiny_config(layers=1, expert_layers=1, width=16)), path)
    return path


def test_esc50_is_tested_fold_by_fold(esc50):
    sound_set = read_esc50(esc50)
    assert sound_set.classes == ("dog", "rain") and len(sound_set.sounds) == 8
    found = list(folds(sound_set))
    assert [name for name, _, _ in found] == ["fold-1", "fold-2"]
    for _, for_training, for_testing in found:
        assert (for_training != for_testing).all() and for_testing.sum() == 4


def test_speech_commands_keeps_to_its_lists(speech_commands):
    sound_set = read_speech_commands(speech_commands)
    assert sound_set.classes == ("no", "silence", "unknown", "yes")
    [(name, for_training, for_testing)] = folds(sound_set)
    assert name == "testing" and not (for_training & for_testing).any()
    words = [sound for sound in sound_set.sounds if sound.label != "silence"]
    tested = {f"{s.path.parent.name}/{s.path.name}" for s in words if s.part == "testing"}
    assert tested == {"yes/1.wav", "no/1.wav", "cat/1.wav"}
    assert sum(sound.part == "validation" for sound in words) == 2
    every_word = read_speech_commands(speech_commands, all_words=True)
    assert every_word.classes == ("bird", "cat", "no", "yes")


def test_silence_is_cut_from_the_noises_and_tested_on_others(speech_commands):
    silent = [s for s in read_speech_commands(speech_commands).sounds if s.label == "silence"]
    assert silent and {s.part for s in silent} <= {"training", "testing"}
    starts = {
        part: [s.start_s for s in silent if s.part == part] for part in ("training", "testing")
    }
    assert all(at >= 8 for at in starts["testing"]) and all(at < 8 for at in starts["training"])


def test_sounds_are_padded_to_a_clip_or_keep_their_length(esc50, ckpt):
    checkpoint, sound_set = read_checkpoint(ckpt), read_esc50(esc50)
    [padded] = tokenised(checkpoint, sound_set)
    assert padded.tokens.shape == (8, 3, 100) and padded.labels.sum() == 8
    assert (padded.tokens[0] != padded.tokens[1]).any(), "the two classes sound alike"
    end = padded.tokens[:, :, 60:]
    assert (end == end[:1, :, :1]).all(), "silence after half a second"
    short = sound_set.__class__(sound_set.classes, sound_set.sounds, length_s=0.5)
    [own] = tokenised(checkpoint, short, padded=False)
    assert own.tokens.shape == (8, 3, 25)


@pytest.mark.parametrize("name", ["esc-50", "speech-commands"])
def test_the_command_trains_and_tests(name, ckpt, tmp_path, request, capsys):
    media = request.getfixturevalue(name.replace("-", "").replace("speechc", "speech_c"))
    words = [name, str(ckpt), "--media", str(media), "--out", str(tmp_path / "run")]
    main([*words, "--epochs", "1", "--batch", "4", "--own-length", "--peak-rate", "1e-3"])
    result = json.loads(capsys.readouterr().out)
    assert result["set"] == name and 0 <= result["accuracy"] <= 1
    tests = {"esc-50": {"fold-1", "fold-2"}, "speech-commands": {"testing"}}[name]
    assert tests <= set(result)
    assert {p.parent.name for p in (tmp_path / "run").glob("*/classify-a.pt")} == tests


def test_a_folder_that_is_no_esc50(tmp_path, esc50):
    with pytest.raises(DataError, match=r"esc50\.csv is not there, expected ESC-50"):
        read_esc50(tmp_path)
    table = esc50 / "meta" / "esc50.csv"
    whole = table.read_text()
    (esc50 / "audio" / "1-0-A.wav").unlink()
    with pytest.raises(DataError, match=r"line 2: .*1-0-A\.wav is not there"):
        read_esc50(esc50)
    table.write_text(whole.replace("category", "kind"))
    with pytest.raises(DataError, match="line 2: .*expected filename, fold and category"):
        read_esc50(esc50)
    table.write_text("filename,fold,category\n")
    with pytest.raises(DataError, match="0 rows, expected clips in at least 2 folds"):
        read_esc50(esc50)


def test_a_folder_that_is_no_speech_commands(tmp_path, speech_commands):
    with pytest.raises(DataError, match=r"validation_list\.txt is not there"):
        read_speech_commands(tmp_path)
    (speech_commands / "no" / "1.wav").unlink()
    with pytest.raises(DataError, match=r"no/1\.wav is listed and not there \(1 files"):
        read_speech_commands(speech_commands)
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("validation_list.txt", "testing_list.txt"):
        (empty / name).write_text("")
    with pytest.raises(DataError, match="no words to train on"):
        read_speech_commands(empty)


def test_a_file_that_is_no_sound_is_named(esc50, ckpt):
    (esc50 / "audio" / "1-0-A.wav").write_bytes(b"not a sound")
    with pytest.raises(MediaError, match=r"1-0-A\.wav cannot be read"):
        list(tokenised(read_checkpoint(ckpt), read_esc50(esc50)))


def test_a_noise_that_is_no_sound_is_named(speech_commands):
    noise = next((speech_commands / "_background_noise_").glob("*.wav"))
    noise.write_bytes(b"not a sound")
    with pytest.raises(MediaError, match=rf"{noise} cannot be read .*copy the set again"):
        read_speech_commands(speech_commands)


def test_the_command_tells_mistakes_in_one_line(ckpt, tmp_path, refused):
    assert "esc50.csv" in refused(main, "esc-50", ckpt, "--media", tmp_path, "--out", tmp_path)
