"""Which picture is shown when, and how long the selection is, for the files people have."""

import copy
import errno
import pickle
import warnings
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from media import count_opens, damage, frame_number, grey_level, make_picture, make_video, trim
from tiny_bundle import tiny_config

from vab_rt.config import ModelConfig
from vab_rt.errors import MediaError, MediaWarning, OptionError
from vab_rt.media import probe
from vab_rt.packets import timed_packets
from vab_rt.source import Source, decode, open_video
from vab_rt.video import Image, Video, read_frames

SIZE = 32


def config(visual_rate_hz: float = 2.0) -> ModelConfig:
    return tiny_config(clip_s=10.0, image_size=SIZE, visual_rate_hz=visual_rate_hz)


def read(path: Path, rate_hz: float = 2.0, **selection: float) -> tuple[list[int], float]:
    """Frame numbers shown at the ticks, and the exact duration."""
    images, length_s = read_frames(Video(path, **selection), config(rate_hz))
    return [frame_number(image) for image in images], length_s


def first_image(path: Path) -> Image:
    return next(Video(path).frames(config())).image


@pytest.mark.parametrize("fps", [24, 25, Fraction(30000, 1001), 50, 60])
def test_frame_rates(tmp_path, fps):
    video = make_video(tmp_path / "in.mp4", num_frames=45, fps=fps)
    numbers, duration_s = read(video, rate_hz=5.0)
    assert duration_s == pytest.approx(float(45 / Fraction(fps)), abs=1e-9)
    expected = [int(Fraction(2 * i + 1, 10) * Fraction(fps)) for i in range(len(numbers))]
    assert numbers == expected
    assert len(numbers) == sum((i + 0.5) / 5 < duration_s for i in range(100))


HEVC = {"codec": "libx265", "options": {"x265-params": "log-level=none"}, "b_frames": 0}
FILES = [
    *[(f"in.{suffix}", {"b_frames": 0}) for suffix in ("mp4", "mov", "mkv", "ts")],
    ("in.webm", {"codec": "libvpx-vp9", "b_frames": 0}),
    ("in.mp4", HEVC),
    ("in.avi", {"codec": "mpeg4", "b_frames": 0}),
    ("in.avi", {"b_frames": 0}),
    ("in.avi", {"b_frames": 2}),  # no times of display, and FFmpeg guesses them wrong
    ("in.h264", {}),  # no times at all: frames are counted
    ("in.mp4", {"with_sound": True}),
]


@pytest.mark.parametrize(("name", "facts"), FILES)
def test_a_tick_shows_the_frame_on_display_in_the_middle_of_its_time(tmp_path, name, facts):
    """Ticks at 0.25, 0.75, 1.25, 1.75 s; frame n is on display from n/25 s, in every file."""
    assert read(make_video(tmp_path / name, **facts)) == ([6, 18, 31, 43], 2.0)


@pytest.mark.parametrize("suffix", ["mkv", "ts", "mp4"])
def test_time_0_is_the_first_displayed_frame(tmp_path, suffix):
    video = make_video(
        tmp_path / f"in.{suffix}",
        first_s=3,
        format_options={"use_editlist": "0"} if suffix == "mp4" else None,
    )
    assert probe(video).first_s > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(video) == ([6, 18, 31, 43], 2.0)
        assert read(video, start_s=1.0) == ([31, 43], 1.0)


def test_variable_frame_rate(tmp_path):
    times = [Fraction(n * n, 1000) for n in range(50)]  # ever slower: the last at 2.401 s
    video = make_video(tmp_path / "in.mp4", timestamps=times)
    numbers, duration_s = read(video)
    assert numbers == [15, 27, 35, 41, 47]  # the largest n with n * n / 1000 <= 0.25, 0.75, ...
    assert duration_s >= 2.401


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_frame_that_stays_for_an_hour_wants_a_duration(tmp_path, suffix):
    times = [Fraction(n, 25) + (3600 if n >= 25 else 0) for n in range(50)]
    video = make_video(tmp_path / f"in.{suffix}", timestamps=times)
    shown = []
    with pytest.raises(
        MediaError, match=r"one frame from 0\.96 to 3601\.00 s, .* --duration"
    ) as told:
        shown.extend(Video(video).frames(config()))
    assert len(shown) <= 2 and "\n" not in str(told.value)
    for part, numbers in (
        ({"duration_s": 2.0}, [6, 18, 24, 24]),
        ({"start_s": 3000.0, "duration_s": 1.0}, [24, 24]),
        ({"start_s": 3600.0}, [24, 24, 31, 43]),
    ):
        assert read(video, **part)[0] == numbers, part


