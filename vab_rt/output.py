"""Files appear whole or not at all: written beside their target, renamed when they are complete."""

import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av.error

from vab_rt.errors import OutputError, reason_of
from vab_rt.file_object import VideoFile
from vab_rt.paths import address_of

try:
    import fcntl
except ImportError:  # no locks of this kind on Windows
    fcntl = None  # type: ignore[assignment]

UNFINISHED = ".vab-rt-*.part"
_UNFINISHED = re.compile(r"\.vab-rt-[0-9a-f]{16}\.part")


def check_output(
    path: str | Path, *, force: bool = False, source: VideoFile | str | None = None
) -> None:
    """Raises OutputError unless a file can be written here; leaves nothing behind.

    force: an existing file may be replaced. source: the input, which never may. Of a link, what it
    points to is what is written, whether or not that exists.
    """
    path = Path(path)
    try:
        _check_name(path, force=force, source=source)
        tempfile.TemporaryFile(dir=_target_of(path).parent).close()
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}), expected a folder and a name that can "
            "be; choose another"
        ) from error


def require_file_name(path: str | Path) -> None:
    """Raises OutputError for what is no name of a file: an address, the - of other programs, or a
    folder's."""
    if str(path) == "-":
        raise OutputError(
            "- would be standard output, expected the name of a file; write one, such as out.wav, "
            "and send that on"
        )
    if address := address_of(path):
        raise OutputError(
            f"{address} is an address, expected a file on this machine; write one, and send that on"
        )
    if os.path.isdir(path):  # Path's raises
        raise OutputError(f"{path} is a folder, expected a file name; add one, such as out.wav")


def _target_of(path: Path) -> Path:
    """The file itself, at the end of all links."""
    return Path(os.path.realpath(path))


def _check_name(path: Path, *, force: bool, source: VideoFile | str | None) -> None:
    require_file_name(path)
    target = _target_of(path)
    shown, folder = f"{path}", path.parent
    if path.is_symlink():
        shown, folder = f"{path}, a link to {target},", target.parent
    if target.is_symlink():  # where the way along the links does not end
        raise OutputError(f"{path} is a link to itself, expected a file; choose a new name")
    if isinstance(source, str | Path) and path.exists() and path.samefile(source):
        raise OutputError(f"{shown} is the input itself, expected another file; choose a new name")
    if path.exists() and not path.is_file():
        raise OutputError(f"{shown} is not a regular file, expected one; choose a new name")
    if path.exists() and not force:
        raise OutputError(
            f"{shown} exists already, expected a new name; choose one, or replace it with --force"
        )
    if not target.parent.is_dir():
        raise OutputError(f"folder {folder} does not exist, expected an existing one; create it")


@contextmanager
def whole_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """An empty file beside `path`: renamed to it at the end, removed if anything went wrong.

    Of a link, `path` is what it points to. What killed processes have left there is removed, too.
    """
    target = _target_of(path)
    part = target.parent / UNFINISHED.replace("*", secrets.token_hex(8))
    lock = None
    try:  # from before the file is there on: a signal may arrive at any time
        with writing(path):
            remove_leftovers(target.parent)
            lock = _make(part)
        yield part
        check_output(path, force=force)
        with writing(path):
            os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process alone may make `path` for now: of several, the first that asks.

    A claim ends with its process, however that ends. Where there are no locks all may.
    """
    if fcntl is None:
        yield True
        return
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()  # its own may be as long as names are
    claim = path.with_name(f".vab-rt-{name[:16]}.claim")
    with writing(path):
        file = os.open(claim, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # no locks on this file system
            pass
        try:
            yield True
        finally:
            claim.unlink(missing_ok=True)
    finally:
        os.close(file)


def remove_leftovers(folder: Path) -> None:
    """Removes unfinished files of this user whose process has ended, however it did.

    A process that lives holds a lock on its file. Where there are no locks, all files stay.
    """
    if fcntl is None:
        return
    for path in folder.glob(UNFINISHED):
        if _UNFINISHED.fullmatch(path.name):
            with suppress(OSError):  # of another user, or locked
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(file)
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    finally:
        os.close(file)


def _make(part: Path) -> int:
    """Makes an empty file; returns a descriptor that holds its lock as long as it is open."""
    while True:
        file = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        if fcntl is not None:
            with suppress(OSError):  # no locks on this file system
                fcntl.flock(file, fcntl.LOCK_EX)
        if part.exists():
            return file
        os.close(file)  # it was removed as a leftover before it was locked


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Failures to write become OutputErrors that name the file and the free space."""
    try:
        yield
    except MemoryError:  # FFmpeg's is both
        raise
    except OSError as error:
        raise OutputError(
            f"{path} could not be written ({reason_of(error)}; {_free_mb(path.parent)}), "
            "expected a folder with room for it; free some space or choose another"
        ) from error
    except av.error.FFmpegError as error:
        raise OutputError(
            f"{path} could not be written as {path.suffix} ({error.strerror}), "
            "expected a video that such a file can hold; write .wav, or convert the input to mp4"
        ) from error


def _free_mb(folder: Path) -> str:
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        return "free space unknown"
    return f"{free_bytes / 1e6:.1f} MB free"
