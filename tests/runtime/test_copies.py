"""Copies of what people really have: edit lists, clocks that start again, no times of display,
codecs with several tags, and whatever lies beside the video."""

import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media import frame_number, make_picture, make_video, packets_of, patch_box, trim

from vab_rt.audio import Audio
from vab_rt.errors import MediaWarning, OutputError
from vab_rt.packets import starts_again
from vab_rt.timecode import later_timecode
from vab_rt.video import Video

RATE = 16_000


def copy(video: Path, out: Path, seconds: float = 2.0, **selection: float) -> Path:
    sound = np.zeros(round(seconds * RATE), np.float32)
    Audio(sound, RATE).save(out, video=Video(video, **selection))
    return out


def shown(path: Path) -> tuple[list[float], list[int]]:
    """Times and numbers of the frames that a player shows."""
    times, numbers = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            times.append(round(float(frame.pts * frame.time_base), 3))
            numbers.append(frame_number(frame.to_ndarray(format="rgb24")))
    return times, numbers


def tag(path: Path) -> str:
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.codec_tag


def at_25(num_frames: int) -> list[float]:
    return [n / 25 for n in range(num_frames)]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("codec", "more"), [("libx264", {"bf": "3"}), ("mpeg4", {"bf": "2"})])
def test_frames_without_times_of_display_keep_their_order(tmp_path, suffix, codec, more):
    video = make_video(tmp_path / "in.avi", codec=codec, options=more)
    out = copy(video, tmp_path / f"out.{suffix}")
    times, numbers = shown(out)
    assert numbers == list(range(50))
    assert times == pytest.approx(at_25(50), abs=0.002)
    if codec == "mpeg4":  # h264 is framed in another way in avi
        assert packets_of(out) == packets_of(video)


def test_frames_that_are_packed_in_pairs_are_refused(tmp_path):
    video = make_video(tmp_path / "in.avi", codec="mpeg4", b_frames=2)
    data = video.read_bytes()
    begin = data.index(b"Lavc6")
    video.write_bytes(data[:begin] + b"DivX503b1393p" + data[begin + 13 :])
    with pytest.raises(OutputError, match="two frames in one packet .* convert it first, or write"):
        copy(video, tmp_path / "out.mp4")


EDITS = [
    # frames before the first shown, length in s, suffix, frames shown or None for a refusal
    (0, 1.0, "mp4", range(25)),
    (0, 1.0, "mov", range(25)),
    (0, 1.48, "mp4", range(37)),
    (5, 1.0, "mp4", range(5, 30)),
    (15, 0.6, "mov", range(15, 30)),
    (5, 1.0, "mkv", None),
]


@pytest.mark.parametrize(("before", "length_s", "suffix", "numbers"), EDITS)
def test_what_an_edit_list_hides_stays_hidden(tmp_path, before, length_s, suffix, numbers):
    video = trim(make_video(tmp_path / "in.mp4"), before * 1200, length_s)
    out = tmp_path / f"out.{suffix}"
    if numbers is None:
        with pytest.raises(OutputError, match=r"\.mp4 or \.mov"):
            copy(video, out, length_s)
        return
    assert shown(video)[1] == list(numbers)
    copy(video, out, length_s)
    assert shown(out)[1] == list(numbers)
    with av.open(str(out)) as container:
        assert container.duration == round(length_s * 1_000_000)
        track = container.streams.video[0]
        assert track.duration * track.time_base == pytest.approx(length_s, abs=0.001)


def test_an_end_between_frames_that_need_each_other_is_refused_in_matroska(tmp_path):
    for frames in range(20, 30):
        video = trim(make_video(tmp_path / f"{frames}.mp4"), None, frames / 25)
        out = tmp_path / f"{frames}.mkv"
        try:
            copy(video, out, frames / 25)
        except OutputError as error:
            assert "hides frames that others need" in str(error) and ".mp4 or .mov" in str(error)
        else:
            assert shown(out)[1] == list(range(frames))


