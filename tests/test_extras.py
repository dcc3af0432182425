"""What an extra installs, by what the packages themselves declare; nothing is installed."""

import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
HEAVY = {"torch", "triton", "torchvision", "torchaudio", "onnx", "onnxscript"}


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
            declared = requires(name) or []
        except PackageNotFoundError:
            continue
        extras = requirement.extras or {""}
        waiting += [
            needed
            for needed in map(Requirement, declared)
            if needed.marker is None
            or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return {name for name in found if "[" not in name}


@pytest.fixture(scope="module")
def project() -> dict:
    if not PYPROJECT.exists():
        pytest.skip("run from the wheel, without the checkout")
    return tomllib.loads(PYPROJECT.read_text())["project"]


@pytest.mark.parametrize("extra", ["gpu", "trt", "rtx"])
def test_no_extra_for_gpus_brings_torch(project: dict, extra: str) -> None:
    names = project["dependencies"] + project["optional-dependencies"][extra]
    found = closure(names)
    assert not found & HEAVY
    assert {"numpy", "av", "cuda-core", "cuda-bindings", "cuda-pathfinder"} <= found


def test_the_walk_finds_torch_where_it_is(project: dict) -> None:
    pytest.importorskip("torch", reason="the extra `export` is not installed")
    assert {"torch", "numpy"} <= closure(project["optional-dependencies"]["export"])


def test_onnxruntime_comes_once(project: dict) -> None:
    """Two packages of one folder: pip does not say which would be the last."""
    for extra, names in project["optional-dependencies"].items():
        assert not [name for name in names if name.startswith("onnxruntime")], extra
