"""Which of one's own sounds fit a video: the index of a folder, and what is found in it."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle import make_bundle, tiny_config
from typer.testing import CliRunner

import vab_rt
from vab_rt.audio import Audio
from vab_rt.cli import app_of
from vab_rt.errors import OptionError, OutputError
from vab_rt.pipeline import Pipeline
from vab_rt.search import at_any_time, in_time
from vab_rt.sound_index import as_clip, indexed, kept_file, origin_of, read_index, write_index
from vab_rt.systems.vab import Said

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("ball", "hammer", "waves")
RATE = 16_000
LEVEL = np.float32(0.5)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Of no user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def encoder(pipeline):
    """The tiny codec the other way round: of each hop the codes whose waves are nearest, the lower
    in the first codebook."""
    c = pipeline.config
    pairs = np.stack(np.triu_indices(c.codebook_size))  # [K, 136]
    tokens = np.zeros((2, c.num_codebooks, c.num_token_steps), np.int32)
    tokens[0], tokens[1, :, :36] = pairs[:, :100], pairs[:, 100:]
    waves = LEVEL * pipeline.system.render(tokens).reshape(-1, c.hop_samples)[:136]

    def encode(audio):
        hops = audio[0].reshape(-1, 1, c.hop_samples)
        distances = ((hops - waves) ** 2).sum(2)  # [T, 136]
        return pairs[:, distances.argmin(1)][None].astype(np.int32)

    return encode


@pytest.fixture(scope="module")
def searching(pipeline, encoder) -> Pipeline:
    """The tiny model with an encoder."""
    return Pipeline(pipeline.system, open_encoder=lambda: encoder)


def tokens_of(seed: int) -> np.ndarray:
    """Of a sound that the encoder hears as it is [K, T]."""
    return np.sort(np.random.default_rng(seed).integers(16, size=(2, 100)), axis=0).astype(np.int32)


@pytest.fixture
def sounds(tmp_path, pipeline) -> Path:
    """Eight sounds of the tiny codec, two of them deeper, and another file."""
    folder = tmp_path / "sounds"
    (folder / "deep").mkdir(parents=True)
    for seed in range(8):
        sound = LEVEL * pipeline.system.render(tokens_of(seed)[None])[0]
        Audio(sound, RATE).save(folder / ("deep" if seed > 5 else "") / f"{seed}.wav")
    (folder / "notes.txt").write_text("no sound")
    return folder


def make_pipe(path: Path) -> None:
    """What nobody writes to; Windows has none."""
    os.mkfifo(path) if hasattr(os, "mkfifo") else path.touch()


def counts_of(pipeline, where, file=None):
    """How many files are read, and the index."""
    *_, last = pipeline.index_sounds(where, file)
    return last.total, last.index


def test_an_index_holds_what_the_sounds_are_made_of(searching, sounds):
    _, index = counts_of(searching, sounds)
    assert index.names == [*(f"{i}.wav" for i in range(6)), "deep/6.wav", "deep/7.wav"]
    assert index.is_usable.all()
    assert np.array_equal(index.tokens, [tokens_of(seed) for seed in range(8)])


def test_only_what_changed_is_read_again(searching, sounds, cache):
    assert counts_of(searching, sounds)[0] == 8
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")}
    assert len(before) == 1 and counts_of(searching, sounds)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.npz")} == before
    shutil.copy(sounds / "1.wav", sounds / "new.wav")
    os.utime(sounds / "2.wav", ns=(1, 1))
    (sounds / "3.wav").unlink()
    changed, index = counts_of(searching, sounds)
    assert changed == 2 and len(index.names) == 8 and "3.wav" not in index.names
    assert np.array_equal(
        index.tokens[index.names.index("new.wav")], index.tokens[index.names.index("1.wav")]
    )
    (sounds / "new.wav").unlink()
    assert counts_of(searching, sounds)[0] == 0
    assert "new.wav" not in read_index(next(cache.rglob("*.npz")), searching.system).names


def test_broken_and_silent_files_are_told_in_one_warning(searching, sounds, caplog):
    (sounds / "broken.wav").write_bytes(b"RIFF of nothing")
    (sounds / "empty.flac").touch()
    make_pipe(sounds / "pipe.wav")
    Audio(np.zeros(RATE, np.float32), RATE).save(sounds / "silent.wav")
    for times in (4, 0):
        caplog.clear()
        total, index = counts_of(searching, sounds)
        assert total == (12 if times else 0) and index.is_usable.sum() == 8
        assert len(caplog.records) == 1
        assert "4 of 12 files" in caplog.text
        assert "broken.wav, empty.flac, pipe.wav, silent.wav" in caplog.text


def test_a_folder_that_changes_while_it_is_indexed(searching, sounds, encoder):
    """What is gone or written anew meanwhile is no part of the index, and read the next time."""
    system, read = searching.system, []

    def encode(sound):
        if not read:
            (sounds / "4.wav").unlink()
            os.utime(sounds / "0.wav", ns=(1, 1))
        read.append(sound)
        return encoder(audio=sound[None])[0]

    *_, last = indexed(sounds, None, system, encode)
    assert last.index.is_usable.all()
    assert sorted(last.index.names) == sorted(
        ["1.wav", "2.wav", "3.wav", "5.wav", "deep/6.wav", "deep/7.wav"]
    )
    assert counts_of(searching, sounds)[0] == 1


def test_an_index_that_is_stopped_goes_on(searching, sounds, monkeypatch):
    monkeypatch.setattr("vab_rt.sound_index.KEEP_EVERY", 3)
    steps = searching.index_sounds(sounds)
    for _ in range(4):
        next(steps)
    steps.close()
    assert counts_of(searching, sounds)[0] == 5


def test_the_file_of_an_index_stands_for_its_folder(searching, sounds, tmp_path, videos, caplog):
    file = tmp_path / "my.npz"
    assert counts_of(searching, sounds, file)[0] == 8
    (sounds / "1.wav").unlink()
    total, index = counts_of(searching, file)
    assert total == 0 and len(index.names) == 7 == len(read_index(file, searching.system).names)
    by_folder, by_file = (searching.search(videos(50), x) for x in (sounds, file))
    assert by_folder == by_file
    sounds.rename(tmp_path / "moved")
    assert searching.search(videos(50), file) == by_file
    assert "is not there: it is taken as it was" in caplog.text


def test_the_best_come_first_with_the_time_where_they_fit(searching, sounds, videos):
    """By the sum over all tokens, tried at every other step, done here one by one."""
    found = searching.search(videos(50), sounds, top=3)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    _, index = counts_of(searching, sounds)
    frames = vab_rt.Video(videos(50)).frames(searching.config)
    features = np.stack(list(searching.system.see(frames)))[:4]
    gains = searching.system.said(features).gains
    scores = {
        (name, start): np.mean(
            [gains[k, t, np.roll(tokens, start, 1)[k, t]] for k in range(2) for t in range(100)]
        )
        for name, tokens in zip(index.names, index.tokens, strict=True)
        for start in range(0, 100, 2)
    }
    (name, start), score = max(scores.items(), key=lambda item: item[1])
    assert found[0].path == sounds / name
    assert found[0].score == pytest.approx(score, rel=1e-5)
    assert found[0].start_s == pytest.approx(start / 50)


def test_a_long_video_is_searched_window_by_window(searching, sounds, videos):
    assert len(searching.search(videos(130), sounds, top=50)) == 8
    assert {one.start_s <= 5.2 + 2 for one in searching.search(videos(130), sounds)} == {True}


def test_the_time_of_tokens_does_not_count_at_first():
    random = np.random.default_rng(0)
    said = Said(*random.standard_normal((2, 2, 9, 7)).astype(np.float32))
    tokens = random.integers(7, size=(3, 2, 20)).astype(np.int16)
    mixed = tokens[:, :, random.permutation(20)]
    assert at_any_time(said, mixed) == pytest.approx(at_any_time(said, tokens))


@pytest.mark.parametrize("start", [0, 2, 38, 98])
def test_where_tokens_fit_is_found(start):
    random = np.random.default_rng(0)
    c = tiny_config()
    tokens = random.integers(16, size=(5, 2, 100)).astype(np.int16)
    placed = np.roll(tokens[3], start, 1)[:, :60]  # [K, H]
    gains = np.eye(16, dtype=np.float32)[placed]
    scores, starts = in_time(gains, tokens, c)
    assert scores.argmax() == 3 and scores[3] == 1
    assert starts[3] == (start if start < 60 else start - 100)


def test_the_shipped_model_finds_its_own_sounds(tmp_path):
    """Of three films, among noise and each other's, one of them 2 s late."""
    pipeline, folder = vab_rt.load(threads=1), tmp_path / "sounds"
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(3):
        noise = 0.1 * random.standard_normal(5 * RATE).astype(np.float32)
        Audio(noise, RATE).save(folder / f"noise{i}.wav")
    for name in NAMES:
        sound = pipeline.generate(EXAMPLES / f"{name}.mp4").samples
        late = np.roll(sound, -2 * RATE if name == "hammer" else 0)
        Audio(late, RATE).save(folder / f"{name}.wav")
    for name in NAMES:
        best = pipeline.search(EXAMPLES / f"{name}.mp4", folder)[0]
        assert best.path == folder / f"{name}.wav"
        if name != "waves":  # which sound alike for seconds
            assert best.start_s == pytest.approx(2.0 * (name == "hammer"), abs=0.08)


