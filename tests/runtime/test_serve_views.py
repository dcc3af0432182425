"""What a page shows of a sound: its spectrogram with onsets, its video as browsers play it, and the
sound as it is wanted."""

import base64
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from command import small_disk
from media import frame_number, make_picture, make_video, samples_of

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from vab_rt.audio import Audio
from vab_rt.serve.views import spectrogram_of
from vab_rt.serve.worker import Worker


def clicks_at(path, times_s, rate_hz=16_000, seconds=3.0):
    samples = np.zeros(round(seconds * rate_hz), np.float32)
    noise = np.random.default_rng(0).standard_normal(800).astype(np.float32)
    for at_s in times_s:
        at = round(at_s * rate_hz)
        samples[at : at + 800] = 0.3 * noise * np.exp(-np.arange(800) / 200)
    Audio(samples, rate_hz).save(path)
    return path


@pytest.mark.parametrize("suffix", [".wav", ".mp3"])
def test_onsets_are_where_it_strikes(tmp_path, suffix):
    shown = spectrogram_of(clicks_at(tmp_path / f"a{suffix}", [0.5, 1.25, 2.0]))
    assert shown["onsets_s"] == pytest.approx([0.5, 1.25, 2.0], abs=0.03)
    assert shown["duration_s"] == pytest.approx(3, abs=0.1)
    levels = np.frombuffer(base64.b64decode(shown["levels"]), np.uint8)
    columns = levels.reshape(shown["num_columns"], shown["num_bands"])
    assert len(columns) * shown["column_s"] == pytest.approx(shown["duration_s"], abs=0.02)
    at = round(1.26 / shown["column_s"])
    assert columns[at].mean() > 100 and columns[at - 20].mean() < 10


def test_of_a_finished_sound_and_as_it_is_wanted(opened, tmp_path):
    server = opened()
    video = make_video(tmp_path / "in.mov", num_frames=50, with_sound=True)
    report = server.over(where := server.ask(video, "num_candidates=2&steps=4"))
    assert report["video_has_sound"] is True
    shown = server.client.get(f"{where}/spectrogram?candidate=2").json()
    assert shown["duration_s"] == 2.0 and shown["num_bands"] == 120
    files = {}
    for name, query in {
        "plain": "candidate=2",
        "quiet": "candidate=2&gain_db=-20",
        "mixed": "candidate=2&mix=keep&gain_db=-20",
        "film": "candidate=2&mix=duck&format=mp4",
    }.items():
        answer = server.client.get(f"{where}/content?{query}")
        assert answer.status_code == 200, answer.text
        files[name] = tmp_path / f"{name}.{'mp4' if name == 'film' else 'wav'}"
        files[name].write_bytes(answer.content)
    plain, quiet, mixed = (samples_of(files[name])[0] for name in ("plain", "quiet", "mixed"))
    assert quiet == pytest.approx(0.1 * plain, abs=1e-4)
    assert mixed == pytest.approx(0.1 * plain, abs=1e-4)
    with av.open(str(files["mixed"])) as stereo, av.open(str(files["film"])) as film:
        assert stereo.streams.audio[0].channels == 2  # as the video's own, which is silent
        assert film.streams.audio[0].channels == 2 and film.streams.video
    quieter = server.client.get(f"{where}/spectrogram?candidate=2&gain_db=-20").json()
    loudest, quietest = (max(base64.b64decode(of["levels"])) / 255 * 100 for of in (shown, quieter))
    assert loudest - quietest == pytest.approx(20, abs=1)


def test_of_many_ways_the_latest_few_are_kept(opened, videos):
    server = opened()
    server.over(where := server.ask(videos(25), "steps=2"))
    (folder,) = server.left()
    for number in range(20):
        assert server.client.get(f"{where}/content?gain_db={-number - 1}").status_code == 200
    assert len(list(folder.glob("sound.1.*.wav"))) == 16
    assert server.client.get(f"{where}/content").status_code == 200


@pytest.mark.parametrize(
    ("query", "words"),
    [
        *(("mix=both", "mix"), ("gain_db=99", "-60 to 40"), ("gain_db=nan", "-60 to 40")),
        *(("mix=keep", "has no sound"), ("bits=24&format=mp3", "bits"), ("candidate=x", "int")),
        *(("format=exe", "expected one of wav"), ("candidate=1&candidate=2", "once")),
    ],
)
def test_what_cannot_be_had_of_it_is_told(opened, videos, query, words):
    server = opened()
    server.over(where := server.ask(videos(25), "steps=2"))
    for of in ("content", "spectrogram"):
        answer = server.client.get(f"{where}/{of}?{query}")
        assert answer.status_code == 400 and words in answer.json()["error"], answer.text
        assert str(server.jobs.folder) not in answer.text