def test_selection(tmp_path):
    """Past the end it stops there, and between ticks it still shows one picture."""
    video = make_video(tmp_path / "in.mp4")
    for part, numbers, length_s in (
        ({"start_s": 0.7, "duration_s": 0.5}, [23], 0.5),  # tick at 0.95 s
        ({"start_s": 0.48}, [18, 30, 43], 1.52),
        ({"duration_s": 1.0}, [6, 18], 1.0),
        ({"duration_s": 20.0}, [6, 18, 31, 43], 2.0),
        ({"start_s": 1.5, "duration_s": 20.0}, [43], 0.5),
        ({"start_s": 1.9}, [49], 0.1),
        ({"duration_s": 0.01}, [0], 0.01),
    ):
        assert read(video, **part) == (numbers, pytest.approx(length_s)), part
    for start_s in (2.0, 2.5, 1000.0):
        with pytest.raises(OptionError, match=r"start is .* expected less than the video's 2 s"):
            read(video, start_s=start_s)


def test_a_clock_that_starts_again_goes_on(tmp_path):
    part = make_video(tmp_path / "part.ts").read_bytes()
    later = make_video(tmp_path / "later.ts", first_s=1000).read_bytes()
    (tmp_path / "in.ts").write_bytes(part + later + part)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path / "in.ts") == (3 * [6, 18, 31, 43], pytest.approx(6.0))
    assert read(tmp_path / "in.ts", start_s=4.0) == ([6, 18, 31, 43], pytest.approx(2.0))


def test_what_an_edit_list_hides_is_not_read(tmp_path):
    video = trim(make_video(tmp_path / "in.mp4"), 15 * 1200, 1.0)
    assert read(video) == ([21, 33], 1.0)


def test_copies_of_an_opened_video_open_it_themselves(tmp_path):
    video = Video(make_video(tmp_path / "in.mp4", num_frames=5), start_s=0.04)
    assert video.info.duration_s is not None  # opened, and its file is held for the first reader
    copies = [copy.copy(video), copy.deepcopy(video), pickle.loads(pickle.dumps(video))]
    assert copies == [video] * 3
    lengths = [read_frames(part, config())[1] for part in (*copies, video)]
    assert lengths == [pytest.approx(0.16)] * 4


def test_a_name_with_a_null_character_is_no_file():
    with pytest.raises(MediaError, match=r"cannot be read \(.*null.*\), expected a video file"):
        _ = Video("in\0.mp4").info


STILLS = ["png", "jpg", "webp", "bmp", "gif", "mp4"]


@pytest.mark.parametrize("suffix", STILLS)
def test_a_still_takes_as_long_as_it_is_told_to(tmp_path, suffix):
    name = tmp_path / f"wh%03d?.{suffix}"  # no pattern of a sequence
    still = make_video(name, num_frames=1) if suffix == "mp4" else make_picture(name)
    number = 0 if suffix == "mp4" else 7
    assert probe(still).is_still
    assert read(still, duration_s=3.2) == ([number] * 6, 3.2)
    assert Video(still, duration_s=3.2).expected_s == 3.2
    with pytest.raises(OptionError, match=r"is a still, .*; say how many seconds with --dur"):
        read(still)
    with pytest.raises(OptionError, match=r"start is 1 s in .*, a still, expected 0"):
        read(still, start_s=1.0, duration_s=3.0)


def test_a_short_or_a_damaged_video_is_no_still(tmp_path):
    assert not probe(make_video(tmp_path / "two.mp4", num_frames=2)).is_still
    mjpeg = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "b_frames": 0}
    video = make_video(tmp_path / "in.avi", num_frames=5, **mjpeg)
    assert not probe(damage(video, range(1, 5))).is_still
    raw = make_video(tmp_path / "in.y4m", num_frames=2, codec="rawvideo")
    raw.write_bytes(raw.read_bytes()[::-1].replace(b"EMARF", b"XXXXX", 1)[::-1])
    assert not probe(raw).is_still
    with pytest.warns(MediaWarning, match="is damaged: 1 of its packets"):
        assert read(raw)[0] == [0]