def test_a_selection_ends_where_it_is_asked_to_in_mp4(tmp_path):
    """Frames that earlier ones need are in the file, but not shown."""
    video = make_video(tmp_path / "in.mp4")
    for frames in (21, 22, 23):
        out = copy(video, tmp_path / f"{frames}.mp4", frames / 25, duration_s=frames / 25)
        assert shown(out)[1] == list(range(frames))


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


@pytest.mark.parametrize("first_s", [0, 1000])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_clock_that_starts_again_goes_on(tmp_path, suffix, first_s):
    part = make_video(tmp_path / "a.ts")
    video = joined(tmp_path / "in.ts", part, make_video(tmp_path / "b.ts", first_s=first_s), part)
    with av.open(str(video)) as container:
        assert starts_again(container, container.streams.video[0])
    out = copy(video, tmp_path / f"out.{suffix}", 6.0)
    times, numbers = shown(out)
    assert numbers == 3 * list(range(50))
    assert times == pytest.approx(at_25(150), abs=0.002)
    late = copy(video, tmp_path / "late.mp4", 1.0, start_s=3.0, duration_s=1.0)
    assert shown(late)[1] == list(range(25, 50))


TAGS = [
    ("mov", "prores_ks", "yuv422p10le", "apco", {"profile": "proxy"}),
    ("mov", "prores_ks", "yuv422p10le", "apcs", {"profile": "lt"}),
    ("mp4", "libx265", "yuv420p", "hvc1", {"x265-params": "log-level=none"}),
    ("mp4", "libx265", "yuv420p", "hev1", {"x265-params": "log-level=none"}),
    ("mp4", "libx264", "yuv420p", "avc1", {}),
    ("mp4", "libx264", "yuv420p", "avc3", {}),
]


@pytest.mark.parametrize(("suffix", "codec", "pix_fmt", "name", "options"), TAGS)
def test_the_tag_of_a_codec_is_kept(tmp_path, suffix, codec, pix_fmt, name, options):
    video = make_video(
        tmp_path / f"in.{suffix}", codec=codec, pix_fmt=pix_fmt, options=options, num_frames=5
    )
    if tag(video) != name:
        patch_box(video, tag(video).encode(), -4, name.encode())
    assert tag(video) == name
    assert tag(copy(video, tmp_path / f"out.{suffix}", 0.2)) == name


def test_hevc_without_a_tag_gets_the_one_that_quicktime_opens(tmp_path):
    options = {"x265-params": "log-level=none"}
    video = make_video(tmp_path / "in.mkv", codec="libx265", options=options, num_frames=5)
    assert tag(copy(video, tmp_path / "out.mp4", 0.2)) == "hvc1"


PAIRS = [
    ("mp4", "libsvtav1", "yuv420p", "mov", r"is av1, which \.mov .* one of \.mp4, \.mkv, \.webm"),
    ("webm", "libvpx", "yuv420p", "mp4", r"is vp8, which \.mp4 .* one of \.mkv, \.webm"),
    (
        "avi",
        "rawvideo",
        "bgr24",
        "mkv",
        r"is rawvideo, which \.mkv cannot hold .* one of \.mov, \.avi",
    ),
    ("y4m", "rawvideo", "yuv420p", "mov", r"is rawvideo, which \.mov .* one of \.mkv, \.avi"),
]


@pytest.mark.parametrize(("source", "codec", "pix_fmt", "suffix", "message"), PAIRS)
def test_a_pair_that_cannot_work_is_refused_and_what_is_advised_works(
    tmp_path, source, codec, pix_fmt, suffix, message
):
    options = {"preset": "12", "svtav1-params": "lp=1"} if codec == "libsvtav1" else {}
    video = make_video(
        tmp_path / f"in.{source}", codec=codec, pix_fmt=pix_fmt, options=options, num_frames=10
    )
    with pytest.raises(OutputError, match=message) as caught:
        copy(video, tmp_path / f"out.{suffix}", 0.4)
    advised = [
        s for s in ("mp4", "mov", "mkv", "webm", "m4v", "avi") if f".{s}" in str(caught.value)
    ]
    for other in set(advised) - {suffix}:
        assert shown(copy(video, tmp_path / f"out.{other}", 0.4))[1] == shown(video)[1]