def damaged(path: Path, system, kind: str) -> None:
    """An index as it should not be."""
    index = read_index(path, system)
    if kind == "short":
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "text":
        path.write_text("an index")
    elif kind == "pickle":
        np.savez(path.open("wb"), origin=np.array([{}], object))
    elif kind == "other":
        np.savez(path.open("wb"), tokens=index.tokens)
    elif kind == "format":
        write_index(replace(index, origin=replace_struct(index.origin, format=99)), path)
    elif kind == "tokens":
        write_index(replace(index, tokens=index.tokens + np.int16(99)), path)
    elif kind == "rows":
        write_index(replace(index, stamps=index.stamps[:3]), path)


def replace_struct(struct, **fields):
    import msgspec

    return msgspec.structs.replace(struct, **fields)


DAMAGES = ("short", "text", "pickle", "other", "format", "tokens", "rows")


@pytest.mark.parametrize("kind", DAMAGES)
def test_what_is_no_index_is_refused_where_it_was_asked_for(searching, sounds, tmp_path, kind):
    file = tmp_path / "my.npz"
    counts_of(searching, sounds, file)
    damaged(file, searching.system, kind)
    content = file.read_bytes()
    for where, kept in ((file, None), (sounds, file)):
        with pytest.raises(OptionError, match=r"my\.npz .*, expected"):
            counts_of(searching, where, kept)
    assert file.read_bytes() == content


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_kept_index_that_is_none_is_made_again(searching, sounds, caplog, kind):
    counts_of(searching, sounds)
    path = kept_file(origin_of(sounds, searching.system))
    damaged(path, searching.system, kind)
    assert counts_of(searching, sounds)[0] == 8 and "is made again" in caplog.text
    caplog.clear()
    assert counts_of(searching, sounds)[0] == 0 and not caplog.records


