"""What a container can hold of another: asked of FFmpeg's muxers by writing a few bytes to memory,
as their lists of codecs promise more than they keep."""

import io
import warnings
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import av.error
import msgspec
import numpy as np
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vab_rt.delivery import VIDEO_MUXERS
from vab_rt.errors import MediaWarning
from vab_rt.file_object import VideoFile, size_bytes
from vab_rt.packets import VideoPacket, frame_s
from vab_rt.timecode import later_timecode

if TYPE_CHECKING:
    from av.container.core import Chapter  # in PyAV's stubs alone

BOXED = (".mp4", ".mov", ".m4v")
"""With an edit list (ISO/IEC 14496-12): these start playing at time 0 whatever comes before it, and
end where they say, so a copy can begin and end between two key frames."""
_DOLBY_RECORDS = (b"dvcC", b"dvvC", b"dvwC")
_HEAD_BYTES = 1 << 20
# Facts of a file and not of what it shows; written anew.
_OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "software"}
_STREAM_TAGS = ("language", "title", "handler_name", "reel_name", "creation_time")
_PLACE = "com.apple.quicktime.location.iso6709"
_SAME_PICTURE = 8.0  # mean difference of 8 bits: range or colours may be told otherwise


class Form(msgspec.Struct, frozen=True):
    """How a video stream goes into a container. tag: its four characters, None for the muxer's
    choice. is_strict: by the muxer's own rules, which leave out some tags and the Dolby Vision
    record. has_any_tags: in mp4 and mov also tags that these do not define, as phones write them.
    has_timecode, has_chapters: if there are any. has_dolby: with the record. lost: names of tags
    that do not get there."""

    tag: str | None
    is_strict: bool
    has_any_tags: bool = False
    has_timecode: bool = True
    has_chapters: bool = True
    has_dolby: bool = False
    lost: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, str]:
        """The options of the muxer."""
        strict = {} if self.is_strict else {"strict": "unofficial"}
        return strict | ({"movflags": "use_metadata_tags"} if self.has_any_tags else {})


class Copied(msgspec.Struct, frozen=True):
    """What goes along with a stream's packets: its description, from `start_s` of the video on."""

    source: InputContainer
    stream: VideoStream
    zero: Fraction
    start: Fraction
    length: Fraction | None


def add_stream(copied: Copied, target: OutputContainer, form: Form) -> VideoStream:
    """A stream in `target` for the packets, with title, place, date, chapters and timecode."""
    source = copied.stream
    stream = target.add_stream_from_template(source, opaque=True)
    if source.average_rate:
        stream.codec_context.framerate = source.average_rate
    if form.tag is not None:
        stream.codec_context.codec_tag = form.tag
    own = _named(source.metadata)
    tags = {key: own[key] for key in _STREAM_TAGS if key in own}
    timecode = _timecode(copied) if form.has_timecode else None
    stream.metadata.update(tags | ({"timecode": timecode} if timecode else {}))
    target.metadata.update(_tags(copied.source))
    chapters = list(_chapters(copied))
    if chapters:
        target.set_chapters(chapters)
    return stream


def form_for(copied: Copied, packet: VideoPacket, suffix: str, path: VideoFile) -> Form | None:
    """How the stream fits into such a container, from its first packet; None if it does not."""
    if suffix == ".avi" and copied.stream.codec_context.has_b_frames:
        return None  # it stores no times of display
    shown = _decoded(copied.stream, packet)
    has_any = suffix in BOXED and any(
        key.lower().startswith("com.") for key in _tags(copied.source)
    )
    forms = list(_forms_to_try(copied, suffix, path))
    for has_timecode, each in product((True, False), forms):
        form = msgspec.structs.replace(each, has_any_tags=has_any, has_timecode=has_timecode)
        written = _write_one(copied, packet, suffix, form)
        if written is None or not _shows(written, shown):
            continue
        has_dolby = any(record in written for record in _DOLBY_RECORDS)
        return _as_read(msgspec.structs.replace(form, has_dolby=has_dolby), copied, written)
    return None


def _as_read(form: Form, copied: Copied, written: bytes) -> Form:
    """The same without what the written file does not have, though its muxer took it."""
    with av.open(io.BytesIO(written), "r") as container:
        found = [container.metadata, *(stream.metadata for stream in container.streams)]
        has_chapters = bool(container.chapters())
    kept = {key.lower() for tags in found for key in tags}
    return msgspec.structs.replace(
        form,
        has_timecode=form.has_timecode and "timecode" in kept,
        has_chapters=has_chapters,
        lost=tuple(sorted(key for key in _tags(copied.source) if key.lower() not in kept)),
    )


def tell_dropped(
    copied: Copied, form: Form, path: VideoFile, out: Path, *, keeps_sound: bool
) -> None:
    """Warns once, in one line, of what the input has and the copy has not. keeps_sound: one of its
    sound tracks is heard."""
    named = list(_dropped(copied, num_kept=int(keeps_sound)))
    if _has_dolby_record(path) and not form.has_dolby:
        named.append("its Dolby Vision record")
    if not form.has_timecode and _timecode(copied) is not None:
        named.append("its timecode")
    if not form.has_chapters and any(_chapters(copied)):
        named.append("its chapters")
    if form.lost:
        named.append(f"tags ({', '.join(form.lost)})")
    if named:
        message = f"{out.name} does not get all of {path}; left out: {', '.join(named)}"
        warnings.warn(message, MediaWarning, stacklevel=3)


