"""One edit as five kinds of files have it: clips, a gap, a transition, a nest, and what is unheard.

On track 1, in frames: `a` 0 to 24 from its frame 12 on; a gap; `b` 34 to 49 from 5, over a
transition of six frames to `c` 49 to 69 from 30; a nest 69 to 84, from its frame 10, in which `d`
begins at 4 from its frame 3; then `fast` for 10 frames, `gone` for 8, `still` for 6, and `none`,
which has no length, but not in MLT. On track 2: `up` 20 to 30 from its frame 2.
"""

import zipfile
from fractions import Fraction
from pathlib import Path

import pytest

SEEN = {
    "a": (0, 24, 12),
    "b": (34, 15, 5),
    "c": (49, 20, 30),
    "d": (69, 15, 9),
    "fast": (84, 10, 0),
    "gone": (94, 8, 0),
    "still": (102, 6, 0),
    "none": (108, 0, 0),
}
"""Begin, length and start in the media, in frames."""


def write_timeline(path: Path, video: Path, still: Path, rate: Fraction) -> Path:
    """Of the kind that its suffix names; path may lie anywhere."""
    write = {".otio": _otio, ".otioz": _otioz, ".xml": _fcp7, ".fcpxml": _fcpxml, ".mlt": _mlt}
    write[path.suffix](path, video, still, rate)
    return path


def _otio(path: Path, video: Path, still: Path, rate: Fraction) -> None:
    path.write_text(otio_text(video.as_uri(), still.as_uri(), rate), "utf-8")


def _otioz(path: Path, video: Path, still: Path, rate: Fraction) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("version.txt", "1.0.0")
        inside = (f"media/{video.name}", f"media/{still.name}")
        file.writestr("content.otio", otio_text(*inside, rate), zipfile.ZIP_DEFLATED)
        for media, name in zip((video, still), inside, strict=True):
            file.write(media, name)


def otio_text(video: str, still: str, rate: Fraction) -> str:
    otio = pytest.importorskip("opentimelineio", reason="the extra `otio` is not installed")
    schema, hz = otio.schema, float(rate)

    def part(start: int, length: int) -> object:
        time = otio.opentime.RationalTime
        return otio.opentime.TimeRange(time(start, hz), time(length, hz))

    def clip(name: str, start: int, length: int, url: str = video, first: int = 3600) -> object:
        media = schema.ExternalReference(url, part(first, 96))  # a timecode that begins later
        return schema.Clip(name, media, part(first + start, length))

    def gap(length: int) -> object:
        return schema.Gap(source_range=part(0, length))

    fast = clip("fast", 0, 10)
    fast.effects.append(schema.LinearTimeWarp("x", time_scalar=2.0))
    offset = otio.opentime.RationalTime(3, hz)
    mix = schema.Transition("mix", "SMPTE_Dissolve", offset, offset)
    inner = schema.Track("inner", [gap(4), clip("d", 3, 30)], kind="Video")
    nest = schema.Stack("nest", [inner], part(10, 15))
    gone = clip("gone", 0, 8, url="file:///nowhere/gone.mp4")
    first = [clip("a", 12, 24), gap(10), clip("b", 5, 15), mix, clip("c", 30, 20), nest]
    rest = [fast, gone, clip("still", 0, 6, url=still), clip("none", 0, 0)]
    tracks = [
        schema.Track("V1", [*first, *rest], kind="Video"),
        schema.Track("V2", [gap(20), clip("up", 2, 10)], kind="Video"),
        schema.Track("A1", [clip("a", 12, 24)], kind="Audio"),
    ]
    timeline = schema.Timeline("edit", tracks)
    return otio.adapters.write_to_string(timeline, "otio_json")


