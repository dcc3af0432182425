"""vab-rt kdenlive: the clip job by which Kdenlive makes sounds."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from vab_rt.cli.console import print_line
from vab_rt.errors import OptionError, OutputError

_FILE = "clipjobsettings.rc"
_JOB = "vab-rt"
_SEEDS = "  ".join([*map(str, range(10)), "random"])  # two spaces are a line of Kdenlive's list


def kdenlive(
    write: Annotated[
        bool, typer.Option("--write", help="Write it; else it is only shown.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help=f"Where Kdenlive keeps {_FILE}.",
            show_default="as Kdenlive does on this system",
        ),
    ] = None,
) -> None:
    """Show the clip job that puts sound on a clip in Kdenlive, or write it into its settings."""
    path = (_data_folder() if folder is None else folder) / _FILE
    old = _read(path)
    entries = _entries(_command())
    found = {group: _value(old, group) for group in entries}
    if found == entries:
        print_line(f"{path}: the job {_JOB} is there already")
        return
    if any(value is not None for value in found.values()):
        raise OptionError(
            f"{path} has a job {_JOB} with other values, expected none; delete it in Kdenlive "
            "(Manage Bin Clip Jobs), then call this again"
        )
    if not write:
        for group, value in entries.items():
            print_line(f"[{group}]\n{_JOB}={value}\n")
        print_line(f"Not written: with --write this goes into {path}")
        return
    _write(path, _with(old, entries))
    print_line(f"{path}: written. In Kdenlive: right-click a clip in the bin, Clip Jobs")


def _entries(command: Path) -> dict[str, str]:
    """The job's value in every group of Kdenlive's file, as KDE escapes it."""
    parameters = "generate {source} {output} --seed {param1} --progress lines --force"
    return {
        "Ids": "Sound for the picture (vab-rt)",
        "Binary": command.as_posix().replace("\\", "\\\\"),
        "Parameters": parameters,
        "Output": "vab-rt.wav",
        "EnabledTypes": "v",
        "Description": "Sound that fits what is seen; each seed gives another.",
        "Param1Name": "Seed",
        "Param1Type": "list",
        "Param1List": _SEEDS,
    }


def _command() -> Path:
    """The installed program: Kdenlive wants the whole path of a file. Raises OptionError."""
    name = "vab-rt.exe" if os.name == "nt" else "vab-rt"
    beside, found = Path(sys.executable).with_name(name), shutil.which("vab-rt")
    if beside.is_file():
        return beside
    if found is None:
        raise OptionError(
            f"{beside} does not exist, expected the installed command; install vab-rt with pip, "
            "and call that"
        )
    return Path(found).absolute()


def _data_folder() -> Path:
    """Qt's AppDataLocation of Kdenlive."""
    home = Path.home()
    if os.name == "nt":
        base = Path(os.environ.get("APPDATA") or home / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return base / "kdenlive"


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise OutputError(
            f"{path} cannot be read ({error.strerror}), expected Kdenlive's settings; choose its "
            "folder with --folder"
        ) from error


def _value(text: str, group: str) -> str | None:
    """The command of the job in a group, None where it has none."""
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and line.partition("=")[0].strip() == _JOB:
            return line.partition("=")[2].strip()
    return None


def _with(text: str, entries: dict[str, str]) -> str:
    """The same settings and one job more, each line in its group."""
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines()
    for group, value in entries.items():
        places = [number for number, line in enumerate(lines) if line.strip() == f"[{group}]"]
        if places:
            lines.insert(places[0] + 1, f"{_JOB}={value}")
        else:
            lines += [*([""] if lines and lines[-1] else []), f"[{group}]", f"{_JOB}={value}"]
    return end.join([*lines, ""])


def _write(path: Path, text: str) -> None:
    from vab_rt.output import whole_file, writing

    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, force=True) as part, writing(path):
        if path.exists():
            shutil.copymode(path, part)
        part.write_bytes(text.encode("utf-8", "surrogateescape"))