def _forms_to_try(copied: Copied, suffix: str, path: VideoFile) -> Iterator[Form]:
    """With the stream's own tag; with that which QuickTime opens; with the muxer's choice."""
    try:
        own = copied.stream.codec_context.codec_tag
    except UnicodeDecodeError:
        own = ""
    is_dolby = _has_dolby_record(path)
    if own.isprintable() and own.strip():
        if not is_dolby:
            yield Form(own, is_strict=True)
        if "mov" in copied.source.format.name:  # elsewhere tags are not those of mp4 and mov
            yield Form(own, is_strict=False)
    if suffix in BOXED and copied.stream.codec_context.name == "hevc":
        yield Form("hvc1", is_strict=not is_dolby)  # QuickTime does not open FFmpeg's choice, hev1
    yield Form(None, is_strict=not is_dolby)
    if is_dolby:
        yield Form(None, is_strict=True)


def _write_one(copied: Copied, packet: VideoPacket, suffix: str, form: Form) -> bytes | None:
    """A file with one packet; None where the muxer refuses."""
    file = io.BytesIO()
    options = {"fflags": "+bitexact", **form.options}
    try:
        with av.open(file, "w", format=VIDEO_MUXERS[suffix], options=options) as target:
            stream = add_stream(copied, target, form)
            target.mux_one(_at_zero(packet, stream, copied.stream))
    except MemoryError:  # FFmpeg's is both
        raise
    except (av.error.FFmpegError, ValueError):  # PyAV's own check of the muxer's list
        return None
    return file.getvalue()


def _at_zero(packet: VideoPacket, stream: VideoStream, source: VideoStream) -> VideoPacket:
    only = cast("VideoPacket", Packet(bytes(packet)))
    only.stream, only.time_base = stream, packet.time_base
    only.pts = only.dts = 0
    only.duration = max(1, round(frame_s(source) / packet.time_base))
    only.is_keyframe = True
    return only


def _decoded(stream: VideoStream, packet: VideoPacket) -> VideoFrame | None:
    """The frame of one packet, None where it needs others."""
    stream.codec_context.flush_buffers()
    try:
        return next(iter([*stream.decode(packet), *stream.decode(None)]), None)
    except av.error.FFmpegError:
        return None


def _shows(written: bytes, shown: VideoFrame | None) -> bool:
    """Whether a written file shows this frame; taken for granted where there is none."""
    if shown is None:
        return True
    try:
        with av.open(io.BytesIO(written), "r") as container:
            found = next(container.decode(video=0), None)
    except (av.error.FFmpegError, IndexError):
        return False
    if found is None or (found.width, found.height) != (shown.width, shown.height):
        return False
    if found.rotation != shown.rotation:  # avi has no place for it
        return False
    first, second = (f.to_ndarray(format="rgb24").astype(np.int16) for f in (found, shown))
    return bool(np.abs(first - second).mean() < _SAME_PICTURE)


def _named(tags: dict[str, str]) -> dict[str, str]:
    """The same with names as most containers have them; matroska's are in capitals."""
    return {key.lower() if key.isupper() else key: value for key, value in tags.items()}


def _tags(source: InputContainer) -> dict[str, str]:
    tags = {k: v for k, v in _named(source.metadata).items() if k not in _OWN_TAGS}
    for value in [v for k, v in tags.items() if k.lower() == _PLACE]:
        tags.setdefault("location", value)
    if "location" in tags:  # the same again, by language
        tags = {k: v for k, v in tags.items() if not k.startswith("location-")}
    return tags


def _chapters(copied: Copied) -> "Iterator[Chapter]":
    """Those of the selection, counted from its start."""
    begin = copied.zero + copied.start
    for number, chapter in enumerate(copied.source.chapters()):
        base = chapter["time_base"] or Fraction(1)
        start, end = chapter["start"] * base - begin, chapter["end"] * base - begin
        last = end if copied.length is None else min(end, copied.length)
        if last > max(start, Fraction(0)):
            yield {
                "id": number,
                "start": round(max(start, Fraction(0)) / base),
                "end": round(last / base),
                "time_base": base,
                "metadata": chapter["metadata"],
            }


def _timecode(copied: Copied) -> str | None:
    """That of the selection's first frame."""
    own, whole = _named(copied.stream.metadata), _named(copied.source.metadata)
    first = own.get("timecode") or whole.get("timecode")
    rate = copied.stream.average_rate
    if first is None or rate is None or not copied.start:
        return first
    return later_timecode(first, int(copied.start * rate), rate)


def _dropped(copied: Copied, num_kept: int) -> Iterator[str]:
    """Other streams, by kind; not a timecode or chapters, which are written anew, and not so many
    sound tracks that are kept."""
    kinds = Counter({"sound track": -num_kept})
    has_chapters = bool(copied.source.chapters())
    for stream in copied.source.streams:
        if stream.index == copied.stream.index:
            continue
        if stream.type == "data" and (has_chapters or "timecode" in stream.metadata):
            continue
        is_cover = bool(stream.disposition & Disposition.attached_pic)
        kinds["cover picture" if is_cover else _KINDS.get(stream.type, stream.type)] += 1
    for kind, num in kinds.items():
        if num > 0:
            yield f"{num} {kind}{'' if num == 1 else 's'}"


_KINDS = {
    "audio": "sound track",
    "subtitle": "subtitle track",
    "data": "data track",
    "video": "other video track",
}


def _has_dolby_record(path: VideoFile) -> bool:
    """Whether the head or the tail of the file, where descriptions are, has one."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, size_bytes(path) - _HEAD_BYTES))
        return any(record in part for part in (head, file.read()) for record in _DOLBY_RECORDS)