def test_a_turned_video_stays_turned_or_is_refused(tmp_path):
    video = make_video(tmp_path / "in.mp4", codec="mpeg4", b_frames=0, rotation=90, num_frames=10)
    with pytest.raises(OutputError, match=r"cannot hold unchanged.* \.mov.* upright mpeg4"):
        copy(video, tmp_path / "out.avi", 0.4)
    for suffix in ("mp4", "mov", "m4v", "mkv"):
        with av.open(str(copy(video, tmp_path / f"out.{suffix}", 0.4))) as container:
            assert next(container.decode(video=0)).rotation == 90


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif"])
def test_a_still_is_no_video_to_copy(tmp_path, suffix):
    picture = make_picture(tmp_path / f"in.{suffix}")
    with pytest.raises(OutputError, match=r"is a still, .*; write \.wav, .* or make a video of it"):
        copy(picture, tmp_path / "out.mp4")


FACTS = {
    "title": "Take 7",
    "creation_time": "2020-01-02T03:04:05.000000Z",
    "location": "+48.1000+011.5000/",
}


def rich_video(path: Path) -> Path:
    """A film with a title, a place, a date, chapters, a timecode, two sounds and subtitles."""
    plain = make_video(path.with_name(f"plain{path.suffix}"), with_sound=True)
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        out.metadata.update(FACTS)
        streams = {s: out.add_stream_from_template(s, opaque=True) for s in source.streams}
        more = out.add_stream_from_template(source.streams.audio[0], opaque=True)
        words = out.add_mux_stream("mov_text")
        pictures = streams[source.streams.video[0]]
        pictures.metadata["timecode"] = "01:00:00:20"
        pictures.codec_context.framerate = 25
        chapters = [(0, 800, "One"), (800, 2000, "Two")]
        out.set_chapters(
            [
                {
                    "id": n,
                    "start": start,
                    "end": end,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for n, (start, end, title) in enumerate(chapters)
            ]
        )
        for packet in source.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    second = av.Packet(bytes(packet))
                    second.pts, second.dts, second.time_base = (
                        packet.pts,
                        packet.dts,
                        packet.time_base,
                    )
                    second.stream = more
                    out.mux(second)
                packet.stream = streams[packet.stream]
                out.mux(packet)
        text = av.Packet(b"\0\5Hello")
        text.pts = text.dts = 0
        text.duration, text.time_base, text.stream = 1000, Fraction(1, 1000), words
        out.mux(text)
    return path


@pytest.mark.parametrize("suffix", ["mov", "mp4", "mkv"])
def test_what_describes_the_video_is_kept_and_the_rest_is_told_in_one_line(tmp_path, suffix):
    video = rich_video(tmp_path / "in.mov")
    out = tmp_path / f"out.{suffix}"
    with pytest.warns(MediaWarning) as caught:
        copy(video, out, 1.0, start_s=0.48, duration_s=1.0)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert "left out: 2 sound tracks, 1 subtitle track" in str(caught[0].message)
    with av.open(str(out)) as container:
        facts = {key.lower(): value for key, value in container.metadata.items()}
        assert {key: facts.get(key) for key in FACTS} == FACTS
        details = {k.lower(): v for k, v in container.streams.video[0].metadata.items()}
        assert details["timecode"] == "01:00:01:07"
        spans = [
            (c["metadata"]["title"], float(c["start"] * c["time_base"]))
            for c in container.chapters()
        ]
        assert spans == [("One", 0), ("Two", pytest.approx(0.32, abs=0.001))]


def tagged(path: Path, tags: dict[str, str], stream_tags: dict[str, str]) -> Path:
    plain = make_video(path.with_name(f"plain{path.suffix}"))
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0], opaque=True)
        out.metadata.update(tags)
        stream.metadata.update(stream_tags)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return path