def test_one_frame_that_is_shown_for_long_is_a_video(tmp_path):
    slide = make_video(tmp_path / "slide.mp4", num_frames=1, fps=Fraction(1, 3))
    assert not probe(slide).is_still
    assert read(slide) == ([0] * 6, 3.0)
    assert read(slide, start_s=1.0, duration_s=1.0) == ([0] * 2, 1.0)


SEEN = [
    # start, duration, seconds seen; lead, numbers of the pictures at 2 a second
    (2.0, 0.5, 2.0, 0.75, [37, 0, 12, 25]),
    (0.0, 0.5, 2.0, 0.0, [6, 18, 31, 43]),
    (3.5, 0.5, 2.0, 1.5, [6, 18, 31, 43]),
    (3.5, None, 2.0, 1.5, [6, 18, 31, 43]),
    (3.5, 9.0, 2.0, 1.5, [6, 18, 31, 43]),
    (1.0, 2.5, 2.0, 0.0, [31, 43, 6, 18, 31]),
    (1.0, 0.5, 10.0, 1.0, [6, 18, 31, 43, 6, 18, 31, 43]),
]


@pytest.mark.parametrize(("start_s", "duration_s", "seen_s", "lead_s", "numbers"), SEEN)
def test_a_short_selection_is_seen_with_what_surrounds_it(
    tmp_path, start_s, duration_s, seen_s, lead_s, numbers
):
    video = make_video(tmp_path / "in.mp4", num_frames=100)
    part = Video(video, start_s, duration_s)
    assert part.lead_s(seen_s) == lead_s
    frames = list(part.frames(config(), seen_s))
    assert [frame_number(frame.image) for frame in frames] == numbers
    assert frames[-1].end_s == min(duration_s or 4.0, 4.0 - start_s)


def test_every_start_shows_what_reading_from_the_beginning_shows(tmp_path):
    video = make_video(tmp_path / "in.mp4", num_frames=50, gop=10)
    for start in range(49):
        assert read(video, 25.0, start_s=start / 25)[0] == list(range(start, 50)), start


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "h264"])
def test_starts_in_containers_that_seek_badly(tmp_path, suffix):
    video = make_video(tmp_path / f"in.{suffix}", num_frames=100, gop=40)
    for start in (1, 33, 64, 99):
        expected = [n % 50 for n in range(start, 100)]
        assert read(video, 25.0, start_s=start / 25)[0] == expected, start


def test_decoding_stops_at_the_end_of_the_selection(tmp_path, monkeypatch):
    video = make_video(tmp_path / "in.mp4", num_frames=500)
    num_decoded = 0
    real = Video._timed_frames

    def counting(video: Video, start: Fraction):
        nonlocal num_decoded
        for item in real(video, start):
            num_decoded += 1
            yield item

    monkeypatch.setattr(Video, "_timed_frames", counting)
    assert read(video, duration_s=1.0) == ([6, 18], 1.0)
    assert num_decoded == 26  # 25 frames of the second, and the one that shows it is over


def corner_picture(number: int) -> np.ndarray:
    """Red at the top left, blue at the bottom right."""
    image = np.zeros((48, 48, 3), np.uint8)
    image[:24, :24, 0] = 255
    image[24:, 24:, 2] = 255
    return image


