"""Open video files: their packets from the beginning or from a key frame, and the frames of these.

What every container and codec has in common ends here. Times are exact fractions of a second, as
the container counts them.
"""

import mmap
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from heapq import heappop, heappush
from itertools import chain
from pathlib import Path
from typing import Literal

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vab_rt.errors import MediaError, MediaWarning, reason_of
from vab_rt.file_object import FileObject, VideoFile
from vab_rt.packets import VideoPacket, frame_s, may_jump, starts_again, timed_packets
from vab_rt.paths import address_of

# Above this many pixels (4096 x 2304) frames are decoded by slices: one thread per frame would
# hold as many 50 to 100 MB frames as there are cores.
_MAX_FRAME_THREADED_PIXELS = 4096 * 2304
# Of frames up to this size a second thread gains nothing, and takes a third more of the processor.
_MAX_UNTHREADED_PIXELS = 640 * 360
_MEMORY_OF_A_DECODER = 64_000_000  # bytes: its frames, and the stacks of its threads
_MAX_HELD = 100  # packets: more than telling the order of display and decoding two frames take


class Source:
    """An open video file. Its packets are read from the beginning, or from a key frame, as often as
    one likes: the first of them are held, and most containers find back to these. Those made for
    broadcast are opened again. Only the latest iterator over packets may be used.
    """

    def __init__(self, path: VideoFile) -> None:
        self.path = path
        self._first: tuple[object, ...] | None = None
        self._open()

    def _open(self) -> None:
        self.container, self.stream = _open_input(self.path)
        self._restart(begins=True)

    def _restart(self, *, begins: bool) -> None:
        """Packets come from where the container stands, at its beginning or not."""
        self._unread = timed_packets(self.container, self.stream)
        self._held: list[VideoPacket] | None = [] if begins else None
        self._error: av.error.FFmpegError | None = None

    def close(self) -> None:
        self.container.close()

    def packets(self) -> Iterator[VideoPacket]:
        """From the beginning, times rising though the clock starts again. Raises FFmpegError."""
        self.stream.codec_context.flush_buffers()
        if self._held is None and not self._found_back():
            self.close()
            self._open()
        yield from tuple(self._held or ())
        yield from self._rest()

    def packets_from(self, seconds: Fraction) -> Iterator[VideoPacket]:
        """From a key frame that lets this moment be shown; from the beginning where a seek lands
        after it, or cannot be. Raises FFmpegError."""
        if self._seek(seconds):
            tried: list[VideoPacket] = []

            def noted() -> Iterator[VideoPacket]:
                for packet in self._rest():
                    tried.append(packet)
                    yield packet

            first = next(decode(noted(), self.stream, self.path, warn=False), None)
            if first is not None and first[1] <= seconds:
                self.stream.codec_context.flush_buffers()
                return chain(tried, self._rest())
        return self.packets()

    def _rest(self) -> Iterator[VideoPacket]:
        """What has not been read yet; an error that ended it is raised again."""
        if self._error is not None:
            raise self._error
        try:
            for packet in self._unread:
                if self._held is not None:
                    self._first = self._first or _identity(packet)
                    self._held.append(packet)
                    self._held = self._held if len(self._held) <= _MAX_HELD else None
                yield packet
        except av.error.FFmpegError as error:
            self._error = error
            raise

    def _seek(self, seconds: Fraction) -> bool:
        if may_jump(self.container):
            self.close()
            self._open()
            if starts_again(self.container, self.stream):
                self._held = None
                return False
        self._restart(begins=False)
        try:
            seek(self.container, self.stream, seconds)
        except av.error.FFmpegError:
            return False
        return True

    def _found_back(self) -> bool:
        if self._first is None or may_jump(self.container):
            return False
        *_, dts = self._first
        if not isinstance(dts, int) or not self._seek(dts * (self.stream.time_base or Fraction(1))):
            return False
        self._restart(begins=True)
        found = next(self._rest(), None)
        return found is not None and _identity(found) == self._first


def _identity(packet: VideoPacket) -> tuple[object, ...]:
    return packet.pos, packet.size, packet.pts, packet.dts