def test_an_index_of_another_model_or_folder(searching, encoder, sounds, tmp_path):
    file = tmp_path / "my.npz"
    counts_of(searching, sounds, file)
    other = vab_rt.load(make_bundle(tmp_path / "other", tiny_config(name="grown"), seed=1))
    grown = Pipeline(other.system, open_encoder=lambda: encoder)
    with pytest.raises(OptionError, match="is of model tiny .*, expected grown"):
        counts_of(grown, file)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(sounds / "1.wav", tmp_path / "elsewhere")
    with pytest.raises(OptionError, match=f"is of {sounds}, expected {tmp_path / 'elsewhere'}"):
        counts_of(searching, tmp_path / "elsewhere", file)
    assert counts_of(grown, sounds)[0] == 8  # one for each model is kept
    assert counts_of(searching, sounds)[0] == 8


def test_where_no_index_can_be_written(searching, sounds, tmp_path, cache, caplog, videos):
    with pytest.raises(OutputError, match="does not exist, expected an existing one"):
        next(searching.index_sounds(sounds, tmp_path / "missing" / "my.npz"))
    cache.write_text("in the way")
    assert len(searching.search(videos(50), sounds)) == 8
    assert "the index is not kept" in caplog.text


def test_names_that_are_no_text(searching, sounds, videos):
    try:
        shutil.copy(sounds / "1.wav", os.fsencode(sounds) + b"/\xff.wav")
    except OSError:
        pytest.skip("this file system takes no such name")
    assert counts_of(searching, sounds)[0] == 9
    total, index = counts_of(searching, sounds)
    assert total == 0 and os.fsdecode(b"\xff.wav") in index.names


