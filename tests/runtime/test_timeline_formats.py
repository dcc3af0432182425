"""What each kind of timeline can say of a clip, in its own way."""

from pathlib import Path

import pytest
from media import make_video

from vab_rt.timelines import open_timeline
from vab_rt.timelines.clips import Sound


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return make_video(tmp_path_factory.mktemp("films") / "a.mp4", num_frames=96)


def clips_in(path: Path, content: str, track: int = 1) -> list[tuple]:
    """Name, begin, length and start in frames of 25 a second, and why it is unheard."""
    path.write_text(content)
    return [
        (one.name, *(s * 25 for s in one[1:4]), getattr(one.media, "reason", "")[:12])
        for one in open_timeline(path).clips(track, "new")
    ]


def test_final_cuts_kinds_of_clips(film, tmp_path):
    """In frames of 25: all that may stand on a storyline, and storylines that are connected."""
    url, form = film.as_uri(), 'format="r1" start="0s"'
    resources = f'<asset id="r2" name="film" {form} duration="96/25s" hasVideo="1" src="{url}"/>'
    resources += f'<asset id="r3" {form} hasVideo="0" hasAudio="1" src="{url}"/>'
    resources += '<effect id="e"/><media id="m"><multicam/></media>'
    above = '<spine lane="1" offset="12/25s"><gap duration="3/25s"/><asset-clip name="up" ref="r2" '
    above += 'offset="3/25s" start="7/25s" duration="4/25s"/></spine>'
    inside = '<video ref="r2" offset="100/25s" start="5/25s" duration="50/25s"/>'
    spine = (
        f'<clip name="clip" start="110/25s" duration="10/25s">{inside}</clip>'
        f'<asset-clip name="below" ref="r2" start="10/25s" duration="20/25s">{above}</asset-clip>'
        f'<sync-clip name="sync" start="1/25s" duration="5/25s"><spine>'
        '<asset-clip name="in" ref="r2" offset="0s" start="20/25s" duration="9/25s"/>'
        "</spine></sync-clip>"
        '<audition><asset-clip name="first" ref="r2" duration="6/25s"/><asset-clip ref="r3"/>'
        "</audition>"
        '<title name="title" ref="e" duration="1/25s"/>'
        '<mc-clip name="mc" ref="m" duration="1/25s"/>'
        '<asset-clip name="heard" ref="r3" duration="1/25s"/>'
        '<asset-clip name="off" ref="r2" enabled="0" duration="1/25s"/>'
        '<asset-clip name="slow" ref="r2" duration="1/25s"><conform-rate srcFrameRate="24"/>'
        "</asset-clip>"
    )
    text = f"<resources><format id='r1' frameDuration='1/25s'/>{resources}</resources>"
    sequence = f"<sequence format='r1'><spine>{spine}</spine></sequence>"
    text = f"<fcpxml version='1.8'>{text}<project>{sequence}</project></fcpxml>"
    assert clips_in(tmp_path / "a.fcpxml", text) == [
        ("film", 0, 10, 15, ""),
        ("below", 10, 20, 10, ""),
        ("in", 30, 5, 21, ""),
        ("first", 35, 6, 0, ""),
        ("title", 41, 1, 0, "it is genera"),
        ("mc", 42, 1, 0, "it is a mult"),
        ("heard", 43, 1, 0, "it has no pi"),
        ("off", 44, 1, 0, "it is disabl"),
        ("slow", 45, 1, 0, "its speed is"),
    ]
    assert clips_in(tmp_path / "a.fcpxml", text, 2) == [("up", 15, 4, 7, "")]


