"""MLT's XML: Shotcut's projects, and what melt plays."""

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from vab_rt.timelines.clips import (
    GENERATED,
    NO_PICTURE,
    OTHER_SPEED,
    STILL,
    Clip,
    Item,
    Sound,
    Unheard,
    clips_of,
    media_at,
)
from vab_rt.timelines.documents import Document, add, as_text, laid_out
from vab_rt.timelines.timeline import Timeline

_SERVICES = ("producer", "chain", "playlist", "tractor")
_STILLS = ("qimage", "pixbuf", "glaxnimate", "qtext", "pango", "kdenlivetitle", "webvfx")


class MltTimeline(Timeline):
    """Changed in place."""

    def __init__(self, document: Document) -> None:
        self.document, self.path, root = document, document.path, document.root
        if any(_property(one, "kdenlive:docproperties.version") for one in root.iter("playlist")):
            raise document.refuse(
                "is Kdenlive's own project, in which tracks are more than MLT knows",
                "a timeline in .otio; export one in Kdenlive 25.04 or newer",
            )
        services = [one for one in root.iter() if one.tag in _SERVICES]
        self._by_id = {one.get("id", ""): one for one in services if "id" in one.attrib}
        tractors = root.findall("tractor")
        named = [one for one in tractors if one.get("id") == root.get("producer")]
        if not tractors:
            raise document.refuse(
                "has no tractor", "tracks; save it in Shotcut, or export it again"
            )
        self._tractor = [*tractors, *named][-1]
        self.rate = self._frame_rate()
        self._folder = self.path.parent / root.get("root", "")
        self._lengths = dict[Element, int]()

    def _frame_rate(self) -> Fraction:
        profile, rate = self.document.root.find("profile"), Fraction(0)
        facts = {} if profile is None else profile.attrib
        with suppress(ValueError, ZeroDivisionError):
            rate = Fraction(
                int(facts.get("frame_rate_num", "")), int(facts.get("frame_rate_den", "1"))
            )
        if rate <= 0:
            raise self.document.refuse("has no profile with a frame rate", "one; save it again")
        return rate

    def clips(self, video_track: int, name: str) -> list[Clip]:
        """The clips of a video track, counted from 1, the lowest; one of colours alone is the
        background."""
        names = [_property(one, "shotcut:name") for one in self._by_id.values()]
        self.require_new_name(name, names)
        try:
            tracks = list(self._video_tracks(self._tractor))
            return clips_of(self.chosen(tracks, video_track), self.path)
        except RecursionError as error:
            raise self.document.refuse(
                "has a track that plays itself", "one that ends; save it again"
            ) from error

    def _video_tracks(self, tractor: Element) -> Iterator[list[Item]]:
        for track in _tracks(tractor):
            if track.get("hide") in ("video", "both"):
                continue
            items = self._items(track)
            if not items or any(item.content is not GENERATED for item in items):
                yield items

    def _service(self, element: Element) -> Element:
        """What an entry or a track names, or the element itself where it holds that."""
        if element.tag in _SERVICES:
            return element
        inline = next((one for one in element if one.tag in _SERVICES), None)
        found = inline if inline is not None else self._by_id.get(element.get("producer", ""))
        if found is None:
            raise self.document.refuse(
                f"has no {element.get('producer')}, which it plays", "all producers; save it again"
            )
        return found

    def _items(self, track: Element) -> list[Item]:
        service = self._service(track)
        if service.tag != "playlist":
            return [self._item(track, 0)]
        items, at = list[Item](), 0
        transitions = list[int]()
        for element in service:
            if element.tag == "blank":
                at += self._frames(element.get("length", "0"))
            elif element.tag == "entry":
                item = self._item(element, at)
                if _property(self._service(element), "shotcut:transition"):
                    transitions.append(len(items))
                items.append(item)
                at += round(item.length_s * self.rate)
        return self._cut(items, transitions)

    def _cut(self, items: list[Item], transitions: list[int]) -> list[Item]:
        """A transition is a clip of both its neighbours: they are cut in its middle."""
        for number in reversed(transitions):
            if 0 < number < len(items) - 1:
                before, transition, after = items[number - 1 : number + 2]
                frames = round(transition.length_s * self.rate)
                first, second = frames // 2 / self.rate, -(-frames // 2) / self.rate
                before = before._replace(length_s=before.length_s + first)
                after = after._replace(
                    begin_s=after.begin_s - second,
                    length_s=after.length_s + second,
                    start_s=after.start_s - second,
                )
                items[number - 1 : number + 2] = [before, after]
        return items

    def _item(self, element: Element, at: int) -> Item:
        """An entry, or a track that is no playlist, at a frame."""
        service = self._service(element)
        own_start = self._frames(service.get("in", "0"))
        start = self._frames(element.get("in", "")) if "in" in element.attrib else own_start
        end = element.get("out") or service.get("out") or "-1"  # which is its end
        length = self._length(service) if end == "-1" else self._frames(end) + 1 - start
        resource = _property(service, "resource")
        name = _property(service, "shotcut:caption") or resource.replace("\\", "/").split("/")[-1]
        return Item(
            name or service.get("id", ""),
            at / self.rate,
            length / self.rate,
            start / self.rate,
            self._content(service),
        )

    def _length(self, service: Element) -> int:
        if service.tag in ("playlist", "tractor"):
            if service not in self._lengths:  # else one that is nested often is counted as often
                self._lengths[service] = self._counted(service)
            return self._lengths[service]
        text = _property(service, "length")
        if not text:
            raise self.document.refuse(
                f"does not say how long {service.get('id')} is", "in and out; save it again"
            )
        return self._frames(text)

    def _counted(self, service: Element) -> int:
        if service.tag == "tractor":
            return max((self._length(self._service(one)) for one in _tracks(service)), default=0)
        items = self._items(service)
        return round((items[-1].begin_s + items[-1].length_s) * self.rate) if items else 0

    def _content(self, service: Element) -> Any:
        if service.tag == "playlist":
            return lambda: self._items(service)
        if service.tag == "tractor":
            return lambda: next(self._video_tracks(service), [])
        kind, resource = _property(service, "mlt_service"), _property(service, "resource")
        is_remapped = any(
            _property(one, "mlt_service") == "timeremap" for one in service.iter("link")
        )
        if kind == "timewarp" or is_remapped:
            return OTHER_SPEED
        if kind in _STILLS:
            return STILL
        if kind and not kind.startswith(("avformat", "xml")):
            return GENERATED
        if kind.startswith("xml") or resource.endswith(".mlt"):
            return Unheard("it is a project of its own; render it to a file first")
        if _property(service, "video_index") == "-1":
            return NO_PICTURE
        return media_at(resource, self._folder)

    def _frames(self, text: str) -> int:
        """As MLT counts them: 120, 00:00:04.800 or 00:00:04:20."""
        rate = self.rate
        try:
            if ":" not in text:
                return int(text)
            *longer, last = text.replace(",", ".").replace(";", ":").split(":")
            frames = 0
            if "." not in last:
                frames, last = int(last), longer.pop()
            hours, minutes = [0, 0, *map(int, longer)][-2:]
            whole = math.floor(rate * hours * 3600) + math.floor(rate * minutes * 60)
            seconds = rate * Fraction(last)
            return whole + frames + (round(seconds) if "." in last else math.ceil(seconds))
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise self.document.refuse(
                f"has {text!r} for a time", "frames, or a time such as 00:00:04.800"
            ) from error

    def add(self, sounds: list[Sound], name: str) -> None:
        """A new last track, and a transition that mixes it into those below."""
        root, prefix = self.document.root, self.document.free_prefix("vab-rt")
        playlist = Element("playlist", {"id": f"{prefix}track"})
        _set(playlist, "shotcut:audio", "1")
        _set(playlist, "shotcut:name", as_text(name))
        at, new = 0, list[Element]()
        for number, sound in enumerate(sounds, 1):
            begin, end = sound.frames(self.rate)
            new.append(laid_out(_producer(sound, f"{prefix}{number}", end - begin)))
            if begin > at:
                add(playlist, "blank", length=str(begin - at))
            edges = {"in": "0", "out": str(end - begin - 1)}
            add(playlist, "entry", producer=f"{prefix}{number}", **edges)
            at = end
        at = list(root).index(self._tractor)
        root[at:at] = [*new, laid_out(playlist)]
        self._mix(f"{prefix}track")

    def _mix(self, playlist: str) -> None:
        tracks = _tracks(self._tractor)
        parent = self._tractor.find("multitrack")
        parent = self._tractor if parent is None else parent
        track = laid_out(Element("track", {"producer": playlist, "hide": "video"}))
        behind = list(parent).index(tracks[-1]) + 1
        parent.insert(behind, track)
        mix = Element("transition")
        values = {"a_track": "0", "b_track": str(len(tracks)), "mlt_service": "mix"}
        for key, value in (values | {"always_active": "1", "sum": "1"}).items():
            _set(mix, key, value)
        # Filters of the whole come after what they filter.
        field = [
            i
            for i, one in enumerate(self._tractor)
            if one.tag in ("transition", "track", "multitrack")
        ]
        self._tractor.insert(max(field) + 1, laid_out(mix))

    def write(self, part: Path, out: Path) -> None:
        if out.resolve().parent != self.path.resolve().parent:
            self.document.root.set("root", str(self._folder.resolve()))
        part.write_bytes(self.document.to_bytes())


def _tracks(tractor: Element) -> list[Element]:
    inside = tractor.find("multitrack")
    found = [] if inside is None else [one for one in inside if one.tag in ("track", *_SERVICES)]
    return [*found, *tractor.findall("track")]


def _property(service: Element, name: str) -> str:
    for one in service.iterfind("property"):
        if one.get("name") == name:
            return (one.text or "").strip()
    return ""


def _set(service: Element, name: str, value: str) -> None:
    add(service, "property", value, name=name)


def _producer(sound: Sound, name: str, frames: int) -> Element:
    producer = Element("producer", {"id": name, "in": "0", "out": str(frames - 1)})
    _set(producer, "length", str(frames))
    _set(producer, "resource", as_text(str(sound.path.resolve())))
    _set(producer, "mlt_service", "avformat")
    _set(producer, "shotcut:caption", as_text(sound.path.stem))
    for key, value in sound.facts.items():
        _set(producer, f"vab_rt.{key}", as_text(str(value)))
    return producer
