"""OpenTimelineIO's own files: .otio, and .otioz that holds its media."""

import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any

import opentimelineio as otio

from vab_rt.errors import MediaError
from vab_rt.output import writing
from vab_rt.timelines.clips import (
    DISABLED,
    GENERATED,
    OFFLINE,
    OTHER_SPEED,
    Clip,
    Item,
    Sound,
    Unheard,
    clips_of,
    exact_rate,
    media_at,
)
from vab_rt.timelines.documents import MAX_BYTES, as_text, read_bytes
from vab_rt.timelines.timeline import Timeline

_CONTENT = "content.otio"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can tell: the same sounds, the same bytes


class OtioTimeline(Timeline):
    """A timeline in JSON, whose media lie beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = self._read()
        found = _parsed(text, path)
        if isinstance(found, otio.schema.SerializableCollection):
            timelines = [one for one in found if isinstance(one, otio.schema.Timeline)]
        else:
            timelines = [found] if isinstance(found, otio.schema.Timeline) else []
        if len(timelines) != 1:
            raise MediaError(
                f"{path} holds {len(timelines)} timelines, expected one; export the one that is to "
                "have sound"
            )
        self._whole, self._timeline = found, timelines[0]
        # Older programs know the first version of clips alone.
        self._versions = {"Clip": 1} if '"Clip.1"' in text and '"Clip.2"' not in text else {}
        self._rate, self._fetched, self._sounds = 0.0, "", list[Sound]()

    def _read(self) -> str:
        return read_bytes(self.path).decode("utf-8", "replace")

    def clips(self, video_track: int, name: str) -> list[Clip]:
        """The clips of a video track, counted from 1. name: of the track that is to come."""
        tracks = list(self._timeline.tracks or ())
        self.require_new_name(name, [one.name for one in tracks if _is_track(one, "Audio")])
        track = self.chosen([one for one in tracks if _is_track(one, "Video")], video_track)
        try:
            self._rate = track.trimmed_range().duration.rate
            return clips_of(self._items([track]), self.path)
        except otio.exceptions.OTIOError as error:
            raise _damaged(self.path, error) from error

    def _items(self, children: Iterable[Any]) -> Iterator[Item]:
        begin = Fraction(0)
        for child in children:
            if not isinstance(child, otio.core.Item):
                continue  # a transition: it shows more of both clips, and moves none
            shown = _trimmed(child, self.path)
            length, start = _seconds(shown.duration), _seconds(shown.start_time)
            if isinstance(child, otio.schema.Clip) and child.media_reference is not None:
                whole = child.media_reference.available_range
                start -= Fraction(0) if whole is None else _seconds(whole.start_time)
            if not isinstance(child, otio.schema.Gap):
                yield Item(child.name, begin, length, start, self._content(child))
            begin += length

    def _content(self, item: Any) -> Any:
        if not item.enabled:
            return DISABLED
        if any(map(_changes_speed, item.effects)):
            return OTHER_SPEED
        if isinstance(item, otio.schema.Track):
            return lambda: self._items(item)
        if isinstance(item, otio.schema.Stack):
            lowest = [child for child in item if not _is_track(child, "Audio")][:1]
            return lambda: self._items(lowest)
        return self._media(item.media_reference)

    def _media(self, reference: Any) -> Path | Unheard:
        if isinstance(reference, otio.schema.GeneratorReference):
            return GENERATED
        if isinstance(reference, otio.schema.ImageSequenceReference):
            return Unheard("it is a sequence of pictures; render it to a file first")
        if not isinstance(reference, otio.schema.ExternalReference):
            return OFFLINE
        return self._file(reference.target_url)

    def _file(self, url: str) -> Path | Unheard:
        return media_at(url, self.path.parent)

    def add(self, sounds: list[Sound], name: str) -> None:
        """A new last audio track."""
        self._sounds = sounds
        track = otio.schema.Track(name=name, kind=otio.schema.TrackKind.Audio)
        at = Fraction(0)
        for sound in sounds:
            if sound.clip.begin_s > at:
                track.append(otio.schema.Gap(source_range=self._range(sound.clip.begin_s - at)))
            facts = {"vab_rt": {key: _kept(value) for key, value in sound.facts.items()}}
            shown = self._range(sound.clip.length_s)
            reference = otio.schema.ExternalReference(self._url(sound), shown, facts)
            clip = otio.schema.Clip(sound.path.stem, reference, shown, facts)
            track.append(clip)
            at = sound.clip.begin_s + sound.clip.length_s
        self._timeline.tracks.append(track)

    def _url(self, sound: Sound) -> str:
        return sound.path.resolve().as_uri()

    def _range(self, length_s: Fraction) -> Any:
        frames = length_s * exact_rate(self._rate)
        return otio.opentime.TimeRange(
            otio.opentime.RationalTime(0, self._rate),
            otio.opentime.RationalTime(float(frames), self._rate),
        )

    def write(self, part: Path, out: Path) -> None:
        """part: the file to write, which is to be `out`."""
        if out.resolve().parent != self.path.resolve().parent:
            self._name_media_from_anywhere()
        with writing(out):
            part.write_text(self._text(), "utf-8")

    def _name_media_from_anywhere(self) -> None:
        for clip in self._whole.find_clips():
            reference = clip.media_reference
            if isinstance(reference, otio.schema.ExternalReference):
                media = media_at(reference.target_url, self.path.parent)
                if isinstance(media, Path) and "://" not in reference.target_url:
                    reference.target_url = media.resolve().as_uri()

    def _text(self) -> str:
        text: str = otio.core.serialize_json_to_string(self._whole, self._versions, 4)
        return text + "\n"


class OtioBundle(OtioTimeline):
    """A zip of such a timeline and of the media that it names."""

    holds_sounds = True

    def _read(self) -> str:
        with _unzipping(self.path), zipfile.ZipFile(self.path) as file:
            self._members = {member.filename: member for member in file.infolist()}
            self.taken_names = frozenset(PurePosixPath(name).name for name in self._members)
            if self._members[_CONTENT].file_size > MAX_BYTES:
                raise MediaError(
                    f"{self.path} has a {_CONTENT} of more than {MAX_BYTES / 1e6:.0f} MB, expected "
                    "a timeline"
                )
            return file.read(_CONTENT).decode("utf-8", "replace")

    def _file(self, url: str) -> Path | Unheard:
        return Path(url) if url in self._members else super()._file(url)

    def fetched(self, media: Path, scratch: Path) -> Path:
        name = media.as_posix()
        if name not in self._members:
            return media
        path = scratch / f"media{media.suffix}"
        if self._fetched != name:  # clips of one film often follow each other
            with _unzipping(self.path), zipfile.ZipFile(self.path) as file:
                file.getinfo(name).filename = path.name  # a name of ours: it leads nowhere else
                file.extract(name, scratch)
            self._fetched = name
        return path

    def _url(self, sound: Sound) -> str:
        return f"media/{sound.path.name}"

    def write(self, part: Path, out: Path) -> None:
        with writing(out), zipfile.ZipFile(self.path) as old, zipfile.ZipFile(part, "w") as new:
            for name, member in self._members.items():
                if name == _CONTENT:
                    new.writestr(member, self._text())
                else:
                    with old.open(name) as of, new.open(_like(member), "w") as to:
                        shutil.copyfileobj(of, to)
            for sound in self._sounds:
                member = zipfile.ZipInfo(self._url(sound), _EPOCH)
                with sound.path.open("rb") as of, new.open(member, "w") as to:
                    shutil.copyfileobj(of, to)


def _like(member: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """For a copy, whose size is told before it is there."""
    copied = zipfile.ZipInfo(member.filename, member.date_time)
    copied.compress_type, copied.external_attr = member.compress_type, member.external_attr
    copied.file_size = member.file_size
    return copied


@contextmanager
def _unzipping(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise MediaError(
            f"{path} cannot be read as .otioz ({error}), expected a zip with {_CONTENT} and media; "
            "export it again"
        ) from error


def _parsed(text: str, path: Path) -> Any:
    try:
        json.loads(text)  # says where it is wrong, and refuses what nests beyond any depth
        return otio.core.deserialize_json_from_string(text)
    except (ValueError, LookupError, TypeError, RuntimeError, otio.exceptions.OTIOError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> MediaError:
    reason = " ".join(str(error).split())[:200]
    return MediaError(
        f"{path} is no timeline that opentimelineio reads ({reason}), expected one; export it again"
    )


def _is_track(item: Any, kind: str) -> bool:
    return isinstance(item, otio.schema.Track) and item.kind == kind


def _trimmed(item: Any, path: Path) -> Any:
    try:
        return item.trimmed_range()
    except otio.exceptions.OTIOError as error:
        raise MediaError(
            f"{path} does not say how long {item.name or 'a clip'} is, expected a source_range or "
            "an available_range; export it again"
        ) from error


def _seconds(time: Any) -> Fraction:
    if not (time.rate > 0 and math.isfinite(time.rate) and math.isfinite(time.value)):
        raise otio.exceptions.OTIOError(f"a time is {time.value} at {time.rate} frames a second")
    return Fraction(time.value) / exact_rate(time.rate)


def _kept(value: Any) -> Any:
    """As opentimelineio can keep it: its whole numbers have 63 bits, its text is Unicode."""
    is_large = isinstance(value, int) and value >= 2**63
    return as_text(str(value)) if is_large or isinstance(value, str) else value


def _changes_speed(effect: Any) -> bool:
    if not isinstance(effect, otio.schema.TimeEffect):
        return False
    is_freeze = isinstance(effect, otio.schema.FreezeFrame)
    return is_freeze or getattr(effect, "time_scalar", None) != 1.0
