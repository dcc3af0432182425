"""Your own folders: kinds, splits that stay, files that cannot be used."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from training.datasets.sound_folders import (
    OTHER,
    SPLITS,
    kinds_of,
    list_pictures,
    list_sounds,
    of_split,
    read_sounds,
)
from vab_rt.audio import Audio
from vab_rt.errors import DataError

RATE_HZ = 16_000


def write_tone(path, level=0.5, duration_s=0.5, hz=440.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    Audio(samples=(level * np.sin(2 * np.pi * hz * times)).astype(np.float32),
          sample_rate_hz=RATE_HZ).save(path)  # fmt: skip


def test_kinds_are_folders_and_names_decide_the_split(tmp_path):
    for kind, count in (("gong", 60), ("my kettle", 1), (OTHER, 1)):
        for i in range(count):
            (tmp_path / "sounds" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "sounds" / kind / f"{i:02d}.WAV").write_bytes(b"")
    listed = list_sounds(tmp_path / "sounds")
    assert kinds_of(listed) == ["gong", "my kettle"] and len(listed) == 62
    shares = [len([x for x in of_split(listed, s) if x.kind == "gong"]) for s in SPLITS]
    assert sum(shares) == 60 and shares[0] > 35 and min(shares) > 0
    assert [x.split for x in listed if x.kind == "my kettle"] == ["train"]
    (tmp_path / "sounds").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "gong" / "new.flac").write_bytes(b"")
    again = {x.path.name: x.split for x in list_sounds(tmp_path / "elsewhere") if x.kind == "gong"}
    assert all(again[x.path.name] == x.split for x in listed if x.kind == "gong")


@pytest.mark.parametrize(
    ("place", "key"),
    [("sounds/sounds.csv", "license"), ("sounds.csv", "licence")],  # as it was once
)
def test_a_csv_has_the_last_word(place, key, tmp_path):
    for name in ("a", "b", "c"):
        write_tone(tmp_path / "sounds" / "gong" / f"{name}.wav")
    (tmp_path / place).write_text(
        f"file,kind,split,{key},author\ngong/a.wav,gong,test,CC0,Me\n"
        "gong/b.wav,gong,validation,,\ngong/gone.wav,gong,train,,\n",
        "utf-8-sig",  # as spreadsheets do
    )
    a, b, _ = list_sounds(tmp_path / "sounds")
    assert (a.split, a.license, a.author, b.split, b.license) == (
        *("test", "CC0", "Me"),
        *("validation", ""),
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,split\ngong/a.wav,holdout\n", r"line 2: split is 'holdout', expected one of train"),
        (b"name,split\ngong/a.wav,train\n", "line 2: no file, expected a column `file`"),
        (b"file,split\n\xff\xfe,train\n", "expected a CSV in UTF-8"),
    ],
)
def test_a_csv_that_does_not_fit_is_named_with_its_line(content, message, tmp_path):
    write_tone(tmp_path / "sounds" / "gong" / "a.wav")
    (tmp_path / "sounds.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list_sounds(tmp_path / "sounds")


def test_what_cannot_be_used_is_left_out_and_named(tmp_path):
    gong = tmp_path / "sounds" / "gong"
    write_tone(gong / "quiet.wav", 0.01)
    write_tone(gong / "high.flac", 0.5)
    write_tone(gong / "short.wav", 0.5, 0.05)
    write_tone(gong / "silent.wav", 0.0)
    (gong / "broken.mp3").write_bytes(b"no sound" * 100)
    (gong / "notes.txt").write_text("no sound")
    sounds = read_sounds(list_sounds(tmp_path / "sounds"), 24_000)
    assert [one.path.name for one in sounds.listed] == ["high.flac", "quiet.wav"]
    high, quiet = sounds.samples
    assert high.dtype == np.float32 and abs(len(high) - 12_000) < 50
    assert abs(np.abs(quiet).max() - 0.01) < 0.001 and len(sounds) == 2
    reasons = {path.rsplit("/", 1)[1]: reason for path, reason in sounds.skipped.items()}
    assert reasons.keys() == {"short.wav", "silent.wav", "broken.mp3"}
    assert "lasts 0.05 s" in reasons["short.wav"] and "is silent" in reasons["silent.wav"]
    with pytest.raises(DataError, match="none of 1 sounds can be used, for instance: .*silent"):
        read_sounds([x for x in list_sounds(tmp_path / "sounds") if "silent" in x.path.name], 16000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is not a folder"),
        (lambda folder: folder.mkdir(), "holds no KIND/FILE, expected files that end in .*png"),
    ],
)
def test_a_folder_without_pictures_is_refused(make, message, tmp_path):
    make(tmp_path / "pictures")
    with pytest.raises(DataError, match=message):
        list_pictures(tmp_path / "pictures")
