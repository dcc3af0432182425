"""An index of a folder of sounds: the tokens of each file, kept, and brought up to date by what
changed."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vab_rt.config import ModelConfig
from vab_rt.engines.engine_cache import cache_folder
from vab_rt.errors import MediaError, OptionError, OutputError
from vab_rt.library import LONGEST_S, Samples, find_sounds, trimmed
from vab_rt.output import check_output, whole_file, writing
from vab_rt.sounds import decode_sound
from vab_rt.systems.vab import Encode, Vab

log = logging.getLogger(__name__)

FORMAT = 1
KEEP_EVERY = 256
"""Files after which an index that is being made is kept."""
_NAMED = 5  # files that a warning has room for
Stamp = tuple[int, int]


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an index is of: a model, known by its codec, and a folder."""

    format: int
    model: str
    codec_sha256: str
    folder: str


@dataclass(frozen=True, eq=False)  # arrays have no one answer
class SoundIndex:
    """Files by their names below the folder, with the size in bytes and the time of change in ns of
    each [N, 2]; tokens [N, K, T] int16; and whether it can be used [N]: is read and not silent."""

    origin: Origin
    names: list[str]
    stamps: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int16]
    is_usable: npt.NDArray[np.bool_]

    @property
    def folder(self) -> Path:
        return Path(self.origin.folder)

    @property
    def unusable(self) -> list[str]:
        """Names of the files that cannot be used."""
        return [
            name for name, is_good in zip(self.names, self.is_usable, strict=True) if not is_good
        ]


def origin_of(folder: Path, system: Vab) -> Origin:
    """The origin of an index that is made now."""
    config = system.codec_config
    return Origin(FORMAT, config.name, system.codec_sha256, str(folder.resolve()))


def kept_file(origin: Origin) -> Path:
    """Where the index of a folder is kept, one for each model."""
    digest = hashlib.sha256(msgspec.json.encode(origin)).hexdigest()
    return cache_folder("sounds") / f"{digest[:32]}.npz"


def empty_index(origin: Origin, system: Vab) -> SoundIndex:
    c = system.codec_config
    tokens = np.empty((0, c.num_codebooks, c.num_token_steps), np.int16)
    return SoundIndex(origin, [], np.empty((0, 2), np.int64), tokens, np.empty(0, np.bool_))


@dataclass(frozen=True, eq=False)
class Progress:
    """How many of the files that changed are read, of how many; now and then the index, and with
    the last."""

    number: int
    total: int
    index: SoundIndex | None


def indexed(where: Path, file: Path | None, system: Vab, encode: Encode) -> Iterator[Progress]:
    """The index of a folder, or of an index's own, brought up to date and kept.

    - where: a folder, or the file of an index.
    - file: where that of a folder is kept; None is the user's cache.

    Raises OptionError for a folder without sound, and for an index of another model or folder;
    OutputError where `file` cannot be written.
    """
    is_index = where.is_file()
    file = where if is_index else file
    path = kept_file(origin_of(where, system)) if file is None else file
    if file is not None and not file.exists():
        check_output(file)  # before minutes of work
    old = empty_index(origin_of(where, system), system)
    if is_index or path.exists():
        old = _opened(path, where, system, old, is_asked_for=file is not None)
    if is_index and not old.folder.is_dir():
        log.warning("%s, which %s is of, is not there: it is taken as it was", old.folder, path)
        yield Progress(0, 0, old)
        return
    keep = write_index if file is not None else keep_index
    for step in updated(old, system, encode):
        new, total = step.index, step.total
        if new is not None and (total or new.names != old.names):
            keep(new, path)
        yield step
    if new is not None:
        _warn_of_unusable(new)


def _opened(
    path: Path, where: Path, system: Vab, empty: SoundIndex, *, is_asked_for: bool
) -> SoundIndex:
    try:
        index = read_index(path, system)
    except OptionError as error:
        if is_asked_for:
            raise
        log.warning("the index is made again: %s", error)
        return empty
    if where.is_dir() and index.origin.folder != empty.origin.folder:
        raise OptionError(
            f"index {path} is of {index.folder}, expected {where}; name another file for its index"
        )
    return index


def updated(index: SoundIndex, system: Vab, encode: Encode) -> Iterator[Progress]:
    """Brings an index up to date, file by file; now and then, and at the end, with the index.

    Files that change while they are read are left out until the next time.
    """
    files, old = find_sounds(index.folder), dict(zip(index.names, index.stamps, strict=True))
    names = {str(path.relative_to(index.folder)): path for path in files}
    stamps = {name: stamp for name, path in names.items() if (stamp := _stamp(path))}
    same = [i for i, name in enumerate(index.names) if stamps.get(name) == tuple(old[name])]
    rows = {index.names[i]: (index.tokens[i], bool(index.is_usable[i])) for i in same}
    changed = [name for name in stamps if name not in rows]
    for number, name in enumerate(changed, 1):
        tokens = _tokens_of(names[name], system, encode)
        if _stamp(names[name]) == stamps[name]:
            unusable = np.zeros(index.tokens.shape[1:], np.int16)
            rows[name] = (unusable if tokens is None else tokens, tokens is not None)
        is_kept = number % KEEP_EVERY == 0 or number == len(changed)
        yield Progress(number, len(changed), _of_rows(index, rows, stamps) if is_kept else None)
    if not changed:
        yield Progress(0, 0, _of_rows(index, rows, stamps))


