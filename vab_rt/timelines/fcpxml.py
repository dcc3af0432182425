"""Final Cut Pro's XML, fcpxml, which Resolve reads too."""

from bisect import bisect_right
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from vab_rt.timelines.clips import (
    DISABLED,
    GENERATED,
    NO_PICTURE,
    OFFLINE,
    OTHER_SPEED,
    Clip,
    Item,
    Sound,
    Unheard,
    clips_of,
    media_at,
)
from vab_rt.timelines.documents import Document, add, as_text, laid_out
from vab_rt.timelines.timeline import Timeline

_PLACED = (
    *("asset-clip", "clip", "ref-clip", "sync-clip", "mc-clip"),
    *("video", "audio", "title", "gap", "audition", "spine"),
)
# What stands behind clips that are connected, by the DTD.
_BEHIND = (
    *("marker", "chapter-marker", "rating", "keyword", "analysis-marker", "hidden-clip-marker"),
    *("audio-channel-source", "audio-role-source", "sync-source", "filter-video"),
    *("filter-video-mask", "filter-audio", "metadata", "reserved"),
)


class _Placed(NamedTuple):
    element: Element
    begin_s: Fraction
    """on what it stands on"""
    length_s: Fraction
    start_s: Fraction
    """of its own time, which what is connected to it counts in"""

    @property
    def end_s(self) -> Fraction:
        return self.begin_s + self.length_s


