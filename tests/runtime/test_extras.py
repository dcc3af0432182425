"""What an extra installs, by what the packages themselves declare; nothing is installed."""

import json
import re
import tomllib

import pytest

installed = pytest.importorskip("bench.installed", reason="run from the wheel, without the bench")

HEAVY = {"torch", "triton", "torchvision", "torchaudio", "onnx", "onnxscript"}


@pytest.fixture(scope="module")
def extras() -> dict[str, list[str]]:
    project = tomllib.loads(installed.PYPROJECT.read_text())["project"]
    return project["optional-dependencies"]


@pytest.mark.parametrize("extra", ["gpu", "trt", "rtx"])
def test_no_extra_for_gpus_brings_torch(extra):
    found = installed.closure(installed.requirements(extra))
    assert not found & HEAVY
    assert {"numpy", "av", "cuda-core", "cuda-bindings", "cuda-pathfinder"} <= found


def test_the_walk_finds_torch_where_it_is(extras):
    pytest.importorskip("torch", reason="the extra `export` is not installed")
    assert {"torch", "numpy"} <= installed.closure(extras["export"])


def test_onnxruntime_comes_once(extras):
    """Two packages of one folder: pip does not say which would be the last."""
    for extra, names in extras.items():
        assert not [name for name in names if re.match("onnxruntime(?!-ep-)", name)], extra


def test_the_size_of_every_extra_is_reported(capsys):
    installed.main(["--json"])
    figures = json.loads(capsys.readouterr().out.strip().rpartition("\n")[2])["extras"]
    assert list(figures) == ["none", "gpu", "trt", "rtx", "openvino"]
    none, gpu = figures["none"], figures["gpu"]
    assert 50 < none["install_mb"] < 600
    assert none["packages_mb"].keys() <= gpu["packages_mb"].keys()
    assert gpu["install_mb"] > none["install_mb"]
    assert not any(found["has_torch"] for found in figures.values())


def test_what_is_not_installed_is_named():
    found = installed.size_of(["numpy", "no-such-package-as-this"])
    assert found["unknown"] == ["no-such-package-as-this"]
    assert found["packages_mb"].keys() == {"numpy"} and found["install_mb"] > 5
