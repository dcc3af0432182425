"""Sound from your files or of FoleyWorld, once made plain arrays: codec training's data.

Rows of equal length in `sounds.s16`, raw int16; every 20th file goes to `held_out.s16` instead.
"""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from training import foleyworld
from training.processes import in_order, in_parallel
from training.samples import as_int16
from vab_rt.errors import DataError, MediaError, OutputError
from vab_rt.sounds import SUFFIXES, decode_sound

ROW_S = 5.0
SHORTEST_S = 0.2
HELD_OUT_EVERY = 20
TRAINING, HELD_OUT, FACTS = "sounds.s16", "held_out.s16", "recordings.json"


class Recordings(msgspec.Struct, frozen=True):
    """audio: int16 [N, S], N parts of the recordings of a folder."""

    audio: np.ndarray

    def __len__(self) -> int:
        return len(self.audio)


class Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """recordings.json: what the arrays were made of. skipped: files left out, and why."""

    source: str
    rate_hz: int
    row_samples: int
    skipped: dict[str, str] = {}


def recordings(folder: Path, media: Path, rate_hz: int, workers: int = 1) -> Path:
    """Read all sound below `media` into `folder` on first use; returns `folder`.

    Files that cannot be read are left out and named in recordings.json. Raises DataError when none
    can, or when `folder` holds others, OutputError naming the folder.
    """
    facts = Facts(source=str(media.resolve()), rate_hz=rate_hz, row_samples=round(ROW_S * rate_hz))
    return _once(folder, facts, lambda part: _write_media(part, media, rate_hz, workers))


def world_sounds(folder: Path, count: int, workers: int = 1) -> Path:
    """The same of the first `count` training clips of FoleyWorld, a row each, in their order."""
    seeds = foleyworld.clip_seeds("train", 0, count)
    rate_hz = foleyworld.SAMPLE_RATE_HZ
    facts = Facts(
        source=f"FoleyWorld {foleyworld.VERSION}, {count} clips in their order",
        rate_hz=rate_hz,
        row_samples=len(_scene_sound(seeds[0])),
    )
    return _once(folder, facts, lambda part: _write_world(part, seeds, workers))


def _once(folder: Path, facts: Facts, write: Callable[[Path], dict[str, str]]) -> Path:
    """Have `write` fill a folder beside it, which takes its place when it is whole."""
    if (folder / FACTS).exists():
        found = read_facts(folder)
        if (found.source, found.rate_hz) != (facts.source, facts.rate_hz):
            raise DataError(
                f"{folder} holds {found.source} at {found.rate_hz} Hz, expected {facts.source} "
                f"at {facts.rate_hz} Hz; choose another --out, or delete it"
            )
        return folder
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        facts = msgspec.structs.replace(facts, skipped=write(partial))
        (partial / FACTS).write_bytes(msgspec.json.encode(facts))
        partial.rename(folder)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written: {error.strerror or error}; expected a folder that can be "
            f"written, with {2 * facts.rate_hz * 3600 / 1e6:.0f} MB free for each hour of sound"
        ) from error
    return folder


def read_recordings(folder: Path, held_out: bool = False) -> Recordings:
    """What `recordings` wrote, left on disk. Raises DataError when there is none."""
    facts = read_facts(folder)
    path = folder / (HELD_OUT if held_out else TRAINING)
    if not path.is_file() or path.stat().st_size < 2 * facts.row_samples:
        raise DataError(f"{path} holds no sound, expected {ROW_S:g} s or more; add files to it")
    samples = np.memmap(path, "<i2", "r")
    whole = len(samples) // facts.row_samples * facts.row_samples
    return Recordings(audio=samples[:whole].reshape(-1, facts.row_samples))


def read_facts(folder: Path) -> Facts:
    try:
        return msgspec.json.decode((folder / FACTS).read_bytes(), type=Facts)
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(
            f"{folder / FACTS} cannot be read ({error}), expected it as it was written; delete "
            f"{folder} and begin again"
        ) from error


def sound_files(media: Path) -> list[Path]:
    """Paths of files below `media` that may hold sound, sorted. Raises DataError for none."""
    if not media.is_dir():
        raise DataError(f"{media} is not a folder, expected one with sound; check the path")
    paths = sorted(p for p in media.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        known = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise DataError(f"{media} holds no sound, expected files that end in one of: {known}")
    return paths


def read_sound(path: Path, rate_hz: int) -> NDArray[np.float32]:
    """Mono samples [S] in [-1, 1], the mean of all channels. Raises MediaError."""
    samples = decode_sound(path, rate_hz)
    if len(samples) < SHORTEST_S * rate_hz:
        raise MediaError(
            f"{path} lasts {len(samples) / rate_hz:.2f} s, expected at least {SHORTEST_S} s; "
            "leave the file out"
        )
    return samples.clip(-1, 1)


def rows_of(samples: NDArray[np.float32], length: int) -> NDArray[np.int16]:
    """[rows, length]: one part after the other, the last one ending where samples [S] end.

    What is shorter than one row is repeated to fill it.
    """
    if len(samples) < length:
        samples = np.resize(samples, length)
    last = len(samples) - length
    starts = sorted({*range(0, last + 1, length), last})
    rows = np.stack([samples[start : start + length] for start in starts])
    return as_int16(rows)


def _write_media(folder: Path, media: Path, rate_hz: int, workers: int) -> dict[str, str]:
    """Write all rows, in the order in which files are done; returns those left out and why."""
    paths = sound_files(media)
    skipped: dict[str, str] = {}
    held_out = set(paths[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY])
    job = functools.partial(_rows_or_reason, rate_hz=rate_hz)
    with (folder / TRAINING).open("wb") as training, (folder / HELD_OUT).open("wb") as kept:
        for path, found in in_parallel(job, paths, workers):
            if isinstance(found, str):
                skipped[str(path)] = found
            else:
                (kept if path in held_out else training).write(found.tobytes())
    if len(skipped) == len(paths):
        reason = next(iter(skipped.values()))
        raise DataError(f"none of {len(paths)} files can be read, for instance: {reason}")
    return skipped


def _rows_or_reason(path: Path, rate_hz: int) -> tuple[Path, NDArray[np.int16] | str]:
    try:
        return path, rows_of(read_sound(path, rate_hz), round(ROW_S * rate_hz))
    except MediaError as error:
        return path, str(error)


def _write_world(folder: Path, seeds: list[int], workers: int) -> dict[str, str]:
    with (folder / TRAINING).open("wb") as training:
        for sound in in_order(_scene_sound, seeds, workers):
            training.write(sound.tobytes())
    return {}


def _scene_sound(seed: int) -> NDArray[np.int16]:
    return as_int16(foleyworld.make_scene(seed).audio())