class FcpXmlTimeline(Timeline):
    """Changed in place."""

    def __init__(self, document: Document) -> None:
        self.document, self.path, root = document, document.path, document.root
        resources = root.find("resources")
        self._resources = Element("resources") if resources is None else resources
        self._by_id = {one.get("id"): one for one in self._resources if one.get("id")}
        sequences = [one for project in root.iter("project") for one in project.iter("sequence")]
        if len(sequences) != 1 or sequences[0].find("spine") is None:
            raise document.refuse(
                f"holds {len(sequences)} projects", "one; export the one that is to have sound"
            )
        form = self._by_id.get(sequences[0].get("format", ""))
        frame_s = Fraction(0) if form is None else self._time(form, "frameDuration")
        if frame_s <= 0:
            raise document.refuse("does not say how long a frame is", "a format with frameDuration")
        self.rate = 1 / frame_s
        # What the sounds will be connected to.
        primary = list(self._storyline(sequences[0].find("spine")))
        # Its offsets count from its timecode, or from 0 where others wrote it.
        zero = primary[0].begin_s if primary else Fraction(0)
        self._primary = [one._replace(begin_s=one.begin_s - zero) for one in primary]

    def clips(self, video_track: int, name: str) -> list[Clip]:
        """1 is the primary storyline, the others the lanes above it. name: that of a role."""
        lanes = [0, *(lane for one in self._primary for lane in map(_lane, one.element))]
        lane = self.chosen(range(max(lanes) + 1), video_track)
        placed = self._connected(lane) if lane else iter(self._primary)
        clips = clips_of((self._item(one) for one in placed if one.element.tag != "gap"), self.path)
        return sorted(clips, key=lambda clip: clip.begin_s)

    def _time(self, element: Element, name: str, default: Fraction = Fraction(0)) -> Fraction:
        text = element.get(name)
        try:
            return default if text is None else Fraction(text.strip().removesuffix("s"))
        except (ValueError, ZeroDivisionError) as error:
            what = element.get("name") or element.tag
            raise self.document.refuse(
                f"has {text!r} for the {name} of {what}", "seconds such as 1001/30000s"
            ) from error

    def _storyline(
        self, spine: Element | None, begin_s: Fraction = Fraction(0)
    ) -> Iterator[_Placed]:
        """One after another. begin_s: what they count from."""
        at = begin_s
        for element in () if spine is None else spine:
            if element.tag in _PLACED and "lane" not in element.attrib:
                one = self._placed(element)
                begin = begin_s + one.begin_s if "offset" in element.attrib else at
                if element.tag == "spine":
                    yield from self._storyline(element, begin)
                else:
                    yield one._replace(begin_s=begin)
                at = begin + one.length_s

    def _placed(self, element: Element) -> _Placed:
        shown = next(iter(element), element) if element.tag == "audition" else element
        source = self._by_id.get(shown.get("ref", ""), Element("none"))
        whole = source.find("sequence") if source.tag == "media" else source
        whole = source if whole is None else whole
        start = self._time(whole, "tcStart" if whole.tag == "sequence" else "start")
        length = self._time(shown, "duration", self._time(whole, "duration"))
        offset = self._time(element, "offset", self._time(shown, "offset"))
        return _Placed(shown, offset, length, self._time(shown, "start", start))

    def _connected(self, lane: int) -> Iterator[_Placed]:
        for anchor in self._primary:
            for element in anchor.element:
                if _lane(element) != lane or element.tag not in _PLACED:
                    continue
                one = self._placed(element)
                begin = anchor.begin_s + one.begin_s - anchor.start_s
                if element.tag == "spine":
                    yield from self._storyline(element, begin)
                else:
                    yield one._replace(begin_s=begin)

    def _item(self, one: _Placed) -> Item:
        start, content = one.start_s, self._content(one.element)
        source = self._by_id.get(one.element.get("ref", ""))
        if source is not None and source.tag == "asset":
            start -= self._time(source, "start")
        name = one.element.get("name", "" if source is None else source.get("name", ""))
        return Item(name, one.begin_s, one.length_s, start, content)

    def _items(self, spine: Element | None) -> Iterator[Item]:
        placed = self._storyline(spine)
        return (self._item(one) for one in placed if one.element.tag != "gap")

    def _content(self, clip: Element) -> Any:
        if clip.get("enabled") == "0":
            return DISABLED
        conform = clip.find("conform-rate")
        facts = {} if conform is None else conform.attrib
        is_conformed = "srcFrameRate" in facts and facts.get("scaleEnabled") != "0"
        if clip.find("timeMap") is not None or is_conformed:
            return OTHER_SPEED
        if clip.get("srcEnable") == "audio" or clip.tag == "audio":
            return NO_PICTURE
        if clip.tag in ("clip", "sync-clip"):
            return lambda: self._items(clip)
        source = self._by_id.get(clip.get("ref", ""))
        if source is None:
            return GENERATED if clip.tag in ("title", "gap") else OFFLINE
        if source.tag == "media":
            nested = source.find("sequence/spine")
            if nested is None:
                return Unheard("it is a multicam clip; export it as the angle that is seen")
            return lambda: self._items(nested)
        return self._media(source) if source.tag == "asset" else GENERATED

    def _media(self, asset: Element) -> Path | Unheard:
        if asset.get("hasVideo") == "0" or (
            "hasVideo" not in asset.attrib and "hasAudio" in asset.attrib
        ):
            return NO_PICTURE
        original = asset.find("media-rep")
        url = asset.get("src") or ("" if original is None else original.get("src", ""))
        return media_at(url, self.path.parent)

    def add(self, sounds: list[Sound], name: str) -> None:
        """Clips of a role of this name, each connected to what it is the sound of."""
        begins, prefix = [one.begin_s for one in self._primary], self.document.free_prefix("vab-rt")
        for number, sound in enumerate(sounds, 1):
            anchor = self._primary[max(0, bisect_right(begins, sound.clip.begin_s) - 1)]
            begin, end = sound.frames(self.rate)
            length = _written((end - begin) / self.rate)
            asset = self._add_asset(sound, f"{prefix}{number}", length)
            clip = Element("asset-clip", {"ref": asset, "name": as_text(sound.path.stem)})
            clip.set("lane", str(min([0, *map(_lane, anchor.element)]) - 1))
            clip.set("offset", _written(anchor.start_s + sound.clip.begin_s - anchor.begin_s))
            clip.set("duration", length)
            clip.set("audioRole", f"effects.{as_text(name)}")
            facts = ", ".join(f"{key} {value}" for key, value in sound.facts.items())
            add(clip, "note", as_text(facts))
            behind = (i for i, one in enumerate(anchor.element) if one.tag in _BEHIND)
            anchor.element.insert(next(behind, len(anchor.element)), laid_out(clip))

    def _add_asset(self, sound: Sound, name: str, length: str) -> str:
        url = sound.path.resolve().as_uri()
        asset = add(self._resources, "asset", id=name, name=as_text(sound.path.stem))
        more = {"start": "0s", "duration": length, "hasAudio": "1", "audioSources": "1"}
        more |= {"audioChannels": "1", "audioRate": str(sound.rate_hz)}
        asset.attrib.update(more)
        if _version(self.document.root) >= (1, 9):
            add(asset, "media-rep", kind="original-media", src=url)
        else:
            asset.set("src", url)
        laid_out(asset)
        return name

    def write(self, part: Path, out: Path) -> None:
        part.write_bytes(self.document.to_bytes())


def _lane(element: Element) -> int:
    try:
        return int(element.get("lane", "0"))
    except ValueError:
        return 0


def _version(root: Element) -> tuple[int, ...]:
    return tuple(int(part) for part in root.get("version", "1").split(".") if part.isdecimal())


def _written(time_s: Fraction) -> str:
    whole = time_s.denominator == 1
    return f"{time_s.numerator}s" if whole else f"{time_s.numerator}/{time_s.denominator}s"
