"""The zip that Blender installs: the add-on, the runtime with its models, and all that these need.

    python -m integrations.blender.build --python 3.11 --out build

For the kind of machine that it runs on. Blender 4.2 to 5.0 have Python 3.11, 5.1 and later 3.13.
"""

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

BLENDERS = {"3.11": ("4.2.0", "5.1.0"), "3.13": ("5.1.0", None)}
"""For each Python, the first Blender that has it, and the first that no longer does."""
PLATFORMS = {
    ("Linux", "x86_64"): "linux-x64",
    ("Darwin", "arm64"): "macos-arm64",
    ("Windows", "AMD64"): "windows-x64",
}
LEFT_OUT = {"numpy": "Blender's own is used", "typer": "command line", "rich": "command line"}
"""What the runtime asks for and does not need there."""
_OLDEST = (1980, 1, 1, 0, 0, 0)  # so that the same files give the same zip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m integrations.blender.build")
    parser.add_argument("--python", choices=BLENDERS, default="3.11", help="Blender's Python")
    parser.add_argument("--out", type=Path, default=Path("build"), help="where the zip is written")
    parser.add_argument("--wheel", type=Path, help="vab-rt's wheel, instead of building it")
    args = parser.parse_args()
    path = build(args.python, args.out, args.wheel)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def build(python: str, out: Path, wheel: Path | None = None) -> Path:
    """The zip. Raises SystemExit where this machine cannot build it."""
    machine = platform.system(), platform.machine()
    if machine not in PLATFORMS:
        sys.exit(f"this machine is {' '.join(machine)}, expected one that Blender runs on")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version, needed = project["version"], project["dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        wheels = collect_wheels(_interpreter(python), Path(folder), needed, wheel)
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"vab_rt-{version}-{PLATFORMS[machine]}-py{python.replace('.', '')}.zip"
        names = [wheel.name for wheel in wheels]
        write_zip(path, manifest(version, python, PLATFORMS[machine], names), wheels)
    return path


def _interpreter(python: str) -> str:
    if f"{sys.version_info.major}.{sys.version_info.minor}" == python:
        return sys.executable
    found = shutil.which(f"python{python}")
    if found is None:
        sys.exit(f"no python{python} is on the PATH, expected one for its wheels; install it")
    return found


def collect_wheels(
    interpreter: str, folder: Path, needed: list[str], wheel: Path | None
) -> list[Path]:
    """vab-rt's, and those that it needs, but for LEFT_OUT: as pip takes them from PyPI."""
    pip = [interpreter, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if wheel is None:
        subprocess.run([*pip, "wheel", "--no-deps", "-w", folder / "own", ROOT], check=True)
        [wheel] = (folder / "own").iterdir()
    wanted = [line for line in needed if re.split(r"[^\w-]", line)[0] not in LEFT_OUT]
    binary = ["--only-binary", ":all:"]
    subprocess.run([*pip, "download", *binary, "-d", folder / "all", *wanted], check=True)
    found = [path for path in (folder / "all").iterdir() if path.name.split("-")[0] not in LEFT_OUT]
    return sorted([wheel, *found], key=lambda path: path.name)


def manifest(version: str, python: str, machine: str, wheels: list[str]) -> str:
    """blender_manifest.toml, with what is known only now."""
    text = (HERE / "addon/blender_manifest.toml").read_text()
    head, permissions = text.split("[permissions]")
    first, until = BLENDERS[python]
    lines = [
        f'version = "{version}"',
        f'blender_version_min = "{first}"',
        *([] if until is None else [f'blender_version_max = "{until}"']),
        f'platforms = ["{machine}"]',
        "wheels = [",
        *(f'    "./wheels/{name}",' for name in wheels),
        "]",
    ]
    own = head[head.index("schema_version") :].rstrip()
    return "\n".join([own, *lines, "", f"[permissions]{permissions}"])


def write_zip(path: Path, manifest: str, wheels: list[Path]) -> None:
    """The add-on's files, the manifest, and the wheels as they are."""
    with zipfile.ZipFile(path, "w") as file:
        _add(file, "blender_manifest.toml", manifest.encode(), zipfile.ZIP_DEFLATED)
        for source in [*sorted((HERE / "addon").glob("*.py")), HERE / "addon/LICENSE"]:
            _add(file, source.name, source.read_bytes(), zipfile.ZIP_DEFLATED)
        for wheel in wheels:  # which are compressed already
            _add(file, f"wheels/{wheel.name}", wheel.read_bytes(), zipfile.ZIP_STORED)


def _add(file: zipfile.ZipFile, name: str, content: bytes, how: int) -> None:
    entry = zipfile.ZipInfo(name, _OLDEST)
    entry.external_attr = 0o644 << 16
    file.writestr(entry, content, how)


if __name__ == "__main__":
    main()
