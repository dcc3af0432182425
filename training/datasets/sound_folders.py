"""Your sounds and pictures, a folder a kind: `sounds/KIND/*` and `pictures/KIND/*`.

`sounds.csv` and `pictures.csv`, in the folder or beside it, say of which split a file is and whose;
of a file that they do not name its own name decides.
"""

import csv
import functools
import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from training.processes import in_order
from training.samples import as_floats, as_int16
from training.saving import arrays_once, with_new_keys
from vab_rt.errors import DataError, MediaError
from vab_rt.sounds import SUFFIXES, decode_sound

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
OTHER = "other"
"""The folder of sounds that have no kind: a codec learns from them, a model does not."""
SHORTEST_S = 0.1
SILENT = 1e-4
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.1


class Listed(msgspec.Struct, frozen=True):
    """A file of a kind; license and author as its CSV has them, empty without one."""

    path: Path
    kind: str
    split: Split
    license: str = ""
    author: str = ""


class Sounds(msgspec.Struct, frozen=True):
    """The recordings that can be used, mono float32 [S] each, at most 1 and at the level of the
    file; skipped: those that cannot, by path, and why."""

    listed: list[Listed]
    samples: list[NDArray[np.float32]]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.listed)


def list_sounds(folder: Path) -> list[Listed]:
    """All sound files one folder deep, sorted by kind and name. Raises DataError for none, and for
    a CSV that cannot be read."""
    return _listed(folder, SUFFIXES, "sounds.csv")


def list_pictures(folder: Path) -> list[Listed]:
    """The same of pictures, with pictures.csv."""
    return _listed(folder, PICTURE_SUFFIXES, "pictures.csv")


def kinds_of(listed: Iterable[Listed]) -> list[str]:
    """Sorted, without OTHER."""
    return sorted({one.kind for one in listed} - {OTHER})


def of_split(listed: Sequence[Listed], split: Split) -> list[Listed]:
    return [one for one in listed if one.split == split]


def read_sounds(listed: Sequence[Listed], rate_hz: int, workers: int = 1) -> Sounds:
    """All that can be used, in their order. Raises DataError where none can."""
    read = functools.partial(_samples_or_reason, rate_hz=rate_hz)
    found = list(in_order(read, [one.path for one in listed], workers))
    used = [i for i, x in enumerate(found) if not isinstance(x, str)]
    skipped = {str(one.path): x for one, x in zip(listed, found, strict=True) if isinstance(x, str)}
    if not used:
        reason = next(iter(skipped.values()), "there are none")
        raise DataError(f"none of {len(listed)} sounds can be used, for instance: {reason}")
    return Sounds([listed[i] for i in used], [found[i] for i in used], skipped)


def kept_sounds(path: Path, listed: Sequence[Listed], rate_hz: int, workers: int = 1) -> Sounds:
    """The same, kept in `path` as 16-bit samples; what is left out is named on stderr."""

    def make() -> dict[str, NDArray[Any]]:
        sounds = read_sounds(listed, rate_hz, workers)
        for reason in sounds.skipped.values():
            print(f"left out: {reason}", file=sys.stderr, flush=True)
        used = {one.path for one in sounds.listed}
        return {
            "used": np.array([one.path in used for one in listed]),
            "lengths": np.array([len(samples) for samples in sounds.samples]),
            "audio": as_int16(np.concatenate(sounds.samples)),
        }

    kept = arrays_once(path, make)
    parts = np.split(kept["audio"], np.cumsum(kept["lengths"])[:-1])
    samples = [as_floats(part) for part in parts]
    return Sounds(
        [one for one, is_used in zip(listed, kept["used"], strict=True) if is_used], samples, {}
    )


def fingerprint(listed: Sequence[Listed]) -> str:
    """A digest of names, splits and sizes: another one when files come, go or change in length."""
    facts = [f"{x.kind}/{x.path.name} {x.split} {x.path.stat().st_size}" for x in listed]
    return hashlib.sha256("\n".join(facts).encode(errors="replace")).hexdigest()


def _samples_or_reason(path: Path, rate_hz: int) -> NDArray[np.float32] | str:
    try:
        samples = decode_sound(path, rate_hz)
    except MediaError as error:
        return str(error)
    if len(samples) < SHORTEST_S * rate_hz:
        return f"{path} lasts {len(samples) / rate_hz:.2f} s, expected at least {SHORTEST_S} s"
    peak = float(np.abs(samples).max())
    if not peak >= SILENT:  # also what is no number
        return f"{path} is silent, expected a peak of at least {SILENT:g}"
    return samples / np.float32(max(1.0, peak))


def _listed(folder: Path, suffixes: tuple[str, ...], csv_name: str) -> list[Listed]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder, expected one with a folder for each kind")
    found = sorted(folder.glob("[!_.]*/[!.]*"))
    paths = [path for path in found if path.suffix.lower() in suffixes and path.is_file()]
    if not paths:
        known = ", ".join(suffix[1:] for suffix in suffixes)
        raise DataError(f"{folder} holds no KIND/FILE, expected files that end in one of: {known}")
    rows = _rows(folder, csv_name)
    listed = [_with_row(path, rows.get(f"{path.parent.name}/{path.name}", {})) for path in paths]
    in_training = {one.kind for one in listed if one.split == "train"}
    named = {path for path in paths if "split" in rows.get(f"{path.parent.name}/{path.name}", {})}
    return [
        one
        if one.kind in in_training or one.path in named
        else msgspec.structs.replace(one, split="train")  # too few to hold any out
        for one in listed
    ]


def _with_row(path: Path, row: dict[str, str]) -> Listed:
    kind = path.parent.name
    split = row.get("split") or _split_of(f"{kind}/{path.stem}")
    return Listed(path, kind, split, row.get("license", ""), row.get("author", ""))


def _split_of(name: str) -> Split:
    """The same wherever the folder lies, and whatever is added to it."""
    share = int.from_bytes(hashlib.sha256(name.encode(errors="replace")).digest()[:4]) / 2**32
    if share < TEST_SHARE:
        return "test"
    return "validation" if share < TEST_SHARE + VALIDATION_SHARE else "train"


def _rows(folder: Path, csv_name: str) -> dict[str, dict[str, str]]:
    """By `file`; empty without a CSV."""
    path = next((p for p in (folder / csv_name, folder.parent / csv_name) if p.is_file()), None)
    if path is None:
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark first
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}), expected a CSV in UTF-8") from error
    for line, row in enumerate(rows, start=2):
        if not row.get("file"):
            raise DataError(
                f"{path}, line {line}: no file, expected a column `file` with KIND/NAME; add it"
            )
        if row.get("split") and row["split"] not in SPLITS:
            raise DataError(
                f"{path}, line {line}: split is {row['split']!r}, expected one of "
                f"{', '.join(SPLITS)}; correct it"
            )
    rows = map(with_new_keys, rows)
    return {row["file"]: {k: x for k, x in row.items() if k and x} for row in rows}