@pytest.mark.parametrize(
    ("rotation", "red"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))]
)
def test_rotation_is_applied(tmp_path, rotation, red):
    """Degrees counter-clockwise: a quarter turn moves the top left corner to the bottom left."""
    video = make_video(
        tmp_path / "in.mp4", num_frames=3, size=(48, 48), picture=corner_picture, rotation=rotation
    )
    picture = first_image(video).astype(int)
    quarters = picture.reshape(2, SIZE // 2, 2, SIZE // 2, 3).mean(axis=(1, 3))  # [2, 2, 3]
    reddest = np.unravel_index(np.argmax(quarters[..., 0]), (2, 2))
    bluest = np.unravel_index(np.argmax(quarters[..., 2]), (2, 2))
    assert tuple(reddest) == red
    assert tuple(bluest) == (1 - red[0], 1 - red[1])


def test_probe_tells_the_displayed_size(tmp_path):
    video = make_video(tmp_path / "in.mp4", rotation=90, num_frames=5)
    info = probe(video)
    assert (info.codec, info.width, info.height, info.rate_hz) == ("h264", 48, 64, 25.0)
    assert info.duration_s == pytest.approx(0.2)
    wide = probe(make_video(tmp_path / "wide.mp4", aspect=Fraction(4, 3), num_frames=5))
    assert (wide.width, wide.height) == (85, 48)


@pytest.mark.parametrize(
    ("size", "pix_fmt", "options"),
    [
        ((63, 47), "yuv444p", {}),
        ((17, 201), "yuv444p", {}),
        ((64, 48), "yuv420p10le", {}),
        ((64, 48), "yuv422p10le", {}),
        ((64, 48), "yuvj420p", {}),
        ((64, 64), "yuv420p", {"x264-params": "tff=1:interlaced=1"}),
    ],
    ids=["odd", "tall", "10 bit", "10 bit 4:2:2", "full range", "interlaced"],
)
def test_formats(tmp_path, size, pix_fmt, options):
    video = make_video(tmp_path / "in.mp4", size=size, pix_fmt=pix_fmt, options=options)
    pictures, _ = read_frames(Video(video), config())
    assert all(p.shape == (SIZE, SIZE, 3) and p.dtype == np.uint8 for p in pictures)
    assert all(p.flags.c_contiguous for p in pictures)
    assert [frame_number(p) for p in pictures] == [6, 18, 31, 43]


def test_the_interlaced_test_file_is_interlaced(tmp_path):
    options = {"x264-params": "tff=1:interlaced=1"}
    video = make_video(tmp_path / "in.mp4", size=(64, 64), num_frames=3, options=options)
    with av.open(str(video)) as container:
        assert next(container.decode(video=0)).interlaced_frame


def test_8k(tmp_path):
    flat = np.full((4320, 7680, 3), grey_level(7), np.uint8)
    video = make_video(
        tmp_path / "in.mp4",
        num_frames=2,
        size=(7680, 4320),
        picture=lambda number: flat,
        options={"preset": "ultrafast"},
    )
    assert read(video, rate_hz=25.0) == ([7, 7], pytest.approx(0.08))


def test_colours_survive(tmp_path):
    colour = np.array([200, 60, 30], np.uint8)
    video = make_video(
        tmp_path / "in.mp4",
        num_frames=3,
        picture=lambda number: np.broadcast_to(colour, (48, 64, 3)).copy(),
        options={"crf": "1"},
    )
    picture = first_image(video)
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), colour, atol=3)


def test_the_centre_is_kept(tmp_path):
    """A wide picture loses its sides alone: shortest side to the model's size, centre crop."""
    image = np.zeros((32, 96, 3), np.uint8)
    image[:, 32:64] = 255
    video = make_video(
        tmp_path / "in.mp4", num_frames=3, size=(96, 32), picture=lambda number: image
    )
    picture = first_image(video).astype(int)
    assert picture[:, 3:-3].min() > 200


