"""Timelines of editors: what their clips are to the frame, and the track that they get."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest
from media import make_picture, make_video, samples_of
from timeline_files import SEEN, write_timeline

from vab_rt.errors import OutputError
from vab_rt.pipeline import Pipeline
from vab_rt.timelines import open_timeline
from vab_rt.timelines.clips import OFFLINE, Sound, Unheard, exact_rate, media_at

SUFFIXES = (".otio", ".otioz", ".xml", ".fcpxml", ".mlt")
RATES = (Fraction(24), Fraction(25), Fraction(30_000, 1001), Fraction(60))


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("mädia für uns")
    return make_video(folder / "hämmer #1.mp4", num_frames=96), make_picture(folder / "still.png")


def seen_in(timeline: Path, rate: Fraction, track: int = 1) -> dict[str, tuple[Fraction, ...]]:
    clips = open_timeline(timeline).clips(track, "new")
    return {
        one.name: tuple(s * rate for s in (one.begin_s, one.length_s, one.start_s)) for one in clips
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate", RATES)
def test_clips_are_where_they_are_to_the_frame(media, tmp_path, suffix, rate):
    path = write_timeline(tmp_path / f"edit{suffix}", *media, rate)
    missing = {"none"} if suffix == ".mlt" else set()
    assert seen_in(path, rate) == {name: at for name, at in SEEN.items() if name not in missing}
    reasons = {
        clip.name: clip.media.reason[:15]
        for clip in open_timeline(path).clips(1, "new")
        if isinstance(clip.media, Unheard)
    }
    expected = {"fast": "its speed is ch", "gone": "its media is mi", "none": "it has no lengt"}
    if suffix == ".mlt":  # elsewhere a still is known when it is opened
        expected |= {"still": "it is a still p"}
    assert reasons == {name: why for name, why in expected.items() if name not in missing}
    assert seen_in(path, rate, track=2) == {"up": (20, 10, 2)}


def sounds_in(timeline: Path, rate: Fraction) -> list[tuple[str, Fraction, Fraction]]:
    """File, begin and length in frames of what is on the last audio track, as others read it."""
    if timeline.suffix == ".mlt":
        return mlt_sounds(timeline)
    otio = pytest.importorskip("opentimelineio", reason="the extra `otio` is not installed")
    plugin = {".xml": "otio_fcp_adapter", ".fcpxml": "otio_fcpx_xml_adapter"}.get(timeline.suffix)
    if plugin:
        pytest.importorskip(plugin, reason="dev extra: a second reader of this format")
    found = otio.adapters.read_from_file(str(timeline))
    lane = "-1"  # of what is connected below: this reader names tracks so, and calls all Video
    is_ours = [one.kind == "Audio" or one.name == lane for one in found.tracks]
    track = [one for one, ours in zip(found.tracks, is_ours, strict=True) if ours][-1]
    if not plugin:
        assert found.tracks[-1].kind == "Audio" and track.name in ("vab-rt", "more")
    sounds = []
    for child in track:
        if isinstance(child, otio.schema.Clip):
            at = track.range_of_child(child)
            url = child.media_reference.target_url
            begin, length = (
                Fraction(t.value) / exact_rate(t.rate) * rate for t in (at.start_time, at.duration)
            )
            begin -= 3600 * rate if timeline.suffix == ".fcpxml" else 0  # where the project begins
            sounds.append((url.rpartition("/")[2], begin, length))
    return sounds


def mlt_sounds(timeline: Path) -> list[tuple[str, Fraction, Fraction]]:
    from xml.etree import ElementTree

    root = ElementTree.parse(timeline).getroot()
    *_, last = root.findall("tractor")[-1].findall("track")
    assert last.get("hide") == "video"
    files = {
        one.get("id"): one.findtext("property[@name='resource']") for one in root.iter("producer")
    }
    at, sounds = 0, []
    for one in root.find(f"playlist[@id='{last.get('producer')}']"):
        if one.tag == "entry":
            length = int(one.get("out")) + 1
            sounds.append((Path(files[one.get("producer")]).name, at, length))
            at += length
        elif one.tag == "blank":
            at += int(one.get("length"))
    return sounds


@pytest.mark.parametrize(
    ("suffix", "rate"), [(one, Fraction(25)) for one in SUFFIXES] + [(".xml", RATES[2])]
)
def test_a_track_of_sounds(run, media, tmp_path, tiny_bundle, suffix, rate):
    path = write_timeline(tmp_path / f"edit{suffix}", *media, rate)
    before, out = path.read_bytes(), tmp_path / "out" / f"edit with sound{suffix}"
    out.parent.mkdir()
    words = ("timeline", path, out, "--model", tiny_bundle, "--seed", 3)
    told = run(*words, "--json", "--progress", "lines")
    report = json.loads(told.out)
    assert told.code == 1 and path.read_bytes() == before, told.err
    assert [line.split(":")[0] for line in told.err.splitlines() if "percentage" not in line] == [
        "error", "error",
    ]  # fmt: skip
    heard = {one["clip"]: one for one in report["clips"] if "output" in one}
    assert list(heard) == ["a", "b", "c", "d"]
    assert {one["clip"] for one in report["clips"] if "skipped" in one} >= {"still"}
    expected = [(Path(heard[name]["output"]).name, *SEEN[name][:2]) for name in heard]
    assert sounds_in(out, rate) == expected

    alone, (start, length) = tmp_path / "alone.wav", (SEEN["a"][2] / rate, SEEN["a"][1] / rate)
    part = ("--start", float(start), "--duration", float(length), "--rate", 48_000, "--seed", 3)
    assert run("generate", media[0], alone, "--model", tiny_bundle, *part).code == 0
    if suffix == ".otioz":
        with zipfile.ZipFile(out) as file:
            assert file.read(f"media/{expected[0][0]}") == alone.read_bytes()
            assert file.read(f"media/{media[0].name}") == media[0].read_bytes()
        assert os.listdir(out.parent) == [out.name]
    else:
        folder = out.parent / "edit with sound.sound"
        assert (folder / expected[0][0]).read_bytes() == alone.read_bytes()
        names = {name for name, *_ in expected}
        assert {one.name for one in folder.iterdir()} == names | {
            f"{one}.vab.json" for one in names
        }


@pytest.mark.parametrize("suffix", [".otioz", ".xml"])
def test_the_same_again_and_one_track_more(run, media, tmp_path, tiny_bundle, suffix):
    path, out = (
        write_timeline(tmp_path / f"edit{suffix}", *media, RATES[1]),
        tmp_path / f"a{suffix}",
    )
    model = ("--model", tiny_bundle)
    assert run("timeline", path, out, *model).code == 1
    first = out.read_bytes()
    assert "exists already" in run("timeline", path, out, *model).err
    assert run("timeline", path, out, *model, "--force").code == 1 and out.read_bytes() == first
    more = tmp_path / f"more{suffix}"
    if suffix == ".otioz":
        assert "has a track vab-rt already" in run("timeline", out, more, *model).err
    assert run("timeline", out, more, "--track", "more", *model).code == 1
    assert sounds_in(more, RATES[1])[0][1:] == (0, 24)


@pytest.mark.skipif(shutil.which("melt") is None, reason="melt is not installed")
@pytest.mark.parametrize("rate", [Fraction(25), RATES[2]])
def test_melt_plays_sounds_where_they_belong(run, media, tmp_path, tiny_bundle, rate):
    path, out = tmp_path / "edit.mlt", tmp_path / "out.mlt"
    write_timeline(path, *media, rate)
    assert run("timeline", path, out, "--model", tiny_bundle).code == 1
    rendered = tmp_path / "rendered.wav"
    how = ("vn=1", "ar=48000", "real_time=0", "terminate_on_pause=1")
    words = ["melt", "-silent", out, "-consumer", f"avformat:{rendered}", *how]
    for attempt in range(5):  # melt 7.12 may wait for ever before its first frame
        try:
            quiet = {"stdin": subprocess.DEVNULL, "capture_output": True}
            subprocess.run(words, check=True, timeout=60, **quiet)
            break
        except subprocess.TimeoutExpired:
            assert attempt < 4, "melt did not begin in five times a minute"
    heard, rate_hz, _ = samples_of(rendered)
    assert rate_hz == 48_000 and abs(len(heard) / rate_hz - float(108 / rate)) < 0.05
    for name, begin, _ in sounds_in(out, rate):
        sound, _, _ = samples_of(tmp_path / "out.sound" / name)
        at = round(begin / rate * 48_000)
        around = heard[max(0, at - 480) : at + len(sound) + 480]
        lag = np.argmax(np.correlate(around, sound[: len(sound) // 2])) - min(at, 480)
        assert abs(lag) < 96, f"{name} is {lag / 48:.2f} ms late"  # 2 ms


def mlt_of(inside: str) -> str:
    profile = '<profile frame_rate_num="25" frame_rate_den="1"/>'
    return f'<mlt>{profile}{inside}<tractor id="t"><track producer="l"/></tractor></mlt>'


def fcpxml_of(spine: str, media: str = "") -> str:
    form = f'<resources><format id="r1" frameDuration="1/25s"/>{media}</resources>'
    sequence = f'<sequence format="r1"><spine>{spine}</spine></sequence>'
    return f'<fcpxml version="1.10">{form}<project>{sequence}</project></fcpxml>'


SPINE = '<spine><ref-clip ref="n" duration="9s"/></spine>'
ITSELF = f'<media id="n"><sequence format="r1">{SPINE}</sequence></media>'
TWICE = '<entry producer="p{0}"/><entry producer="p{0}"/>'
LISTS = "".join(f'<playlist id="p{n}">{TWICE.format(n - 1)}</playlist>' for n in range(1, 40))


@pytest.mark.parametrize("begin", ["file:", "file://", "FILE://localhost"])
@pytest.mark.parametrize("name", ["a & b.mp4", "100%.mp4", "take #3.mp4", "what?.mp4"])
def test_media_are_found_by_addresses_as_programs_write_them(tmp_path, begin, name):
    """Also those that do not encode them."""
    path = tmp_path / name
    path.touch()
    encoded = path.as_uri().removeprefix("file://")
    for written in (begin + encoded, begin + unquote(encoded), name, quote(name)):
        assert media_at(written, tmp_path) == path
    assert media_at("file://[x/none.mp4", tmp_path) == OFFLINE


MANY = '{"OTIO_SCHEMA": "SerializableCollection.1", "name": "", "metadata": {}, "children": []}'
BAD = {
    "edit.edl": ("TITLE: x", "an EDL has one track; export .otio, .xml or .fcpxml instead"),
    "edit.aaf": ("", "ids that no file has; export .otio"),
    "edit.kdenlive": ("<mlt/>", "export .otio in Kdenlive 25.04 or newer"),
    "edit.prproj": ("", "export Final Cut Pro XML"),
    "edit.txt": ("", "expected .otio, .otioz, .xml"),
    "no.xml": ("<xmeml>", "is no XML (no element found"),
    "empty.xml": ("", "is no XML"),
    "other.xml": ("<svg/>", "holds <svg>, expected .otio"),
    "bomb.xml": (
        '<!DOCTYPE x [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><xmeml>&b;</xmeml>',
        "declares",
    ),
    "outside.xml": ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><xmeml>&a;</xmeml>', "the entity a"),
    "deep.xml": ("<a>" * 300, "nests more than 200 deep"),
    "none.xml": ("<xmeml/>", "holds 0 sequences, expected one"),
    "rate.xml": ("<xmeml><sequence/></xmeml>", "for the timebase of sequence, expected a number"),
    "no.otio": ("{", "is no timeline that opentimelineio reads (Expecting property name"),
    "deep.otio": ("[" * 100_000, "is no timeline that opentimelineio reads"),
    "half.otio": ('{"OTIO_SCHEMA": "Timeline.1"}', "is no timeline that opentimelineio reads"),
    "none.otio": ('{"OTIO_SCHEMA": "Timeline.1", "tracks": null}', "has 0, expected 1"),
    "many.otio": (MANY, "holds 0 timelines, expected one"),
    "no.otioz": ("PK", "cannot be read as .otioz (File is not a zip file)"),
    "loop.mlt": (mlt_of('<playlist id="l"><entry producer="l"/></playlist>'), "plays itself"),
    "bomb.mlt": (mlt_of(f'<playlist id="l">{TWICE.format(39)}</playlist>{LISTS}'), "has no p0"),
    "time.mlt": (mlt_of('<playlist id="l"><blank length="1:x"/></playlist>'), "'1:x' for a time"),
    "rate.mlt": ("<mlt><tractor/></mlt>", "has no profile with a frame rate"),
    "still.mlt": (
        '<mlt><profile frame_rate_num="0"/><tractor/></mlt>',
        "has no profile with a frame rate",
    ),
    "kd.mlt": (
        mlt_of('<playlist><property name="kdenlive:docproperties.version">1</property></playlist>'),
        "is Kdenlive's own project",
    ),
    "loop.fcpxml": (fcpxml_of('<ref-clip ref="n" duration="9s"/>', ITSELF), "more than 64 deep"),
    "time.fcpxml": (fcpxml_of('<clip name="c" duration="x"/>'), "'x' for the duration of c"),
    "gone.fcpxml": (fcpxml_of('<asset-clip ref="r9" duration="9s"/>'), "no clip that got a sound"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_timeline_is_one_line(run, tmp_path, name):
    content, message = BAD[name]
    if name.endswith((".otio", ".otioz")):
        pytest.importorskip("opentimelineio", reason="the extra `otio` is not installed")
    path = tmp_path / name
    path.write_text(content)
    told = run("timeline", path, tmp_path / f"out{path.suffix}")
    line = told.err.splitlines()[-1]
    assert told.code == 1 and line.startswith("error: ") and message in line, told.err
    assert len(told.err.splitlines()) == 1 + (name == "gone.fcpxml")
    assert os.listdir(tmp_path) == [name]


def test_what_cannot_be_written_is_told_before_any_work(run, media, tmp_path, tiny_bundle):
    path = write_timeline(tmp_path / "edit.mlt", *media, RATES[1])
    out, model = tmp_path / "out.mlt", ("--model", tiny_bundle)
    for words, message in (
        ((path, path, "--force"), "is the input itself"),
        ((path, tmp_path / "out.otio"), "is of another format than"),
        ((path, tmp_path / "none" / "out.mlt"), "does not exist"),
        ((path, out, "--video-track", 3), "has 2, expected 1 for the lowest"),
        ((path, out, "--model", "none"), "none"),
        ((path, out, *model, "--rate", 1), "rate"),
        ((path, out, *model, "--kind", "dog"), "has no names for what it sees"),
        ((path, out, *model, "--fine-steps", 3), "has no use for"),
        ((tmp_path / "gone.mlt", out), "does not exist, expected a timeline"),
    ):
        told = run("timeline", *words)
        assert told.code == 1 and message in told.err and told.err.count("\n") == 1, told.err
        assert os.listdir(tmp_path) == [path.name]
    folder = tmp_path / "out.sound"
    folder.mkdir()
    (folder / "mine.wav").touch()
    assert "holds files already" in run("timeline", path, out, *model).err
    assert os.listdir(folder) == ["mine.wav"] and not out.exists()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("bug")])
def test_what_ends_in_the_middle_leaves_nothing(
    run, media, tmp_path, tiny_bundle, monkeypatch, error
):
    """But one clip's bug is a line, and the others get their sounds."""
    path, out = write_timeline(tmp_path / "edit.mlt", *media, RATES[1]), tmp_path / "out.mlt"
    whole, calls = Pipeline.generate_steps, []

    def failing(self, video, options):
        calls.append(video)
        if len(calls) == 2:
            raise OutputError(str(error)) if isinstance(error, OSError) else error
        return whole(self, video, options)

    monkeypatch.setattr(Pipeline, "generate_steps", failing)
    told = run("timeline", path, out, "--model", tiny_bundle)
    if isinstance(error, ValueError):
        assert told.code == 1 and "b at 0:01.360: ValueError: bug" in told.err
        assert [name[0] for name, *_ in mlt_sounds(out)] == ["a", "c", "d"]
    else:
        assert told.code == (130 if isinstance(error, KeyboardInterrupt) else 1)
        assert os.listdir(tmp_path) == ["edit.mlt"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_folder_that_may_not_be_written(run, media, tmp_path, tiny_bundle):
    folder = tmp_path / "project"
    folder.mkdir()
    path = write_timeline(folder / "edit.mlt", *media, RATES[1])
    folder.chmod(0o500)
    told = run("timeline", path, folder / "out.mlt", "--model", tiny_bundle)
    folder.chmod(0o700)
    assert told.code == 1 and "cannot be written" in told.err and os.listdir(folder) == [path.name]


def test_without_opentimelineio_it_is_told(run, tmp_path, monkeypatch):
    (tmp_path / "edit.otio").write_text("{}")
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    monkeypatch.delitem(sys.modules, "vab_rt.timelines.otio", raising=False)
    told = run("timeline", tmp_path / "edit.otio", tmp_path / "out.otio")
    assert told.code == 1 and "pip install 'vab-rt[otio]'" in told.err


def test_ten_thousand_clips(media, tmp_path):
    """Read, and given as many sounds, in time that grows as they do."""
    entries = "".join(
        f'<entry producer="p" in="{n % 50}" out="{n % 50 + 9}"/>' for n in range(10_000)
    )
    service = '<property name="mlt_service">avformat</property>'
    film = f'<producer id="p"><property name="resource">{media[0]}</property>{service}</producer>'
    path, out = tmp_path / "long.mlt", tmp_path / "out.mlt"
    path.write_text(mlt_of(f'{film}<playlist id="l">{entries}</playlist>'))
    timeline = open_timeline(path)
    clips = timeline.clips(1, "new")
    assert len(clips) == 10_000 and clips[-1].begin_s == Fraction(9_999 * 10, 25)
    timeline.add([Sound(one, Path(f"{n}.wav"), 48_000, {}) for n, one in enumerate(clips)], "new")
    timeline.write(out, out)
    assert len(mlt_sounds(out)) == 10_000