def _fcp7(path: Path, video: Path, still: Path, rate: Fraction) -> None:
    ntsc = "FALSE" if rate.denominator == 1 else "TRUE"
    hz = f"<rate><timebase>{round(rate)}</timebase><ntsc>{ntsc}</ntsc></rate>"
    seen = set()

    def file(media: str) -> str:
        if media in seen:
            return f'<file id="{hash(media)}"/>'
        seen.add(media)
        whole = f"<pathurl>{media}</pathurl>{hz}<duration>96</duration>"
        return f'<file id="{hash(media)}">{whole}</file>'

    def clip(name: str, place: tuple[int, int], part: tuple[int, int], inside: str = "") -> str:
        times = zip(("start", "end", "in", "out"), (*place, *part), strict=True)
        edges = "".join(f"<{tag}>{value}</{tag}>" for tag, value in times)
        return (
            f'<clipitem id="{name}"><name>{name}</name>{hz}{edges}{inside or file(url)}</clipitem>'
        )

    url = video.as_uri().replace("file://", "file://localhost")
    speed = "<parameter><parameterid>speed</parameterid><value>200</value></parameter>"
    warp = f"<filter><effect><effectid>timeremap</effectid>{speed}</effect></filter>"
    inner = clip("d", (4, 34), (3, 33))
    inner = f"<media><video><track>{inner}</track></video></media>"
    nest = f"<sequence><name>nest</name>{hz}{inner}</sequence>"
    mix = (
        "<start>46</start><end>52</end><alignment>center</alignment><effect><name>x</name></effect>"
    )
    first = clip("a", (0, 24), (12, 36)) + clip("b", (34, -1), (5, 23))
    first += f"<transitionitem>{mix}{hz}</transitionitem>" + clip("c", (-1, 69), (27, 50))
    first += clip("nest", (69, 84), (10, 25), nest) + clip(
        "fast", (84, 94), (0, 10), file(url) + warp
    )
    first += clip("gone", (94, 102), (0, 8), file("file://localhost/nowhere/gone.mp4"))
    first += clip("still", (102, 108), (0, 6), file(still.as_uri())) + clip(
        "none", (108, 108), (0, 0)
    )
    video_tracks = f"<track>{first}</track><track>{clip('up', (20, 30), (2, 12))}</track>"
    audio = f"<audio><track>{clip('a', (0, 24), (12, 36))}</track></audio>"
    media = f"<media><video>{video_tracks}</video>{audio}</media>"
    sequence = f'<sequence id="s"><name>edit</name>{hz}<duration>108</duration>{media}</sequence>'
    path.write_text(
        f'<?xml version="1.0"?>\n<!DOCTYPE xmeml>\n<xmeml version="4">{sequence}</xmeml>'
    )


def _fcpxml(path: Path, video: Path, still: Path, rate: Fraction) -> None:
    def s(frames: Fraction | int) -> str:
        return f"{Fraction(frames) / rate}s"

    is_new = rate == 60  # an asset holds its address from version 1.9 on

    def asset(name: str, url: str) -> str:
        rep = f'<media-rep kind="original-media" src="{url}"/>' if is_new else ""
        src = "" if is_new else f' src="{url}"'
        facts = f'format="r1" start="{s(240)}" duration="{s(96)}" hasVideo="1"'
        return f'<asset id="{name}" name="{name}" {facts}{src}>{rep}</asset>'

    def clip(name: str, at: int, start: int, length: int, inside: str = "", more: str = "") -> str:
        ref = {"gone": "r3", "still": "r4"}.get(name, "r2")
        edges = f'offset="{s(at)}" start="{s(240 + start)}" duration="{s(length)}"'
        return f'<asset-clip name="{name}" ref="{ref}" {edges}{more}>{inside}</asset-clip>'

    zero = 3600 * round(rate)  # the project begins at an hour
    inner = f'<gap offset="0s" start="0s" duration="{s(4)}"/>' + clip("d", 4, 3, 30)
    sequence = (
        f'<sequence format="r1" duration="{s(34)}" tcStart="0s"><spine>{inner}</spine></sequence>'
    )
    up = clip("up", 240 + 12 + 20, 2, 10, more=' lane="1"')
    warp = (
        f'<timeMap><timept time="0s" value="0s"/><timept time="{s(5)}" value="{s(10)}"/></timeMap>'
    )
    edges = f'offset="{s(zero + 69)}" start="{s(10)}" duration="{s(15)}"'
    nest = f'<ref-clip name="nest" ref="r5" {edges}/>'
    spine = [
        clip("a", zero, 12, 24, up + '<marker start="0s" value="x"/>'),
        f'<gap name="Gap" offset="{s(zero + 24)}" start="{s(86400)}" duration="{s(10)}"/>',
        clip("b", zero + 34, 5, 15),
        f'<transition name="x" offset="{s(zero + 46)}" duration="{s(6)}"/>',
        clip("c", zero + 49, 30, 20),
        nest,
        clip("fast", zero + 84, 0, 10, warp),
        clip("gone", zero + 94, 0, 8),
        clip("still", zero + 102, 0, 6),
        clip("none", zero + 108, 0, 0),
    ]
    resources = f'<format id="r1" frameDuration="{1 / rate}s" width="64" height="48"/>'
    resources += asset("r2", video.as_uri()) + asset("r3", "file:///nowhere/gone.mp4")
    resources += asset("r4", still.as_uri()) + f'<media id="r5" name="nest">{sequence}</media>'
    edges = f'format="r1" duration="{s(108)}" tcStart="{s(zero)}"'
    whole = f"<sequence {edges}><spine>{''.join(spine)}</spine></sequence>"
    body = f'<resources>{resources}</resources><project name="edit">{whole}</project>'
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<!DOCTYPE fcpxml>\n'
    version = "1.10" if is_new else "1.8"
    path.write_text(f'{head}<fcpxml version="{version}">{body}</fcpxml>')


