"""Videos that are no files of a path: bytes in memory, and files that a program has open."""

import errno
import io
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import av.error

from vab_rt.errors import MediaError

_IN_MEMORY = "video in memory"


class FileObject:
    """Bytes, or a binary file object that can seek, opened as often as a file is, each time at its
    beginning. By one thread at a time, but for bytes."""

    def __init__(self, content: bytes | BinaryIO) -> None:
        """Raises MediaError for a file object that cannot be read so."""
        self.content = content
        self._file = io.BytesIO(content) if isinstance(content, bytes) else content
        self._lock = threading.Lock()
        name = getattr(content, "name", None)
        self._shown = name if isinstance(name, str) else _IN_MEMORY
        self.require()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.content,)

    def __str__(self) -> str:
        return self._shown

    @property
    def name(self) -> str:
        return Path(self._shown).name

    @property
    def size_bytes(self) -> int:
        with self._lock:
            return self._file.seek(0, io.SEEK_END)

    def open(self, mode: Literal["rb"] = "rb") -> "_View":
        return _View(self._file, self._lock)

    def require(self) -> None:
        """Raises MediaError unless it can be read, and has something in it."""
        expected = "bytes, or a file that is open for reading, in binary, and can seek"
        if getattr(self._file, "closed", False):
            raise MediaError(f"{self} is closed, expected {expected}; open it again")
        if not hasattr(self._file, "readable"):
            kind = type(self._file).__name__
            raise MediaError(f"the video is {kind}, expected the name of a file, {expected}")
        if isinstance(self._file, io.TextIOBase):
            raise MediaError(f"{self} is open as text, expected {expected}; open it with mode rb")
        if not self._file.readable():
            raise MediaError(f"{self} is not open for reading, expected {expected}; use mode rb")
        if not self._file.seekable():
            raise MediaError(f"{self} cannot seek, expected {expected}; give its read() instead")
        if not self.size_bytes:
            raise MediaError(f"{self} is empty (0 bytes), expected a video; give all of it")


class _View(io.RawIOBase):
    """The same content with a place of its own in it."""

    def __init__(self, file: BinaryIO, lock: threading.Lock) -> None:
        self._file, self._lock, self._at = file, lock, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_CUR:
            offset += self._at
        elif whence == io.SEEK_END:
            with self._lock:
                offset = self._file.seek(offset, io.SEEK_END)
        self._at = max(0, offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        try:
            with self._lock:
                self._file.seek(self._at)
                found = self._file.read(len(buffer))
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            raise av.error.FFmpegError(errno.EIO, str(error)) from error
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)


VideoFile: TypeAlias = Path | FileObject


def video_file(file: VideoFile | str | os.PathLike[str] | bytes | BinaryIO) -> VideoFile:
    """What a video is read from. Raises MediaError for a file object that cannot be read so."""
    if isinstance(file, FileObject):
        return file
    if isinstance(file, str | os.PathLike):
        return Path(os.fsdecode(file))  # entries of a folder that is named in bytes have bytes
    return FileObject(bytes(file) if isinstance(file, bytearray | memoryview) else file)


def size_bytes(file: VideoFile) -> int:
    return file.size_bytes if isinstance(file, FileObject) else file.stat().st_size