@pytest.mark.parametrize(
    ("suffix", "key", "is_kept"),
    [
        ("mp4", "com.apple.quicktime.make", True),
        ("mov", "com.apple.quicktime.make", True),
        ("mkv", "com.apple.quicktime.make", True),
        ("mp4", "scene", False),
    ],
)
def test_other_tags_are_kept_or_told(tmp_path, suffix, key, is_kept):
    video = tagged(tmp_path / "in.mkv", {key: "thing"}, {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        copy(video, tmp_path / f"out.{suffix}")
    with av.open(str(tmp_path / f"out.{suffix}")) as container:
        kept = {k.lower(): v for k, v in container.metadata.items()}
    assert (kept.get(key) == "thing") == is_kept
    told = [str(each.message) for each in caught]
    assert told == [] if is_kept else f"tags ({key})" in told[0]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_tags_in_another_encoding_are_no_error(tmp_path, suffix):
    video = tagged(tmp_path / f"in.{suffix}", {"title": "Vogelh*uschen"}, {})
    video.write_bytes(video.read_bytes().replace(b"h*usch", b"h\xe4usch"))
    copy(video, tmp_path / f"out.{suffix}")
    with av.open(str(tmp_path / f"out.{suffix}")) as container:
        assert container.metadata["title"] == "Vogelh\ufffduschen"


def test_a_timecode_that_the_muxer_refuses_is_told(tmp_path):
    """25 frames a second drop no numbers."""
    video = tagged(tmp_path / "in.mkv", {}, {"timecode": "01:00:00;20"})
    with pytest.warns(MediaWarning, match="left out: its timecode"):
        copy(video, tmp_path / "out.mp4")
    assert shown(tmp_path / "out.mp4")[1] == list(range(50))


def test_a_plain_video_is_copied_without_a_word(tmp_path):
    video = make_video(tmp_path / "in.mp4")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copy(video, tmp_path / "out.mp4")


def add_dolby_record(path: Path) -> Path:
    """Puts a dvvC box into the video's description; nothing after it counts from the file's
    beginning, as the description is at its end."""
    data = path.read_bytes()
    record = b"\0\0\0\x20dvvC\x01\0\x10\x25\x10" + bytes(19)
    at = data.index(b"hvcC") - 4
    insert_at = at + int.from_bytes(data[at : at + 4], "big")
    out = bytearray(data[:insert_at] + record + data[insert_at:])
    for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"hev1"):
        size_at = data.index(kind) - 4
        size = int.from_bytes(data[size_at : size_at + 4], "big") + len(record)
        out[size_at : size_at + 4] = size.to_bytes(4, "big")
    path.write_bytes(bytes(out))
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_dolby_vision_record_is_kept_or_told(tmp_path, suffix):
    options = {"x265-params": "log-level=none"}
    plain = make_video(tmp_path / "in.mp4", codec="libx265", options=options, num_frames=5)
    out = tmp_path / f"out.{suffix}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        copy(add_dolby_record(plain), out, 0.2)
    told = any("its Dolby Vision record" in str(each.message) for each in caught)
    assert told != (b"dvvC" in out.read_bytes())


TIMECODES = [
    ("01:00:00:00", 0, 25, "01:00:00:00"),
    ("01:00:00:20", 12, 25, "01:00:01:07"),
    ("23:59:59:24", 1, 25, "00:00:00:00"),
    ("00:00:59;29", 1, Fraction(30000, 1001), "00:01:00;02"),
    ("00:09:59;29", 1, Fraction(30000, 1001), "00:10:00;00"),
    ("01:00:00;00", 107_892, Fraction(30000, 1001), "02:00:00;00"),
    ("00:00:59;59", 1, Fraction(60000, 1001), "00:01:00;04"),
    ("tomorrow", 1, 25, None),
]


@pytest.mark.parametrize(("first", "num_frames", "rate", "expected"), TIMECODES)
def test_a_timecode_counts_on(first, num_frames, rate, expected):
    assert later_timecode(first, num_frames, Fraction(rate)) == expected