def _of_rows(
    index: SoundIndex, rows: dict[str, tuple[Any, bool]], stamps: dict[str, Stamp]
) -> SoundIndex:
    names = sorted(rows)
    shape = (len(names), *index.tokens.shape[1:])
    return replace(
        index,
        names=names,
        stamps=np.array([stamps[name] for name in names], np.int64).reshape(-1, 2),
        tokens=np.array([rows[name][0] for name in names], np.int16).reshape(shape),
        is_usable=np.array([rows[name][1] for name in names], np.bool_),
    )


def _stamp(path: Path) -> Stamp | None:
    """None of a file that is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _tokens_of(path: Path, system: Vab, encode: Encode) -> npt.NDArray[np.int16] | None:
    """Tokens [K, T] of a file; None of one that cannot be read or is silent."""
    try:
        samples = decode_sound(path, system.config.sample_rate_hz, LONGEST_S)
    except MediaError:
        return None
    clip = as_clip(samples, system.codec_config)
    return None if clip is None else encode(clip).astype(np.int16)


def as_clip(samples: Samples, config: ModelConfig) -> Samples | None:
    """A sound as long as a clip [S]: of a longer one the beginning; a shorter one, without the
    silence around it, again and again. None of silence."""
    beginning, rate_hz = samples[: config.num_samples], config.sample_rate_hz
    sound = trimmed(samples, rate_hz)
    if len(beginning) == config.num_samples and len(trimmed(beginning, rate_hz)):
        sound = beginning
    return np.resize(sound, config.num_samples) if len(sound) else None


def _warn_of_unusable(index: SoundIndex) -> None:
    """One line about all files that are left out."""
    left_out = index.unusable
    if left_out:
        more = len(left_out) - _NAMED
        named = ", ".join(left_out[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        log.warning(
            "%d of %d files in %s are left out, expected sound that can be read and is not "
            "silent: %s",
            *(len(left_out), len(index.names), index.folder, named),
        )


def write_index(index: SoundIndex, path: Path) -> None:
    """Raises OutputError."""
    with whole_file(path, force=True) as part, writing(path), part.open("wb") as file:
        np.savez(
            file,
            origin=np.frombuffer(msgspec.json.encode(index.origin), np.uint8),
            names=np.array([os.fsencode(name) for name in index.names], np.bytes_),
            stamps=index.stamps,
            tokens=index.tokens,
            is_usable=index.is_usable,
        )


def keep_index(index: SoundIndex, path: Path) -> None:
    """As `write_index`, where nobody asked for it: what cannot be kept is made again next time."""
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_index(index, path)
    except OutputError as error:
        log.warning("the index is not kept: %s", error)


def read_index(path: Path, system: Vab) -> SoundIndex:
    """Raises OptionError for a file that is no index, or one of another model."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            origin = msgspec.json.decode(kept["origin"].tobytes(), type=Origin)
            names = [os.fsdecode(bytes(name)) for name in kept["names"]]
            arrays = (kept["stamps"], kept["tokens"], kept["is_usable"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.DecodeError) as e:
        raise OptionError(
            f"{path} is no index of sounds that can be read ({_reason(e)}), expected one that "
            "vab-rt search has made; name the folder to make another"
        ) from e
    index = SoundIndex(origin, names, *arrays)
    expected = origin_of(index.folder, system)
    if origin.format != FORMAT or origin.codec_sha256 != expected.codec_sha256:
        raise OptionError(
            f"index {path} is of model {origin.model} (format {origin.format}), expected "
            f"{expected.model} (format {FORMAT}); choose that model, or make another index"
        )
    _check(index, path, system)
    return index


def _reason(error: Exception) -> str:
    line = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return "it is another file" if "pickle" in line else line  # which is what NumPy takes it for


def _check(index: SoundIndex, path: Path, system: Vab) -> None:
    """Raises OptionError for arrays that do not fit each other."""
    c, count = system.codec_config, len(index.names)
    expected: dict[str, tuple[npt.NDArray[Any], type, tuple[int, ...]]] = {
        "stamps": (index.stamps, np.int64, (count, 2)),
        "tokens": (index.tokens, np.int16, (count, c.num_codebooks, c.num_token_steps)),
        "is_usable": (index.is_usable, np.bool_, (count,)),
    }
    for name, (array, kind, shape) in expected.items():
        if array.dtype != kind or array.shape != shape:
            raise OptionError(
                f"index {path} has {name} {array.dtype} {list(array.shape)}, expected "
                f"{np.dtype(kind)} {list(shape)}; name the folder to make another"
            )
    if count and not 0 <= index.tokens.min() <= index.tokens.max() < c.codebook_size:
        raise OptionError(
            f"index {path} has tokens {index.tokens.min()} to {index.tokens.max()}, expected 0 to "
            f"{c.codebook_size - 1}; name the folder to make another"
        )
