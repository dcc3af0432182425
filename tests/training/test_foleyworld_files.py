"""FoleyWorld as files: mp4 with its truth, contact sheets, arrays for training, and bad input."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest
from command import small_disk

from training.configs import read_recipe
from training.datasets import rendered
from training.datasets.rendered import read_clips, rendered_clips
from training.datasets.resumable_arrays import Row
from training.foleyworld import CLASSES, NUM_SAMPLES, VERSION, clip_seeds, make_scene, read_truth
from training.foleyworld.__main__ import main
from training.foleyworld.rendering import frame_times
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, OutputError

SMALL = ["--width", "64", "--height", "64", "--fps", "5"]


def read_streams(path: Path) -> tuple[list[np.ndarray], np.ndarray | None]:
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return pictures, None
        assert container.streams.audio[0].codec_context.name == "aac"
        blocks = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return pictures, np.concatenate(blocks)


def test_mp4_round_trip(tmp_path):
    arguments = ["render", "--out", str(tmp_path), "--clips", "1", "--seed", "3", "--kind", "drum"]
    main([*arguments, "--width", "114", "--height", "64", "--fps", "10"])
    (path,) = tmp_path.glob("*.mp4")
    scene = make_scene(clip_seeds("test", 3, 1)[0], "drum")
    assert read_truth(path.with_suffix(".json")) == scene.truth
    pictures, audio = read_streams(path)
    expected = scene.frames(frame_times(10.0), 114, 64)
    assert len(pictures) == len(expected) == 100
    assert np.abs(np.array(pictures).astype(int) - expected).mean() < 6
    assert audio is not None
    assert abs(len(audio) - NUM_SAMPLES) <= 2048
    shared = min(len(audio), NUM_SAMPLES)
    assert np.corrcoef(audio[:shared], scene.audio()[:shared])[0, 1] > 0.8


def test_silent_mp4_has_no_audio_track(tmp_path):
    main(["render", "--out", str(tmp_path), "--clips", "1", "--silent", "--kind", "ball", *SMALL])
    (path,) = tmp_path.glob("*.mp4")
    pictures, audio = read_streams(path)
    assert len(pictures) == 50
    assert audio is None


def test_a_clip_of_two_sources_is_named_after_both(tmp_path):
    main(["render", "--out", str(tmp_path), "--clips", "1", "--sources", "2", *SMALL])
    (path,) = tmp_path.glob("*.mp4")
    truth = read_truth(path.with_suffix(".json"))
    assert len(truth.classes) == 2
    assert path.name == f"{'-'.join(truth.classes)}-{truth.seed:09d}.mp4"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".mp4"]


def test_sheet(tmp_path):
    main(["sheet", "--out", str(tmp_path / "sheet.png"), "--clips", "3", "--kind", "each"])
    assert (tmp_path / "sheet.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "0"], "0 clips asked for; expected 1 or more"),
        (["--seed", "-1"], "first seed is -1; expected 0 or more"),
        (["--width", "1"], "width is 1; expected an even number from 16 to 4096"),
        (["--height", "65"], "height is 65; expected an even number"),
        (["--fps", "0"], "fps is 0; expected 1 to 120"),
        (["--kind", "waves", "--sources", "2"], "waves fills the picture"),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path, refused):
    out = tmp_path / "clips"
    assert message in refused(main, "render", "--out", out, "--clips", "1", *arguments)
    assert not list(tmp_path.glob("clips/*"))


@pytest.mark.parametrize("arguments", [["--kind", "cat"], ["--clips", "many"], ["--sources", "3"]])
def test_usage_errors_exit_2(arguments, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["render", "--out", str(tmp_path), *arguments])
    assert ended.value.code == 2


@pytest.mark.parametrize("command", ["render", "sheet"])
def test_a_place_that_cannot_be_written_is_one_line(command, tmp_path, refused):
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "clips"
    assert str(out) in refused(main, command, "--out", out, "--clips", "1")


def test_a_disk_that_fills_up_leaves_no_half_clip(tmp_path):
    with small_disk(), pytest.raises(SystemExit) as ended:
        main(["render", "--out", str(tmp_path), "--clips", "1", "--kind", "rain", *SMALL])
    assert ended.value.code == 1
    assert not list(tmp_path.glob("*.mp4"))
    assert not list(tmp_path.glob("*.partial"))


@pytest.fixture
def config() -> ModelConfig:
    model = read_recipe("default").model
    return msgspec.structs.replace(model, image_size=16, visual_rate_hz=1.0, image_stride=1)


def test_clips_have_several_labels_and_one_primary(tmp_path, config, capfd):
    clips = rendered_clips(tmp_path, "train", 28, config)
    assert "28 of 28 clips" in capfd.readouterr().err
    assert len(clips) == 28
    scenes = [make_scene(seed) for seed in clip_seeds("train", 0, 28)]
    assert clips.labels.dtype == np.float32
    assert clips.labels.shape == (28, len(CLASSES))
    for i, scene in enumerate(scenes):
        assert {CLASSES[j] for j in np.flatnonzero(clips.labels[i])} == set(scene.classes)
        assert CLASSES[clips.primary[i]] == scene.classes[0]
    assert clips.labels.sum() > 28  # two of these scenes have two sources
    assert clips.frames.shape == (28, 10, 16, 16, 3)
    assert clips.frames.dtype == np.uint8
    np.testing.assert_array_equal(clips.frames[5], scenes[5].frames(np.arange(10) + 0.5, 16, 16))
    np.testing.assert_allclose(clips.audio[5] / 32767, scenes[5].audio(), atol=2e-5)
    assert clips.captions[5] == [scenes[5].caption(t) for t in np.arange(10) + 0.5]
    rendered_clips(tmp_path, "train", 28, config)
    assert capfd.readouterr().err == ""


@pytest.fixture
def one_frame(config: ModelConfig) -> ModelConfig:
    return msgspec.structs.replace(config, visual_rate_hz=0.1)


def folder_of(folder: Path, count: int) -> Path:
    return folder / f"test-{count}-16px-0.1fps-world{VERSION}"


def test_interrupted_rendering_goes_on(tmp_path, one_frame, monkeypatch):
    def stopped(*_: object) -> Iterator[Row]:
        yield from islice(whole(*_), 3)
        raise KeyboardInterrupt

    whole = rendered.in_order
    monkeypatch.setattr(rendered, "in_order", stopped)
    with pytest.raises(KeyboardInterrupt):
        rendered_clips(tmp_path, "test", 5, one_frame)
    folder = folder_of(tmp_path, 5)
    partial = folder.with_name(folder.name + ".partial")
    assert partial.exists() and not folder.exists()
    with (partial / "frames.npy").open("r+b") as file:
        file.truncate(128 + 2 * 768 + 5)  # killed in the third row
    monkeypatch.setattr(
        rendered, "in_order", lambda f, jobs, workers: made.append(len(jobs)) or map(f, jobs)
    )
    made: list[int] = []
    clips = rendered_clips(tmp_path, "test", 5, one_frame)
    assert made == [3]
    assert list(tmp_path.iterdir()) == [folder]
    again = rendered_clips(tmp_path / "again", "test", 5, one_frame)
    for name in ("audio", "frames", "labels", "primary"):
        np.testing.assert_array_equal(getattr(clips, name), getattr(again, name))
    assert clips.captions == again.captions


@pytest.mark.parametrize("name", ["notes.jsonl", "audio.npy", "frames.npy"])
def test_damaged_clips_are_named(name, tmp_path, one_frame):
    rendered_clips(tmp_path, "test", 1, one_frame)
    folder = folder_of(tmp_path, 1)
    with (folder / name).open("r+b") as file:
        file.truncate(20)
    with pytest.raises(DataError, match=rf"{folder} cannot be read .*delete it"):
        read_clips(folder)


def test_a_full_disk_names_the_folder(tmp_path, one_frame):
    folder = folder_of(tmp_path, 1)
    said = rf"{folder} cannot be written: .*GB free"
    with small_disk(), pytest.raises(OutputError, match=said):
        rendered_clips(tmp_path, "test", 1, one_frame)
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path, config):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file/.*cannot be written"):
        rendered_clips(tmp_path / "file", "test", 1, config)


@pytest.mark.parametrize("content", [b"", b"{", b'{"seed": "one"}', b"\xff"])
def test_a_damaged_truth_names_its_file(tmp_path, content):
    path = tmp_path / "clip.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path} cannot be read .*render the clip again"):
        read_truth(path)
