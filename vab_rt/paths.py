"""What users write where a path is expected, and what they meant."""

import os
import re
import reprlib
from pathlib import Path
from typing import Any

from vab_rt.errors import OptionError

# Two letters at least: one is a drive of Windows. A Path has already made one slash of two.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)")


def as_path(option: str, found: Any, expected: str) -> Path:
    """Raises OptionError for what is no name, or an empty one."""
    if not isinstance(found, str | os.PathLike) or found == "":
        raise OptionError(f"{option} is {reprlib.repr(found)}, expected {expected}")
    return Path(found)


def address_of(path: str | Path) -> str | None:
    """The address, such as https://host/in.mp4, that a name is; None for one of a file."""
    found = _ADDRESS.fullmatch(str(path))
    if found is None or os.path.exists(path):  # Path.exists raises where a name is too long
        return None
    return f"{found[1]}:{'///' if found[1].lower() == 'file' else '//'}{found[2]}"
