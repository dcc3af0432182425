"""What a run leaves is made once of the same inputs, and again when these change.

Beside a result NAME lies NAME.inputs: JSON with the settings it was made of, and the sha256 of
files and arrays. A result without one, of an earlier version or copied from elsewhere, is taken as
it is, unless a file that it is made of is younger. A file that is gone changes nothing: what was
made of it stays good.
"""

import hashlib
import math
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from training.saving import with_new_keys, write_whole
from vab_rt.errors import DataError, OptionError
from vab_rt.output import writing

Inputs = dict[str, Any]
"""By dotted key: numbers, texts, lists; a hash, or GONE, of a file."""
GONE = "not there"


def stage(
    result: Path, make: Callable[[], object], *, parts: Iterable[Path] = (), **inputs: Any
) -> None:
    """Have `make` leave the file or folder `result`, unless it is there, made of the same inputs.

    Of others it is removed first, and so are the parts from which `make` goes on after an
    interruption. inputs: settings, arrays, and paths of files. Raises DataError, OutputError.
    """
    begin(result, parts=parts, **inputs)
    if not result.exists():
        make()


def begin(result: Path, *, parts: Iterable[Path] = (), **inputs: Any) -> None:
    """What `stage` does before `make`, for trainings: these know themselves when they are done."""
    begun = (result, result.with_name(f"{result.name}.partial"), *parts)
    changed = ", ".join(changes(result, inputs, begun))
    if changed and [path for path in begun if _remove(path)]:
        print(f"{result} is made again: other {changed}", file=sys.stderr, flush=True)
    write_inputs(inputs_path(result), inputs)


def hold(result: Path, **inputs: Any) -> None:
    """`begin` where hours would be lost: raises OptionError for a result of other inputs."""
    path = inputs_path(result)
    if result.exists() and (changed := differing(read_inputs(path), inputs)):
        raise OptionError(
            f"{result} was made of another {', '.join(changed)}, expected the same; delete it to "
            f"begin again, or {path} to go on with it"
        )
    write_inputs(path, inputs)


def is_made(result: Path, **inputs: Any) -> bool:
    """Whether it is there, of no other inputs."""
    return result.exists() and not changes(result, inputs, [result])


def changes(result: Path, inputs: Inputs, begun: Iterable[Path]) -> list[str]:
    """The names of the inputs that are others than what was begun, or made, has."""
    path = inputs_path(result)
    if path.exists():
        return differing(read_inputs(path), inputs)
    made = min((x.stat().st_mtime for x in begun if x.exists()), default=math.inf)
    files = {name: file for name, file in inputs.items() if isinstance(file, Path)}
    return [name for name, file in files.items() if file.exists() and file.stat().st_mtime > made]


def key_of(**inputs: Any) -> str:
    """For the names of results that lie side by side: another one for other inputs."""
    text = msgspec.json.encode(described(inputs), order="deterministic")
    return hashlib.sha256(text).hexdigest()[:12]


def inputs_path(result: Path) -> Path:
    return result.with_name(f"{result.name}.inputs")


def described(inputs: Inputs) -> Inputs:
    found: Inputs = {}
    for name, value in inputs.items():
        if isinstance(value, Path):
            found[name] = sha256(value) if value.exists() else GONE
        elif isinstance(value, np.ndarray):
            found[name] = hashlib.sha256(np.ascontiguousarray(value)).hexdigest()
        else:
            found |= flat({name: msgspec.json.decode(msgspec.json.encode(value))})
    return found


def flat(values: Inputs, prefix: str = "") -> Inputs:
    """A.B.C: value of nested tables."""
    found: Inputs = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def differing(before: Inputs, inputs: Inputs) -> list[str]:
    """The keys of `inputs` that are new or have other values, and those that their tables had
    before; none where nothing is known. A file that is gone is no difference, and neither is a new
    key that says nothing."""
    now = described(inputs)
    gone = before.keys() - _of_others(before, inputs).keys() - now.keys()
    changed = {name for name, x in now.items() if x != GONE and before.get(name) != x}
    return sorted(gone | changed) if before else []


def _of_others(before: Inputs, inputs: Inputs) -> Inputs:
    """What stands there of inputs that were not given this time."""
    return {name: x for name, x in before.items() if name.partition(".")[0] not in inputs}


def read_inputs(path: Path) -> Inputs:
    """Empty where there are none. Raises DataError."""
    if not path.exists():
        return {}
    try:
        return with_new_keys(msgspec.json.decode(path.read_bytes(), type=Inputs))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected what was used here before; delete it to "
            "go on with what is there"
        ) from error


def write_inputs(path: Path, inputs: Inputs) -> None:
    before, now = read_inputs(path), described(inputs)
    kept = {name: before.get(name, GONE) if x == GONE else x for name, x in now.items()}
    kept |= _of_others(before, inputs)
    if kept != before:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.format(msgspec.json.encode(kept)) + b"\n")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(path: Path) -> bool:
    """Whether there was something."""
    found = path.exists()
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return found
