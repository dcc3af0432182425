"""Final Cut Pro 7's XML, xmeml: what Premiere and Resolve write and read."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from vab_rt.timelines.clips import (
    DISABLED,
    GENERATED,
    OFFLINE,
    OTHER_SPEED,
    Clip,
    Item,
    Sound,
    clips_of,
    media_at,
)
from vab_rt.timelines.documents import Document, add, as_text, laid_out, number_in
from vab_rt.timelines.timeline import Timeline

_ITEMS = ("clipitem", "generatoritem")
_ELSEWHERE = Fraction(-1)  # of a start or an end: where the transition beside it cuts


class Fcp7Timeline(Timeline):
    """Changed in place."""

    def __init__(self, document: Document) -> None:
        self.document, self.path, root = document, document.path, document.root
        self._whole = dict[tuple[str, str], Element]()
        for element in root.iter():
            if "id" in element.attrib and len(element):  # later ones of this id are empty
                self._whole.setdefault((str(element.tag), element.attrib["id"]), element)
        sequences = [*root.findall("sequence"), *root.findall(".//children/sequence")]
        if len(sequences) != 1:
            raise document.refuse(
                f"holds {len(sequences)} sequences", "one; export the one that is to have sound"
            )
        self._sequence = sequences[0]
        self.rate = self._rate(self._sequence)

    def clips(self, video_track: int, name: str) -> list[Clip]:
        """The clips of a video track, counted from 1; tracks have no names here."""
        tracks = self._sequence.findall("media/video/track")
        items = self._items(self.chosen(tracks, video_track), self.rate)
        return clips_of(items, self.path)

    def _rate(self, element: Element, inherited: Fraction | None = None) -> Fraction:
        rate = element.find("rate")
        if rate is None and inherited is not None:
            return inherited
        timebase = number_in(self.document, element if rate is None else rate, "timebase")
        if timebase <= 0:
            raise self.document.refuse(f"has a timebase of {timebase}", "frames a second")
        is_ntsc = rate is not None and _is_true(rate, "ntsc")
        return timebase * Fraction(1000, 1001) if is_ntsc else timebase

    def _items(self, track: Element, rate: Fraction) -> Iterator[Item]:
        around = [element for element in track if element.tag in (*_ITEMS, "transitionitem")]
        for number, element in enumerate(around):
            if element.tag in _ITEMS:
                before = around[number - 1] if number else None
                after = around[number + 1] if number + 1 < len(around) else None
                yield self._item(self._deref(element), before, after, rate)

    def _item(
        self, clip: Element, before: Element | None, after: Element | None, rate: Fraction
    ) -> Item:
        number, own_rate = self._number, self._rate(clip, rate)
        begin, end = number(clip, "start"), number(clip, "end")
        start_s, length_s = number(clip, "in") / own_rate, None
        if _ELSEWHERE not in (begin, end):
            length_s = (number(clip, "out") - number(clip, "in")) / own_rate
        if begin == _ELSEWHERE:
            begin = self._cut(clip, before)
            assert before is not None, "it has been read"
            start_s += (begin - number(before, "start")) / rate  # `in` is where that begins
        if end == _ELSEWHERE:
            end = self._cut(clip, after)
        name, shown_s = clip.findtext("name") or "", (end - begin) / rate
        content = self._content(clip)
        if length_s is not None and abs(length_s - shown_s) > 1.5 / min(rate, own_rate):
            content = content if content in (DISABLED, GENERATED) else OTHER_SPEED
        return Item(name, begin / rate, shown_s, start_s, content)

    def _cut(self, clip: Element, transition: Element | None) -> Fraction:
        if transition is None or transition.tag != "transitionitem":
            raise self.document.refuse(
                f"has no transition beside {clip.findtext('name')} that says where it is cut",
                "one; export it again",
            )
        start, end = self._number(transition, "start"), self._number(transition, "end")
        alignment = transition.findtext("alignment") or "center"
        if alignment.startswith("end"):
            return end
        return start if alignment.startswith("start") else Fraction(int(start + end) // 2)

    def _number(self, element: Element, tag: str) -> Fraction:
        return number_in(self.document, element, tag)

    def _content(self, clip: Element) -> Any:
        if clip.findtext("enabled", "TRUE").upper() == "FALSE":
            return DISABLED
        if any(map(_changes_speed, clip.iterfind("filter/effect"))):
            return OTHER_SPEED
        nested = clip.find("sequence")
        if nested is not None:
            return lambda: self._nested(self._deref(nested))
        file = clip.find("file")
        if clip.tag == "generatoritem" or file is None:
            return GENERATED
        file = self._deref(file)
        if file.find("mediaSource") is not None and file.find("pathurl") is None:
            return GENERATED
        url = (file.findtext("pathurl") or "").strip()
        return media_at(url, self.path.parent) if url else OFFLINE

    def _nested(self, sequence: Element) -> Iterator[Item]:
        track = sequence.find("media/video/track")
        return iter(()) if track is None else self._items(track, self._rate(sequence, self.rate))

    def _deref(self, element: Element) -> Element:
        key = str(element.tag), element.get("id", "")
        return element if len(element) else self._whole.get(key, element)

    def add(self, sounds: list[Sound], name: str) -> None:
        """A new last audio track. name: in the comments of its clips, as tracks have none."""
        media = self._sequence.find("media")
        assert media is not None, "its clips have been read"
        audio = media.find("audio")
        audio = add(media, "audio") if audio is None else audio
        track, prefix = Element("track"), self.document.free_prefix("vab-rt")
        add(track, "enabled", "TRUE")
        add(track, "locked", "FALSE")
        for number, sound in enumerate(sounds, 1):
            track.insert(number - 1, self._clip_item(sound, f"{prefix}{number}", name))
        last = max((i for i, one in enumerate(audio) if one.tag == "track"), default=len(audio) - 1)
        audio.insert(last + 1, laid_out(track))

    def _clip_item(self, sound: Sound, name: str, track: str) -> Element:
        begin, end = sound.frames(self.rate)
        clip = Element("clipitem", {"id": name})
        add(clip, "name", as_text(sound.path.stem))
        add(clip, "enabled", "TRUE")
        add(clip, "duration", str(end - begin))
        self._add_rate(clip)
        for tag, value in (("start", begin), ("end", end), ("in", 0), ("out", end - begin)):
            add(clip, tag, str(value))
        file = add(clip, "file", id=f"{name}-file")
        add(file, "name", as_text(sound.path.name))
        add(file, "pathurl", "file://localhost" + sound.path.resolve().as_uri()[len("file://") :])
        self._add_rate(file)
        add(file, "duration", str(end - begin))
        audio = add(add(file, "media"), "audio")
        about = add(audio, "samplecharacteristics")
        add(about, "depth", "16")
        add(about, "samplerate", str(sound.rate_hz))
        add(audio, "channelcount", "1")
        source = add(clip, "sourcetrack")
        add(source, "mediatype", "audio")
        add(source, "trackindex", "1")
        facts = ", ".join(f"{key} {value}" for key, value in sound.facts.items())
        add(add(clip, "comments"), "mastercomment1", as_text(f"{track}: {facts}"))
        return clip

    def _add_rate(self, element: Element) -> None:
        rate = add(element, "rate")
        add(rate, "timebase", str(-(-self.rate // 1)))
        add(rate, "ntsc", "FALSE" if self.rate.denominator == 1 else "TRUE")

    def write(self, part: Path, out: Path) -> None:
        part.write_bytes(self.document.to_bytes())


def _is_true(element: Element, tag: str) -> bool:
    return element.findtext(tag, "FALSE").strip().upper() == "TRUE"


def _changes_speed(effect: Element) -> bool:
    if effect.findtext("effectid") != "timeremap":
        return False
    values = {
        one.findtext("parameterid"): (one.findtext("value") or "").strip().upper()
        for one in effect.iterfind("parameter")
    }
    try:
        is_normal = float(values.get("speed", 100)) == 100
    except ValueError:
        is_normal = False
    return not is_normal or values.get("reverse") == "TRUE" or values.get("variablespeed") == "1"