def test_a_full_disk_is_told_as_such(opened, videos):
    server = opened()
    server.over(where := server.ask(videos(25), "steps=2"))
    (folder,) = server.left()
    before = set(folder.iterdir())
    with small_disk():
        answer = server.client.get(f"{where}/content?rate_hz=96000")
    assert answer.status_code == 507 and "could not be written" in answer.json()["error"]
    assert str(folder) not in answer.text and set(folder.iterdir()) == before


@pytest.mark.parametrize("what", ["content?gain_db=1", "spectrogram", "preview"])
def test_a_sound_that_goes_meanwhile_is_gone(opened, videos, what, monkeypatch):
    server = opened()
    server.over(where := server.ask(videos(25), "steps=2"))
    (job,) = server.jobs.known.values()

    async def do_when_it_is_gone(viewer, work, *args, stop):
        server.jobs.forget(job)
        return await do(viewer, work, *args, stop=threading.Event())

    do = Worker.do
    monkeypatch.setattr(Worker, "do", do_when_it_is_gone)
    assert server.client.get(f"{where}/{what}").status_code == 404
    assert server.is_left_with()


@pytest.mark.parametrize("format", ["mp4", "webm"])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("hevc.mkv", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}),
        ("prores.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
        ("old.avi", {"codec": "mpeg4", "b_frames": 0}),
        ("turned.mp4", {"rotation": 90, "size": (96, 64)}),
        ("late.mkv", {"first_s": 7}),
    ],
)
def test_any_video_as_browsers_play_it(opened, tmp_path, name, more, format):
    server = opened()
    video = make_video(tmp_path / name, num_frames=40, **more)
    gate = server.hold()
    where = server.ask(video, "start_s=0.4&duration_s=1")
    answer = server.client.get(f"{where}/preview?format={format}")  # while it waits
    gate.set()
    assert answer.status_code == 200 and answer.headers["content-type"] == f"video/{format}"
    small = tmp_path / f"small.{format}"
    small.write_bytes(answer.content)
    with av.open(str(small)) as container:
        assert not container.streams.audio
        stream = container.streams.video[0]
        assert stream.codec_context.name == {"mp4": "h264", "webm": "vp8"}[format]
        frames = list(container.decode(stream))
        size = (64, 96) if "rotation" in more else (64, 48)
        assert (frames[0].width, frames[0].height) == size
        numbers = [frame_number(frame.to_ndarray(format="rgb24")) for frame in frames]
        times = [float(frame.time) for frame in frames]
    assert numbers == list(range(10, 35))
    assert times == pytest.approx([number / 25 for number in range(25)], abs=0.002)


def test_a_large_video_is_shown_small_at_its_own_times(opened, tmp_path):
    times = [Fraction(at, 1000) for at in (0, 33, 500, 510, 1400)]
    video = make_video(tmp_path / "a.mkv", num_frames=5, size=(854, 482), timestamps=times)
    server = opened()
    preview = server.client.get(f"{server.ask(video, 'steps=2')}/preview?format=mp4").content
    (tmp_path / "small.mp4").write_bytes(preview)
    with av.open(str(tmp_path / "small.mp4")) as container:
        frames = list(container.decode(video=0))
    assert (frames[0].width, frames[0].height) == (638, 360)
    assert [float(frame.time) for frame in frames] == pytest.approx([float(at) for at in times])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"no video at all" * 100, 400),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{0}\n#EXT-X-ENDLIST\n", 400),
        (b"ffconcat version 1.0\nfile {0}\n", 400),
    ],
)
def test_no_preview_of_what_is_no_video_or_a_list_of_other_files(opened, tmp_path, body, status):
    secret = make_video(tmp_path / "secret.ts", num_frames=50)
    (tmp_path / "sent").write_bytes(body.replace(b"{0}", str(secret).encode()))
    server = opened()
    gate = server.hold()
    where = server.ask(tmp_path / "sent")
    answer = server.client.get(f"{where}/preview")
    assert answer.status_code == status and str(tmp_path) not in answer.text
    gate.set()
    server.over(where)
    assert server.client.get(f"{where}/preview").status_code == 404  # it failed, and is gone
    assert server.client.get(f"{where}/preview?format=avi").status_code == 400
    assert server.is_left_with()


def test_a_still_is_shown_too(opened, tmp_path):
    server = opened()
    where = server.ask(make_picture(tmp_path / "a.png"), "duration_s=1&steps=2")
    assert server.client.get(f"{where}/preview").content[4:8] == b"ftyp"
