"""Videos as bytes and as file objects: the same sound as of the file, however often opened."""

import io
import pickle
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor

import av.error
import numpy as np
import pytest
from media import make_video

import vab_rt
from vab_rt.delivery import Delivery
from vab_rt.errors import MediaError
from vab_rt.source import Source
from vab_rt.video import Video

WAYS = {
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "a file": lambda path: path.open("rb"),
}
# Read in ways of their own: sought, opened again, without times of display; a still.
FORMATS = ("mkv", "ts", "avi", "png")


def make_any(path):
    codec = {".png": "png", ".avi": "mpeg4"}.get(path.suffix, "libx264")
    if path.suffix == ".png":
        return make_video(path, codec=codec, num_frames=1, pix_fmt="rgb24", b_frames=0)
    return make_video(path, codec=codec, num_frames=50)


@pytest.mark.parametrize(
    ("suffix", "way"),
    [*(("mp4", way) for way in WAYS), *((suffix, "bytes") for suffix in FORMATS)],
)
def test_the_sound_is_that_of_the_file(pipeline, tmp_path, suffix, way):
    path = make_any(tmp_path / f"in.{suffix}")
    part = (0.0, 1.0) if suffix == "png" else (0.7, 0.9)
    given = WAYS[way](path)
    expected = pipeline.generate(Video(path, *part), seed=7)
    found = pipeline.generate(Video(given, *part), seed=7)
    assert np.array_equal(found.samples, expected.samples)
    assert Video(given, *part).info == Video(path, *part).info


@pytest.mark.filterwarnings("ignore:copy.mp4 does not get all")  # not the video's own sound
@pytest.mark.parametrize("way", ["bytes", "a file"])
def test_all_that_takes_a_video_takes_it(pipeline, tmp_path, way):
    """Some of them read it twice at once."""
    path = make_video(tmp_path / "in.mp4", num_frames=50, with_sound=True)
    both, opened = [], WAYS[way](path)
    for folder, video in (("of_path", path), ("of_object", opened)):
        out = tmp_path / folder
        out.mkdir()
        first, _ = pipeline.candidates(video, num_candidates=2)
        audio = pipeline.regenerate(video, first, 0.5, 1.0, seed=8)
        audio.save(out / "sound.wav", video=video)
        audio.save(out / "copy.mp4", video=video)
        audio.save(out / "mixed.mkv", video=video, delivery=Delivery(mix="keep"))
        both.append([each.read_bytes() for each in sorted(out.glob("*.[wm]*[!n]"))])
    assert both[0] == both[1] and len(both[0]) == 3
    assert pipeline.generate(opened).duration_s == 2.0


def test_pictures_are_drawn_of_bytes(pipeline, videos, tmp_path):
    pytest.importorskip("PIL", reason="the extra `picture` is not installed")
    path = videos(50)
    audio = pipeline.generate(path)
    for name, video in (("a.png", path), ("b.png", path.read_bytes())):
        vab_rt.save_picture(tmp_path / name, audio, video)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_threads_may_share_bytes(pipeline, videos):
    video = Video(videos(60).read_bytes())
    expected = pipeline.generate(videos(60)).samples
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(lambda _: pipeline.generate(video).samples, range(8)):
            assert np.array_equal(found, expected)


def test_copies_of_bytes_are_sent_to_other_processes(videos):
    video = Video(videos(50).read_bytes(), 0.5)
    again = pickle.loads(pickle.dumps(video))
    assert again.info == video.info and again.start_s == 0.5


def closed(path):
    file = path.open("rb")
    file.close()
    return file


class Pipe(io.BytesIO):
    def seekable(self):
        return False


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (closed, "is closed, expected bytes, or a file that is open for reading, in binary, and"),
        (lambda path: Pipe(path.read_bytes()), "video in memory cannot seek, expected"),
        (lambda path: path.open(encoding="latin-1"), "is open as text, expected"),
        (lambda path: (path.parent / "new").open("wb"), "new is not open for reading, expected"),
        (lambda _: None, "the video is NoneType, expected the name of a file, bytes, or a file"),
        (lambda _: b"", "video in memory is empty (0 bytes), expected a video"),
        (lambda _: b"in.mp4", "video in memory cannot be read as video"),
    ],
)
def test_what_is_refused(pipeline, tmp_path, make, message):
    path = make_video(tmp_path / "in.mp4", num_frames=5)
    with pytest.raises(MediaError, match=re.escape(message)):
        pipeline.generate(make(path))


def test_a_file_that_is_closed_meanwhile(tmp_path):
    """As one that is cut short: what could be read was, and then there is no more."""
    path = make_video(tmp_path / "in.mkv", num_frames=100, codec="rawvideo", b_frames=0)
    file = path.open("rb")
    source = Source(Video(file).path)
    packets = source.packets()
    next(packets)
    file.close()
    with pytest.raises(av.error.FFmpegError, match="closed file"):
        list(packets)
    with pytest.raises(MediaError, match="in.mkv is closed"):
        Source(source.path)


def test_a_video_that_is_elsewhere_once_it_is_read(pipeline, videos, tmp_path, monkeypatch):
    """A host may change its folder, move the file or close it while the sound is made."""
    path = videos(50)
    expected = pipeline.generate(path, seed=7)
    monkeypatch.chdir(path.parent)
    with path.open("rb") as file:
        steps = [pipeline.generate_steps(video, seed=7) for video in (path.name, file)]
        begun = [next(each) for each in steps]
    monkeypatch.chdir(tmp_path)
    for first, rest in zip(begun, steps, strict=True):
        found = pipeline.gather([first, *rest])
        assert np.array_equal(found.samples, expected.samples)
        assert found.take.video_bytes == path.stat().st_size


def test_a_spooled_file(pipeline, videos):
    with tempfile.SpooledTemporaryFile() as file:
        file.write(videos(50).read_bytes())
        assert pipeline.generate(file).duration_s == 2.0
