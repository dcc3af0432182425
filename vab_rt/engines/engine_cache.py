"""Engines that this user has compiled on this machine, kept between starts.

A compiled engine is code: loading one is running it. So they lie in a folder that nobody else can
write to, and each bears the hash of itself and of all it depends on. What does not, such as a file
that is damaged or cut short, is removed and built again, never loaded.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from vab_rt.errors import BackendError

log = logging.getLogger(__name__)

_MAGIC = b"vab-rt engine 2\n"


class EngineKey(msgspec.Struct, frozen=True, kw_only=True):
    """All that an engine depends on.

    graph: its name; graph_sha256: of the ONNX file; library: name and version; gpu: the name and
    compute capability it is compiled for; settings: limits of its shapes and how it is built.
    """

    graph: str
    graph_sha256: str
    library: str
    gpu: str
    precision: str
    settings: str

    @property
    def file(self) -> str:
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()
        return f"{self.graph}-{digest[:32]}.engine"


def cached_engine(key: EngineKey, build: Callable[[], bytes], folder: Path | None = None) -> bytes:
    """The engine of that key: the one kept here, or one that is built now and kept.

    folder: by default `cache_folder()`. Raises BackendError for a folder that others can write to,
    and whatever `build` raises. A folder that cannot be written costs the next start a build.
    """
    folder = cache_folder() if folder is None else folder
    try:
        _make_private(folder)
    except OSError as error:
        log.warning("engines are not kept: %s cannot be used (%s)", folder, error.strerror)
        return build()
    path = folder / key.file
    engine = _read(path, key)
    if engine is None:
        engine = build()
        _write(path, _seal(key, engine), engine)
    return engine


def forget_engine(key: EngineKey, folder: Path | None = None) -> None:
    """Remove what is kept under that key, such as an engine that its library refuses."""
    path = (cache_folder() if folder is None else folder) / key.file
    path.unlink(missing_ok=True)


def cache_folder(kind: str = "engines") -> Path:
    """Where the system keeps what a user's programs can make again."""
    if os.name == "nt" and "LOCALAPPDATA" in os.environ:
        return Path(os.environ["LOCALAPPDATA"]) / "vab-rt" / kind
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "vab-rt" / kind


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if found := _not_private(folder, stat.S_ISDIR):
        raise BackendError(
            f"{folder}, where compiled engines are kept, {found}, expected a folder that only you "
            f"can write to; remove it: rm -r {folder}"
        )


def _not_private(path: Path, is_kind: Callable[[int], bool]) -> str | None:
    """What is wrong with a file or folder that nobody else should be able to write."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return "is not there"
    if not is_kind(status.st_mode):
        return "is of another kind, such as a link"
    if os.name == "posix" and status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}"
    if os.name == "posix" and status.st_mode & 0o022:
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def _read(path: Path, key: EngineKey) -> bytes | None:
    found = _not_private(path, stat.S_ISREG)
    if found == "is not there":
        return None
    content = b"" if found else _content(path)
    seal_end = len(_MAGIC) + hashlib.sha256().digest_size
    engine = content[seal_end:]
    if not found and content[:seal_end] != _seal(key, engine):
        found = "is damaged, or of another version"
    if found:
        log.warning("the engine kept in %s %s: it is built again", path, found)
        with contextlib.suppress(OSError):  # such as a folder: `_write` says that it is in the way
            path.unlink()
        return None
    return engine


def _content(path: Path) -> bytes:
    """Nothing of a file that cannot be read, which is as good as damaged."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _write(path: Path, seal: bytes, engine: bytes) -> None:
    part = path.with_suffix(f".{secrets.token_hex(8)}")
    try:
        part.touch(mode=0o600, exist_ok=False)
        with part.open("wb") as file:
            file.write(seal)
            file.write(engine)
        part.replace(path)
    except OSError as error:
        log.warning("%s cannot be written (%s): the engine is not kept", path, error.strerror)
    finally:
        part.unlink(missing_ok=True)


def _seal(key: EngineKey, engine: bytes) -> bytes:
    digest = hashlib.sha256(msgspec.json.encode(key))
    digest.update(b"\n")
    digest.update(engine)
    return _MAGIC + digest.digest()