def test_the_same_file_gives_the_same_bytes(tmp_path):
    random = np.random.default_rng(0)
    video = make_video(
        tmp_path / "in.mp4",
        picture=lambda number: random.integers(0, 255, (48, 64, 3), dtype=np.uint8),
    )
    first, second = (np.stack(read_frames(Video(video), config())[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_names_that_look_like_something_else(tmp_path):
    for name in ("http:clip.mp4", "a%03d.mp4", "-in.mp4", "ton für film.mp4"):
        assert read(make_video(tmp_path / "in.mp4").rename(tmp_path / name))[1] == 2.0


def test_damaged_packets_are_skipped_with_one_warning(tmp_path):
    video = damage(make_video(tmp_path / "in.mp4"), [10, 11, 20])
    with pytest.warns(MediaWarning, match="is damaged: 3 of its packets") as caught:
        numbers, duration_s = read(video)
    assert len(caught) == 1
    assert duration_s == 2.0
    assert numbers[0] == 6 and numbers[3] == 43


def test_a_decoder_without_memory_has_no_damaged_video(tmp_path, monkeypatch):
    """Decoders call a lack of memory damage."""
    video = damage(make_video(tmp_path / "in.mp4"), [10])

    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("vab_rt.source.mmap.mmap", no_memory)
    with pytest.raises(MemoryError):
        read(video)


def cut_off(packets: Iterator[Packet], num_packets: int) -> Iterator[Packet]:
    """Packets that end in an error, as a damaged container's may."""
    yield from islice(packets, num_packets)
    raise av.error.InvalidDataError(1, "damaged")


def test_an_unreadable_rest_costs_no_frame_before_it(tmp_path):
    video = make_video(tmp_path / "in.mp4", b_frames=0)
    with open_video(video) as (container, stream):
        stream.thread_type, stream.codec_context.thread_count = "FRAME", 4
        packets = timed_packets(container, stream)
        with pytest.warns(MediaWarning, match="is damaged: 1 of its packets"):
            decoded = list(decode(cut_off(packets, 20), stream, video))
    assert [frame_number(f.to_ndarray(format="rgb24")) for f, *_ in decoded] == list(range(20))


def test_a_truncated_file_with_its_index_in_front_gives_what_is_there(tmp_path):
    noise = np.random.default_rng(0)
    video = make_video(
        tmp_path / "in.mp4",
        num_frames=100,
        picture=lambda number: noise.integers(0, 255, (48, 64, 3), dtype=np.uint8),
        format_options={"movflags": "faststart"},
    )
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    assert Video(video).expected_s == 4.0
    with pytest.warns(MediaWarning, match=r"is cut short: 1\.\d\d s of its 4\.00 s could be read"):
        images, length_s = read_frames(Video(video), config())
    assert 1.0 < length_s < 3.0
    assert len(images) == round(length_s * 2)


def test_a_duration_beyond_the_end_is_told(tmp_path):
    video = make_video(tmp_path / "in.mp4", num_frames=50)  # 2 s
    with pytest.warns(MediaWarning, match=r"ends at 2\.00 s, .*: asked for up to 9\.00 s"):
        _, length_s = read_frames(Video(video, 1.0, 8.0), config())
    assert length_s == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # half a second is what times of files leave open
        read_frames(Video(video, 1.0, 1.4), config())


def test_a_stream_without_any_decodable_frame_is_an_error(tmp_path):
    video = damage(make_video(tmp_path / "in.mp4"), range(50))
    with pytest.raises(MediaError, match="no frame of .* could be decoded"):
        read(video)


def test_expected_length(tmp_path):
    video = make_video(tmp_path / "in.mp4")
    assert Video(video).expected_s == 2.0
    assert Video(video, 0.5).expected_s == 1.5
    assert Video(video, 0.5, 1.0).expected_s == 1.0
    assert Video(video, 0.5, 9.0).expected_s == 1.5
    assert Video(make_video(tmp_path / "in.h264")).expected_s is None


def test_the_length_comes_with_the_last_frame_alone(tmp_path):
    ends = [frame.end_s for frame in Video(make_video(tmp_path / "in.mp4")).frames(config())]
    assert ends == [None, None, None, 2.0]


def test_a_video_is_probed_once_and_read_as_often_as_one_likes(tmp_path, monkeypatch):
    opened = count_opens(monkeypatch)
    video = Video(make_video(tmp_path / "in.mp4"), start_s=1.0)
    opened.clear()
    first, second = (read_frames(video, config()) for _ in range(2))
    assert video.info.width == 64 and len(opened) == 2
    assert np.array_equal(first[0], second[0]) and first[1] == second[1] == 1.0


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "ts", "avi", "h264"])
def test_an_open_file_is_read_again_from_anywhere(tmp_path, monkeypatch, suffix):
    """Without opening it again, where it has times of its own, though more was read than held."""
    video = make_video(tmp_path / f"in.{suffix}", num_frames=200, gop=40, b_frames=0)
    opened = count_opens(monkeypatch)
    source = Source(video)
    first_s = (source.stream.start_time or 0) * source.stream.time_base

    def facts(packets: Iterator[Packet]) -> list[tuple[int | None, int]]:
        return [(packet.dts, packet.size) for packet in packets if packet.size]

    whole = facts(source.packets())
    assert len(whole) == 200 and facts(islice(source.packets(), 3)) == whole[:3]
    for seconds in (5, 7):
        late = facts(source.packets_from(first_s + seconds))
        assert late == whole[-len(late) :] and 25 <= len(late) <= 200
        assert len(late) < 200 or suffix in ("h264", "ts")
    assert facts(source.packets()) == whole
    assert (len(opened) == 1) == (suffix not in ("ts", "h264"))  # no timestamps in h264