@contextmanager
def open_video(path: VideoFile) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its video stream, ready to decode. Raises MediaError."""
    container, stream = _open_input(path)
    with container:
        yield container, stream


def _open_input(path: VideoFile) -> tuple[InputContainer, VideoStream]:
    require_file(path)
    try:
        container = open_container(path)
    except MemoryError:  # FFmpeg's is both
        raise
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(
            f"{path} cannot be read as video ({reason_of(error)}); expected a complete video file "
            "such as mp4, mov, mkv or webm; copy it again, or convert it"
        ) from error
    stream = _video_stream(container, path)
    stream.thread_type = _thread_type(stream.width * stream.height)
    return container, stream


def _thread_type(num_pixels: int) -> Literal["NONE", "AUTO", "SLICE"]:
    if num_pixels <= _MAX_UNTHREADED_PIXELS:
        return "NONE"
    return "AUTO" if num_pixels <= _MAX_FRAME_THREADED_PIXELS else "SLICE"


def open_container(path: VideoFile) -> InputContainer:
    """Tags are in whatever encoding the maker of the file had. Raises FFmpegError, OSError."""
    if isinstance(path, FileObject):
        return av.open(path.open(), "r", metadata_errors="replace")
    # "file:" keeps a name such as "a:b.mp4" from being read as a protocol.
    # No pattern: a picture's name is that of one file, whatever "%" or "?" is in it.
    options = {"pattern_type": "none"}
    return av.open(f"file:{path}", container_options=options, metadata_errors="replace")


def require_file(path: VideoFile, expected: str = "a video file") -> None:
    """Raises MediaError unless this is a regular file with something in it."""
    if isinstance(path, FileObject):
        path.require()
        return
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(_why_missing(path, expected)) from error
    except (OSError, ValueError) as error:  # ValueError: for a name with a null character
        if address_of(path) is not None:  # signed ones are longer than names may be
            raise MediaError(_why_missing(path, expected)) from error
        reason = reason_of(error)
        message = f"{path} cannot be read ({reason}), expected {expected}; check the path"
        raise MediaError(message) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise MediaError(f"{path} is {kind}, expected {expected}; name the file itself")
    if status.st_size == 0:
        raise MediaError(f"{path} is empty (0 bytes), expected {expected}; copy it again")


def _why_missing(path: Path, expected: str) -> str:
    if str(path) == "-":
        return f"- would be standard input, expected {expected}; save it in one, and name that"
    address = address_of(path)
    if address is None:
        return f"{path} does not exist, expected {expected}; check the path"
    advice = "name it without file:" if address.startswith("file:") else "download it first"
    return f"{address} is an address, expected {expected} on this machine; {advice}"


def _video_stream(container: InputContainer, path: VideoFile) -> VideoStream:
    """The first video stream; cover art does not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                break
            return stream
    found = ", ".join(s.type for s in container.streams) or "no stream at all"
    raise MediaError(
        f"{path} has no video stream that can be decoded (found: {found}); "
        "expected a file with one; choose another file"
    )


def decode(
    packets: Iterator[VideoPacket],
    stream: VideoStream,
    path: VideoFile,
    warn: bool = True,
    tells_order: bool = True,
) -> Iterator[tuple[VideoFrame, Fraction, Fraction]]:
    """Frames in display order with begin and end in container seconds; damaged ones are skipped.

    tells_order: as `probe` found it; where false the n-th frame is shown at the n-th packet's time.
    """
    num_damaged = 0
    begin, end = None, Fraction(0)
    length = frame_s(stream)
    slots: list[int] | None = None if tells_order else []
    try:
        for frame in _frames_or_none(packets, stream, slots):
            if frame is None:
                num_damaged += 1
                continue
            num_damaged += frame.is_corrupt
            base = frame.time_base or stream.time_base or length
            if slots:
                frame.pts = heappop(slots)
            at = end if frame.pts is None else frame.pts * base
            if slots is not None:
                length = at - begin if begin is not None else length
            elif frame.duration:
                length = frame.duration * base
            # Frames arrive in the order of display; where their times do not, the order is right
            # and the times are wrong.
            begin = at if begin is None or at > begin else end
            end = begin + length
            yield frame, begin, end
    finally:  # a selection that ends before the file does is damaged all the same
        if num_damaged and warn:
            message = f"{path} is damaged: {num_damaged} of its packets or frames"
            warnings.warn(f"{message} could not be used", MediaWarning, stacklevel=2)


def _frames_or_none(
    packets: Iterator[VideoPacket], stream: VideoStream, slots: list[int] | None
) -> Iterator[VideoFrame | None]:
    """Decoded frames; None for each packet that could not be decoded or read. The packets' times
    go into the heap `slots`."""
    is_readable = True
    while is_readable:
        try:
            packet = next(packets, None)
            if packet is None:
                return
        except MemoryError:  # FFmpeg's is both, and no damage
            raise
        except av.error.FFmpegError:
            is_readable, packet = False, None
            yield None
        if slots is not None and packet is not None and packet.size and packet.dts is not None:
            heappush(slots, packet.dts)
        try:
            # Without a packet: what the decoder still holds, one frame per thread.
            yield from stream.decode(packet)
        except av.error.EOFError:
            return
        except MemoryError:
            raise
        except av.error.FFmpegError:
            _require_memory()
            yield None


def _require_memory() -> None:
    """Raises MemoryError where there is hardly any left: decoders take that for damaged data."""
    try:
        mmap.mmap(-1, _MEMORY_OF_A_DECODER).close()
    except OSError as error:
        raise MemoryError("cannot allocate memory for a decoder") from error


def seek(container: InputContainer, stream: VideoStream, seconds: Fraction) -> None:
    container.seek(int(seconds / (stream.time_base or Fraction(1))), stream=stream)
