"""What the installed package is tagged as: one binary a platform from Python 3.12 on."""

import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

sampling = pytest.importorskip(
    "vab_rt._sampling", reason="the native sampling kernel is not built: no C++ compiler"
)

# Names with an underscore that the limited API itself stands on (PEP 384, misc/stable_abi.toml).
STABLE = {"_Py_Dealloc", "_Py_IncRef", "_Py_DecRef", "_PyObject_New", "_PyObject_GC_New"}
STABLE |= {"_Py_NoneStruct", "_Py_TrueStruct", "_Py_FalseStruct", "_Py_NotImplementedStruct"}


def test_the_tag_says_which_pythons_can_load_it():
    try:
        wheel = metadata.distribution("vab-rt").read_text("WHEEL") or ""
    except metadata.PackageNotFoundError:
        pytest.skip("vab-rt is run from a folder, not installed")
    (tag,) = re.findall(r"^Tag: (\S+)", wheel, re.MULTILINE)
    name = f"cp{sys.version_info.major}{sys.version_info.minor}"
    expected = "cp312-abi3" if sys.version_info >= (3, 12) else f"{name}-{name}"
    assert tag.startswith(f"{expected}-")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the stable ABI is used from Python 3.12 on")
def test_the_binary_needs_the_stable_abi_alone():
    path = Path(sampling.__file__)
    assert ".abi3." in path.name or path.suffix == ".pyd"
    if sys.platform != "linux" or shutil.which("nm") is None:
        pytest.skip("needs Linux and nm")
    command = ["nm", "-D", "--undefined-only", str(path)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    needed = set(re.findall(r"\bU (_?Py\w+)", listed))
    assert len(needed) > 20
    assert {name for name in needed if name.startswith("_")} <= STABLE