@pytest.mark.parametrize("top", [0, -1, 2.5, "all", 10_001])
def test_a_number_of_files_that_there_is_not(searching, sounds, videos, top):
    with pytest.raises(OptionError, match=r"top is .*, expected .*1 to 10000"):
        searching.search(videos(50), sounds, top=top)


def test_what_cannot_be_searched(searching, pipeline, v2a_bundle, sounds, tmp_path, videos):
    (tmp_path / "empty").mkdir()
    with pytest.raises(OptionError, match="holds no sound"):
        searching.search(videos(50), tmp_path / "empty")
    with pytest.raises(OptionError, match="is not there"):
        searching.search(videos(50), tmp_path / "missing")
    with pytest.raises(OptionError, match="comes without codec_encoder"):
        pipeline.search(videos(50), sounds)
    with pytest.raises(OptionError, match="cannot tell how well a sound fits"):
        vab_rt.load(v2a_bundle).search(videos(50), sounds)


def test_nothing_is_found_where_all_is_broken(searching, tmp_path, videos, caplog):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"no sound")
    assert searching.search(videos(50), folder) == []
    assert "1 of 1 files" in caplog.text


def test_the_command_tells_files_scores_and_times(tmp_path):
    folder, index, run = tmp_path / "sounds", tmp_path / "my.npz", CliRunner().invoke
    folder.mkdir()
    pipeline = vab_rt.load(threads=1)
    pipeline.generate(EXAMPLES / "ball.mp4").save(folder / "ball.wav")
    Audio(np.full(RATE, 0.1, np.float32), RATE).save(folder / "hum.wav")
    (folder / "broken.mp3").touch()
    words = ["search", str(EXAMPLES / "ball.mp4")]
    told = run(app_of(), [*words, str(folder), "--index", str(index), "--json"])
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout.splitlines()[-1])
    assert [Path(one["file"]).name for one in report["found"]] == ["ball.wav", "hum.wav"]
    assert report["num_files"] == 2 and report["left_out"] == ["broken.mp3"]
    assert report["found"][0]["score"] > report["found"][1]["score"]
    assert {"load", "index", "search", "total"} == set(report["timings_s"])
    again = run(app_of(), [*words, str(index), "--top", "1"])
    lines = again.stdout.splitlines()
    assert again.exit_code == 0 and len(lines) == 1 and lines[0].endswith("ball.wav")
    unmade = folder / "unmade.index"
    wrong = run(app_of(), [*words, str(folder), "--index", str(unmade), "--top", "0"])
    assert isinstance(wrong.exception, OptionError) and not unmade.exists()  # told before the work


@pytest.mark.parametrize(
    ("sound", "silent"),
    [
        ([*[0] * 3, 1, 1, *[0] * 3], []),  # short: without the silence around it
        ([0, 0, *[1] * 14], [0, 1]),  # long: as it begins
        ([*[0] * 12, 1, 1], []),  # long, and silent as far as that
        ([0] * 3, None),
        ([0] * 30, None),
    ],
)
def test_a_sound_becomes_as_long_as_a_clip(sound, silent):
    """Levels, a tenth of a second each; which tenths of a clip of 1 s are silent."""
    wave = 0.1 * np.sin(np.arange(1600) / 3).astype(np.float32)
    samples = np.concatenate([level * wave for level in sound]).astype(np.float32)
    clip = as_clip(samples, tiny_config(clip_s=1.0))
    if silent is None:
        assert clip is None
    else:
        assert clip.shape == (RATE,)
        assert np.flatnonzero(np.abs(clip.reshape(10, 1600)).max(1) < 0.01).tolist() == silent
