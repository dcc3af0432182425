"""The folder of a running server: gone when it ends, and when the next one starts where it was
killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vab_rt.errors import OutputError

try:
    import fcntl
except ImportError:  # no locks of this kind on Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = "vab-rt-serve-"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder among the machine's temporary ones, readable by this user alone. Raises
    OutputError."""
    home = Path(tempfile.gettempdir())
    remove_leftovers(home)
    try:
        folder, lock = _make(home)
    except OSError as error:
        raise OutputError(
            f"{home} cannot be written ({error.strerror}), expected room for temporary files; "
            "choose another folder with TMPDIR"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_leftovers(home: Path) -> None:
    """Removes folders of this user's servers that have ended, however they did: a server that lives
    holds a lock on its own. Where there are no locks, all stay."""
    if fcntl is None:
        return
    for folder in home.glob(f"{PREFIX}*"):
        with suppress(OSError):  # of another user, or locked
            _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(lock).st_uid == os.geteuid():
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _make(home: Path) -> tuple[Path, int | None]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=home))
        if fcntl is None:
            return folder, None
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # no locks on this file system
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # it was removed as a leftover before it was locked
