"""Extraction: real files become clips in shards; bad files are listed; a stopped run goes on."""

import json
import shutil
import signal
import subprocess
import sys
import tarfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media import damage, make_video

torch = pytest.importorskip("torch", reason="training needs torch")

from checkpoints import tiny_checkpoint, tiny_config
from weight_files import recipe_file

from training.datasets.encoders import load_encoders
from training.datasets.shards import ShardedClips
from training.datasets.soundtrack import read_soundtrack
from training.extract import Source, extract, main
from training.kinds import with_kinds
from training.visual_encoder import MotionEncoder
from vab_rt.audio import Audio
from vab_rt.errors import BackendError, DataError, MediaError, OptionError, OutputError
from vab_rt.video import Video, read_frames

CONFIG = tiny_config()  # clips of 2 s, 5 frames


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "ckpt.pt"
    torch.save(tiny_checkpoint(CONFIG), path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Six seconds of sounding video, encoded once."""
    folder = tmp_path_factory.mktemp("made")
    silent = make_video(
        folder / "silent.mp4", num_frames=150, options={"x264-params": "open-gop=1"}
    )
    noise = 0.1 * np.random.default_rng(0).standard_normal(6 * 16_000).astype(np.float32)
    Audio(noise, 16_000).save(folder / "sound.mp4", video=silent)
    return folder


@pytest.fixture
def media(made, tmp_path):
    """A folder with copies of the video under these names."""

    def fill(*names):
        (tmp_path / "media").mkdir(exist_ok=True)
        for name in names:
            shutil.copy(made / "sound.mp4", tmp_path / "media" / name)
        return tmp_path / "media"

    return fill


def run(out, source, checkpoint, **options):
    return list(extract(out, source, CONFIG, checkpoint, **options))


def notes(out):
    """The JSON of every clip, by key."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    found[member.name] = json.load(tar.extractfile(member))
    return found


def skipped(out):
    return [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]


def contents(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def test_a_folder_becomes_clips_one_after_the_other(media, checkpoint, tmp_path):
    out = tmp_path / "out"
    folder = media("a.mp4")
    states = run(out, Source(folder), checkpoint, clips_per_shard=2)
    assert [(state.shards, state.clips) for state in states] == [(0, 0), (1, 2), (2, 3)]
    assert notes(out)["000000001.json"] == {
        "source": "a.mp4",
        "start_s": 2.0,
        "end_s": 4.0,
        "labels": [],
    }
    clips = ShardedClips(out, CONFIG).in_memory()
    encoders = load_encoders(checkpoint, "cpu")
    for i in range(3):
        audio = read_soundtrack(folder / "a.mp4", 16_000, Fraction(2 * i), Fraction(2))
        frames = np.stack(read_frames(Video(folder / "a.mp4", 2.0 * i, 2.0), CONFIG)[0])
        with torch.no_grad():
            tokens = encoders.codec.encode(torch.from_numpy(audio)[None])[0].numpy()
            features = encoders.visual_encoder(torch.from_numpy(frames)).numpy()
        np.testing.assert_array_equal(clips.tokens[i], tokens)
        np.testing.assert_allclose(clips.features[i], features, atol=1e-3)
    assert clips.tokens.std() > 0 and skipped(out) == []


def test_clips_of_two_streams_have_the_motion_of_their_own_frames(media, tmp_path):
    config = tiny_config(
        image_size=32,
        visual_rate_hz=25.0,
        image_stride=5,
        motion_dim=8,
        motion_reach=MotionEncoder.REACH,
    )
    checkpoint, out, folder = tmp_path / "two.pt", tmp_path / "out", media("a.mp4")
    torch.save(tiny_checkpoint(config), checkpoint)
    list(extract(out, Source(folder), config, checkpoint))
    assert json.loads((out / "shards.json").read_text())["model"]["motion_dim"] == 8
    features = ShardedClips(out, config).in_memory().features  # [3, 50, 24]
    frames = np.stack(read_frames(Video(folder / "a.mp4", 2.0, 2.0), config)[0])
    with torch.no_grad():
        expected = load_encoders(checkpoint, "cpu").visual_encoder(torch.from_numpy(frames))
    np.testing.assert_allclose(features[1], expected.numpy(), atol=1e-3)
    assert np.ptp(features[1, :, -8:], 0).max() > 0 == np.ptp(features[1, :5, :-8], 0).max()


def test_a_recipe_without_kinds_takes_those_of_the_checkpoint(media, tmp_path):
    recipe = tiny_config(image_encoder="efficientnet-lite0", image_size=224)
    config, checkpoint = with_kinds(recipe, ("dog", "ambience")), tmp_path / "start.pt"
    torch.save(tiny_checkpoint(config), checkpoint)
    list(extract(tmp_path / "out", Source(media("a.mp4")), recipe, checkpoint))
    assert len(ShardedClips(tmp_path / "out", config)) == 3


def test_labels_and_missing_files_of_a_csv(media, checkpoint, tmp_path):
    folder = media("whole.mp4", "cut_000030.mp4")
    (tmp_path / "set.csv").write_text(
        '# YTID, start_seconds, end_seconds, positive_labels\nwhole, 3.000, 5.000, "b,a"\n'
        'gone, 0.000, 2.000, "c"\ncut, 30.000, 36.000, "c"\n'
    )
    out = tmp_path / "out"
    states = run(out, Source(folder, tmp_path / "set.csv"), checkpoint)
    assert (states[0].skipped, states[-1].clips) == (1, 2)
    (line,) = skipped(out)
    assert line["source"] == "gone" and "no file in" in line["reason"]
    found = notes(out)
    assert found["000000000.json"]["start_s"] == 3
    assert found["000000001.json"]["source"] == "cut_000030.mp4"
    assert (found["000000001.json"]["start_s"], found["000000001.json"]["end_s"]) == (30, 32)
    clips = ShardedClips(out, CONFIG)
    assert clips.labels == ("a", "b", "c")
    np.testing.assert_array_equal(clips.in_memory().labels, [[1, 1, 0], [0, 0, 1]])


def test_a_file_named_after_the_video_alone_is_told_by_its_length(media, checkpoint, tmp_path):
    """The same 6 s: the segment itself in one row, a longer video in the other."""
    folder = media("ID.mp4")
    (tmp_path / "cut.csv").write_text('ID, 40.0, 46.0, "a"\n')
    (tmp_path / "whole.csv").write_text('ID, 2.0, 4.0, "a"\n')
    tokens = {}
    for name in ("cut", "whole"):
        run(tmp_path / name, Source(folder, tmp_path / f"{name}.csv"), checkpoint)
        tokens[name] = ShardedClips(tmp_path / name, CONFIG).in_memory().tokens[0]
    run(tmp_path / "folder", Source(folder), checkpoint)
    windows = ShardedClips(tmp_path / "folder", CONFIG).in_memory().tokens
    np.testing.assert_array_equal(tokens["cut"], windows[0])
    np.testing.assert_array_equal(tokens["whole"], windows[1])


def test_a_short_clip_repeats_its_last_feature_and_falls_silent(made, checkpoint, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    silent = make_video(tmp_path / "short.mp4", num_frames=30)  # 1.2 s: 3 frames of 5
    Audio(np.full(16_000 * 12 // 10, 0.3, np.float32), 16_000).save(media / "a.mp4", video=silent)
    run(tmp_path / "out", Source(media), checkpoint)
    features = ShardedClips(tmp_path / "out", CONFIG).in_memory().features[0]
    assert (features[2] == features[3]).all() and (features[2] == features[4]).all()
    assert (features[1] != features[2]).any()
    assert notes(tmp_path / "out")["000000000.json"]["end_s"] == pytest.approx(1.2)


def test_bad_files_are_listed_with_their_reason(made, media, checkpoint, tmp_path):
    folder = media("a.mp4", "damaged.mp4", "short.mp4")
    shutil.copy(made / "silent.mp4", folder / "nosound.mp4")
    (folder / "text.mp4").write_text("no video")
    damage(folder / "damaged.mp4", range(60, 80))
    data = (folder / "short.mp4").read_bytes()
    (folder / "short.mp4").write_bytes(data[: len(data) // 2])
    out = tmp_path / "out"
    states = run(out, Source(folder), checkpoint)
    reasons = {}
    for line in skipped(out):
        reasons.setdefault(line["source"], []).append((line["start_s"], line["reason"]))
    assert [at for at, _ in reasons["nosound.mp4"]] == [0, 2, 4]
    assert "has no sound, expected a soundtrack" in reasons["nosound.mp4"][0][1]
    assert "cannot be read as video" in reasons["text.mp4"][0][1]
    assert "cannot be read as video" in reasons["short.mp4"][0][1]
    assert 2 in [at for at, reason in reasons["damaged.mp4"] if "is damaged" in reason]
    assert "a.mp4" not in reasons
    assert states[-1].clips + states[-1].skipped == 3 * 3 + 2
    assert states[-1].clips == len(ShardedClips(out, CONFIG)) >= 4


def test_a_stopped_run_goes_on_where_it_was(media, checkpoint, tmp_path):
    source = Source(media("a.mp4", "b.mp4"))
    (source.media / "c.mp4").write_text("no video")
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    run(whole, source, checkpoint, clips_per_shard=2)
    states = extract(halved, source, CONFIG, checkpoint, clips_per_shard=2)
    for _ in range(2):
        next(states)
    states.close()
    with pytest.raises(DataError, match="is not finished: 1 shards are there"):
        ShardedClips(halved, CONFIG)
    first = (halved / "shard-000000.tar").stat()
    with (halved / "skipped.jsonl").open("a") as file:  # as if killed while writing the next shard
        file.write('{"source":"a.mp4","start_s":2.0,"reason":"x","shard":1}\n{"source":"a.m')
    (halved / ".vab-rt-0123.part").write_text("half a shard")
    states = run(halved, source, checkpoint, clips_per_shard=2)
    assert [state.shards for state in states] == [1, 2, 3]
    assert (halved / "shard-000000.tar").stat().st_mtime_ns == first.st_mtime_ns
    assert contents(halved) == contents(whole)
    assert [state.shards for state in run(halved, source, checkpoint, clips_per_shard=2)] == [3]


def test_a_finished_shard_that_is_lost_is_made_again(media, checkpoint, tmp_path):
    source, out = Source(media("a.mp4")), tmp_path / "out"
    run(out, source, checkpoint, clips_per_shard=1)
    before = contents(out)
    (out / "shard-000001.tar").unlink()
    (out / "shard-000002.tar").write_bytes(b"cut short")
    run(out, source, checkpoint, clips_per_shard=1)
    assert contents(out) == before


def test_a_full_disk_names_the_file_and_loses_nothing(media, checkpoint, tmp_path, monkeypatch):
    source, out = Source(media("a.mp4")), tmp_path / "out"
    write_bytes, num_written = Path.write_bytes, 0

    def room_for_eight(path, data):
        nonlocal num_written
        num_written += 1
        if num_written > 8:
            raise OSError(28, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", room_for_eight)
    with pytest.raises(OutputError, match=r"out/shard.* could not be written \(No space left"):
        run(out, source, checkpoint, clips_per_shard=1)
    assert not list(out.glob(".vab-rt*"))
    monkeypatch.undo()
    states = run(out, source, checkpoint, clips_per_shard=1)
    assert states[0].shards >= 1 and states[-1].shards == 3
    assert len(ShardedClips(out, CONFIG)) == 3


def test_only_the_same_extraction_goes_on(media, checkpoint, tmp_path):
    source, out = Source(media("a.mp4")), tmp_path / "out"
    run(out, source, checkpoint)
    with pytest.raises(DataError, match="was begun with clips_per_shard 512, expected 7"):
        run(out, source, checkpoint, clips_per_shard=7)
    (tmp_path / "set.csv").write_text('a, 0.0, 2.0, "x"\n')
    with pytest.raises(DataError, match="was begun with csv_sha256 None, expected"):
        run(out, Source(source.media, tmp_path / "set.csv"), checkpoint)
    other = tmp_path / "other.pt"
    torch.save(tiny_checkpoint(CONFIG, seed=1), other)
    with pytest.raises(DataError, match="was begun with another checkpoint"):
        run(out, source, other)


@pytest.mark.parametrize("name", ["request.json", "shards.json"])
@pytest.mark.parametrize("damage", ["empty", "folder"])
def test_a_damaged_folder_is_named(media, checkpoint, tmp_path, name, damage):
    source, out = Source(media("a.mp4")), tmp_path / "out"
    run(out, source, checkpoint)
    (out / name).unlink()
    (out / name).touch() if damage == "empty" else (out / name).mkdir()
    with pytest.raises(DataError, match=name):
        run(out, source, checkpoint)


def test_a_checkpoint_of_another_architecture_is_refused(media, checkpoint, tmp_path):
    config = tiny_config(codebook_size=64)
    with pytest.raises(DataError, match=r"ckpt\.pt has codebook_size 37, expected 64"):
        list(extract(tmp_path / "out", Source(media("a.mp4")), config, checkpoint))
    assert not (tmp_path / "out").exists()


def test_media_that_vanish_are_no_bad_files(media, checkpoint, tmp_path):
    """An unmounted disk must not fill skipped.jsonl and finish."""
    source, out = Source(media("a.mp4")), tmp_path / "out"
    states = extract(out, source, CONFIG, checkpoint, clips_per_shard=1)
    for _ in range(2):
        next(states)
    (source.media / "a.mp4").rename(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="has lost its files, such as a.mp4"):
        list(states)
    (tmp_path / "a.mp4").rename(source.media / "a.mp4")
    assert run(out, source, checkpoint, clips_per_shard=1)[-1].clips == 3


def test_nothing_readable_is_an_error(made, checkpoint, tmp_path):
    media = tmp_path / "media"
    media.mkdir()
    shutil.copy(made / "silent.mp4", media)
    for _ in range(2):
        with pytest.raises(DataError, match=r"none of the 3 clips could be read.*skipped\.jsonl"):
            run(tmp_path / "out", Source(media), checkpoint)
    assert len(skipped(tmp_path / "out")) == 3


@pytest.mark.parametrize("options", [{"workers": 0}, {"clips_per_shard": 0}])
def test_counts_are_at_least_one(media, checkpoint, tmp_path, options):
    with pytest.raises(OptionError, match="expected at least 1 of each"):
        run(tmp_path / "out", Source(media("a.mp4")), checkpoint, **options)


def test_an_unknown_device_is_named(media, checkpoint, tmp_path):
    with pytest.raises(BackendError, match="device 'abacus' cannot be used"):
        run(tmp_path / "out", Source(media("a.mp4")), checkpoint, device="abacus")


@pytest.fixture
def command(checkpoint, tmp_path):
    """Arguments of the command for a media folder."""
    config = recipe_file(tmp_path / "tiny.toml", CONFIG)

    def arguments(folder, *more):
        paths = {"--media": folder, "--config": config, "--ckpt": checkpoint, "--out": "out"}
        paths["--out"] = tmp_path / "out"
        return [str(word) for pair in paths.items() for word in pair] + list(more)

    return arguments


def test_the_command_reports_and_ends_well(media, command, capsys):
    main(command(media("a.mp4"), "--workers", "1", "--clips-per-shard", "2"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("shard 0 of 2: 0 clips, 0 skipped")
    assert lines[2].startswith("shard 2 of 2: 3 clips, 0 skipped")
    assert lines[3].endswith("out")


def test_the_command_prints_an_error_as_one_line(media, command, refused, tmp_path):
    (tmp_path / "bad.toml").write_text("clip_minuets = 3\n[model]\nname = 'x'\n")
    for more, message in [
        (["--csv", str(tmp_path / "none.csv")], "none.csv is not a file, expected a CSV"),
        (["--config", str(tmp_path / "bad.toml")], "clip_minuets"),
        (["--ckpt", str(tmp_path / "none.pt")], "none.pt is not a file"),
        (["--media", str(tmp_path / "none")], "none is not a folder, expected one with media"),
    ]:
        assert message in refused(main, *command(media("a.mp4"), *more))


@pytest.mark.slow
def test_a_killed_run_of_several_processes_goes_on(media, checkpoint, command, tmp_path):
    folder = media(*(f"{letter}.mp4" for letter in "abcd"))
    words = command(folder, "--workers", "2", "--clips-per-shard", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "training.extract", *words], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("shard 3 "):
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    whole = tmp_path / "whole"
    states = run(tmp_path / "out", Source(folder), checkpoint, clips_per_shard=1)
    assert 3 <= states[0].shards < states[-1].shards == 12
    run(whole, Source(folder), checkpoint, clips_per_shard=1)
    assert contents(tmp_path / "out") == contents(whole)