def _mlt(path: Path, video: Path, still: Path, rate: Fraction) -> None:
    def producer(name: str, resource: object, service: str = "avformat", length: int = 96) -> str:
        facts = {"length": length, "resource": resource, "mlt_service": service}
        inside = "".join(f'<property name="{k}">{v}</property>' for k, v in facts.items())
        caption = f'<property name="shotcut:caption">{name}</property>'
        return f'<producer id="{name}" in="0" out="{length - 1}">{inside}{caption}</producer>'

    def entry(name: str, start: int, length: int) -> str:
        return f'<entry producer="{name}" in="{start}" out="{start + length - 1}"/>'

    def track(name: str, start: int, length: int) -> str:
        return f'<track producer="{name}" in="{start}" out="{start + length - 1}"/>'

    producers = "".join(producer(name, video) for name in ("a", "b", "c", "d", "up"))
    producers += producer("gone", "/nowhere/gone.mp4") + producer("still", still, "qimage")
    producers += producer("fast", f"2:{video}", "timewarp") + producer("black", "0", "color", 999)
    is_mix = '<property name="shotcut:transition">lumaMix</property>'
    mix = (
        f'<tractor id="mix" in="0" out="5">{is_mix}{track("b", 17, 6)}{track("c", 27, 6)}</tractor>'
    )
    inner = f'<playlist id="in"><blank length="4"/>{entry("d", 3, 30)}</playlist>'
    nest = '<tractor id="nest" in="0" out="33"><track producer="in"/></tractor>'
    first = entry("a", 12, 24) + '<blank length="10"/>' + entry("b", 5, 12)
    first += '<entry producer="mix" in="0" out="5"/>' + entry("c", 33, 17) + entry("nest", 10, 15)
    first += entry("fast", 0, 10) + entry("gone", 0, 8) + entry("still", 0, 6)
    lists = f'<playlist id="background">{entry("black", 0, 108)}</playlist>'
    lists += f'<playlist id="v1">{first}</playlist>'
    lists += f'<playlist id="v2"><blank length="20"/>{entry("up", 2, 10)}</playlist>'
    tracks = "".join(f'<track producer="{one}"/>' for one in ("background", "v1", "v2"))
    edit = f'<tractor id="edit" in="0" out="107">{tracks}</tractor>'
    num, den = rate.numerator, rate.denominator
    profile = f'<profile width="64" height="48" frame_rate_num="{num}" frame_rate_den="{den}"/>'
    body = f"{profile}{producers}{inner}{nest}{mix}{lists}{edit}"
    path.write_text(f'<?xml version="1.0"?>\n<mlt LC_NUMERIC="C" producer="edit">{body}</mlt>')
