"""`python -m bench installed`: what an installation takes on disk, extra by extra.

Of every package that an extra requires, and all that those require, the files that pip wrote here;
what is not installed here is named. Nothing is installed for it.
"""

import json
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.options import parser_of
from bench.report import console, facts, print_table

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
EXTRAS = ("", "gpu", "trt", "rtx", "openvino")  # those that users install; "" is none


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("installed", __doc__)
    options = parser.parse_args(arguments)
    figures = {extra or "none": size_of(requirements(extra)) for extra in EXTRAS}
    for extra, found in figures.items():
        print_extra(extra, found)
    if options.json:
        print(json.dumps({"extras": figures} | facts()))


def requirements(extra: str) -> list[str]:
    """What the project asks for with an extra; with "" what it always asks for."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    return project["dependencies"] + project["optional-dependencies"].get(extra, [])


def size_of(names: list[str]) -> dict[str, Any]:
    """Megabytes of each package that the names require, and of all; what is not installed here."""
    packages = {name: installed_mb(name) for name in sorted(closure(names))}
    known = {name: mb for name, mb in packages.items() if mb is not None}
    return {
        "install_mb": round(sum(known.values()), 1),
        "packages_mb": known,
        "unknown": [name for name in packages if name not in known],
        "has_torch": "torch" in packages,
    }


def closure(names: list[str]) -> set[str]:
    """The names, and all that they require, as far as they are installed here."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in found:
            continue
        found |= {key, name}
        try:
            declared = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        extras = requirement.extras or {""}
        waiting += [
            needed
            for needed in map(Requirement, declared)
            if needed.marker is None
            or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return {name for name in found if "[" not in name}


def installed_mb(name: str) -> float | None:
    """The files that pip wrote, together; None for what is not installed."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:
        return None
    paths = {Path(file.locate()) for file in files}
    sizes = (path.stat().st_size for path in paths if path.is_file())
    return round(sum(sizes) / 1e6, 1)


def print_extra(extra: str, found: dict[str, Any]) -> None:
    largest = sorted(found["packages_mb"].items(), key=lambda item: -item[1])[:8]
    rows = [(name, f"{mb:.1f}") for name, mb in (*largest, ("all", found["install_mb"]))]
    print_table((f"extra: {extra}", "MB"), rows)
    unknown = ", ".join(found["unknown"]) or "nothing"
    console.print(f"not installed here: {unknown}; torch: {'yes' if found['has_torch'] else 'no'}")
