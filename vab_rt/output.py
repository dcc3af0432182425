"""Files appear whole or not at all: written beside their target, renamed when they are complete."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av.error

from vab_rt.errors import OutputError

UNFINISHED = ".vab-rt-*.part"


def check_output(
    path: str | Path, *, force: bool = False, source: str | Path | None = None
) -> None:
    """Raises OutputError unless a file can be written here; leaves nothing behind.

    force: an existing file may be replaced. source: the input, which never may.
    """
    path = Path(path)
    try:
        _check_name(path, force=force, source=source)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}), expected a folder and a name that can "
            "be; choose another"
        ) from error


def _check_name(path: Path, *, force: bool, source: str | Path | None) -> None:
    if source is not None and path.exists() and path.samefile(source):
        raise OutputError(f"{path} is the input itself, expected another file; choose a new name")
    if path.is_dir():
        raise OutputError(f"{path} is a folder, expected a file name; add one, such as out.wav")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a regular file, expected one; choose a new name")
    if path.exists() and not force:
        raise OutputError(
            f"{path} exists already, expected a new name; choose one, or replace it with --force"
        )
    if not path.parent.is_dir():
        raise OutputError(
            f"folder {path.parent} does not exist, expected an existing one; create it"
        )


@contextmanager
def whole_file(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`: renamed to it at the end, removed if anything went wrong."""
    part = path.parent / UNFINISHED.replace("*", secrets.token_hex(8))
    try:
        yield part
        check_output(path, force=force)
        with writing(path):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Failures to write become OutputErrors that name the file and the free space."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path} could not be written ({reason}; {_free_mb(path.parent)}), "
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