def test_times_as_mlt_writes_them(film, tmp_path):
    """Clock times, timecodes, tracks inline, a producer without edges, and what is unheard."""

    def chain(name: str, service: str = "avformat", more: str = "", url: object = film) -> str:
        facts = {"length": "00:00:03.840", "resource": url, "mlt_service": service}
        inside = "".join(f'<property name="{k}">{v}</property>' for k, v in facts.items())
        return f'<chain id="{name}">{inside}{more}</chain>'

    remap = '<link><property name="mlt_service">timeremap</property></link>'
    films = (
        chain("a") + chain("b", more=remap) + chain("c", "xml", url="x.mlt") + chain("d", "color")
    )
    films += chain("e", more='<property name="video_index">-1</property>')
    entries = (
        '<blank length="00:00:00:10"/><entry producer="a" in="00:00:01.000" out="0:0:01,960"/>'
    )
    entries += '<entry producer="a"/>' + "".join(
        f'<entry producer="{one}" in="0" out="0"/>' for one in "bcde"
    )
    tracks = f'<multitrack><playlist id="l">{entries}</playlist></multitrack>'
    profile = '<profile frame_rate_num="25"/>'
    path = tmp_path / "a.mlt"
    found = clips_in(path, f"<mlt>{profile}{films}<tractor>{tracks}</tractor></mlt>")
    assert [one[1:] for one in found] == [
        (10, 25, 25, ""),
        (35, 96, 0, ""),
        (131, 1, 0, "its speed is"),
        (132, 1, 0, "it is a proj"),
        (133, 1, 0, "it is genera"),
        (134, 1, 0, "it has no pi"),
    ]
    timeline = open_timeline(path)
    clips = timeline.clips(1, "new")
    timeline.add([Sound(clips[0], tmp_path / "a.wav", 48_000, {})], "new")
    timeline.write(path, path)
    again = open_timeline(path).clips(1, "newer")[0]
    assert (again.begin_s * 25, again.length_s * 25, again.start_s * 25) == (10, 25, 25)


def test_premieres_rates_nests_and_speeds(film, tmp_path):
    """A clip of another rate than its sequence, what is named by its id alone, filters."""

    def hz(rate: int, ntsc: str = "FALSE") -> str:
        return f"<rate><timebase>{rate}</timebase><ntsc>{ntsc}</ntsc></rate>"

    def clip(name: str, edges: tuple[int, ...], inside: str) -> str:
        times = zip(("start", "end", "in", "out"), edges, strict=True)
        at = "".join(f"<{tag}>{value}</{tag}>" for tag, value in times)
        return f"<clipitem><name>{name}</name>{at}{inside}</clipitem>"

    def warp(name: str, value: object) -> str:
        parameter = f"<parameterid>{name}</parameterid><value>{value}</value>"
        effect = f"<effectid>timeremap</effectid><parameter>{parameter}</parameter>"
        return f'<file id="f"/><filter><effect>{effect}</effect></filter>'

    whole = f'<file id="f">{hz(50)}<pathurl>{film.as_uri()}</pathurl></file>'
    inner = clip("in", (0, 30, 10, 40), '<file id="f"/>')
    nest = (
        f'<sequence id="n">{hz(25)}<media><video><track>{inner}</track></video></media></sequence>'
    )
    color = f"{hz(25)}<file id='c'><mediaSource>Slug</mediaSource></file>"
    items = [
        clip("fifty", (0, 20, 10, 50), hz(50) + whole),
        clip("nest", (20, 30, 5, 15), nest),
        clip("again", (30, 40, 15, 25), '<sequence id="n"/>'),
        clip("same", (40, 50, 0, 10), warp("speed", "100.0")),
        clip("back", (50, 60, 0, 10), warp("reverse", "TRUE")),
        clip("fast", (60, 70, 0, 20), '<file id="f"/>'),
        clip("color", (70, 80, 0, 10), color),
        clip("off", (80, 90, 0, 10), '<enabled>FALSE</enabled><file id="f"/>'),
    ]
    track = f"<media><video><track>{''.join(items)}</track></video></media>"
    sequence = f"<sequence>{hz(25)}{track}</sequence>"
    text = f"<xmeml><project><children>{sequence}</children></project></xmeml>"
    assert clips_in(tmp_path / "a.xml", text) == [
        ("fifty", 0, 20, 5, ""),
        ("in", 20, 10, 15, ""),
        ("in", 30, 10, 25, ""),
        ("same", 40, 10, 0, ""),
        ("back", 50, 10, 0, "its speed is"),
        ("fast", 60, 10, 0, "its speed is"),
        ("color", 70, 10, 0, "it is genera"),
        ("off", 80, 10, 0, "it is disabl"),
    ]
