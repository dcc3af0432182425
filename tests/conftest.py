"""Fixtures of the runtime's tests: a tiny bundle, and short videos that FFmpeg has encoded."""

import os
import re
import shutil
import sys
from pathlib import Path

import hypothesis
import pytest
from command import refused, run  # noqa: F401  # fixtures
from media import make_video
from passed import passed_in, place_of
from recording_driver import fake_driver, launch  # noqa: F401  # fixtures
from tiny_bundle import fine_config, make_bundle
from tiny_v2a import make_v2a_bundle

import vab_rt
from vab_rt.pipeline import Pipeline

# What a machine, or who runs the tests, has set for all programs must not decide a test.
THEIRS = "FORCE_COLOR|NO_COLOR|PY_COLORS|GITHUB_ACTIONS|TTY_.*|TERMINAL_WIDTH|LD_PRELOAD|HF_.*"
THEIRS += "|PYTHON(WARNINGS|IOENCODING|UNBUFFERED)|PYTEST_(ADDOPTS|PLUGINS)|(?i:.*_proxy)"
for name in [name for name in os.environ if re.fullmatch(THEIRS, name)]:
    del os.environ[name]
os.environ |= {"COLUMNS": "80", "LINES": "24", "PYTHONUTF8": "1"}
os.environ |= {"HF_HUB_ETAG_TIMEOUT": "600", "HF_HUB_DOWNLOAD_TIMEOUT": "600"}  # seconds

# A busy machine is no failure, and every machine tries the same examples. Others:
# --hypothesis-profile=search
ANY = {
    "deadline": None,
    "suppress_health_check": [
        hypothesis.HealthCheck.too_slow,
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
}
hypothesis.settings.register_profile("any-machine", derandomize=True, **ANY)
hypothesis.settings.register_profile("search", max_examples=2000, **ANY)
hypothesis.settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """A bundle to read; tests that damage one take `bundle_copy`."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def v2a_bundle(tmp_path_factory) -> Path:
    """A bundle of the other system, to read."""
    return make_v2a_bundle(tmp_path_factory.mktemp("bundles") / "tiny-v2a")


@pytest.fixture
def bundle_copy(tiny_bundle, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def pipeline(tiny_bundle) -> Pipeline:
    return vab_rt.load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def coarse_to_fine(tmp_path_factory) -> Pipeline:
    """A model in two stages."""
    folder = tmp_path_factory.mktemp("coarse-to-fine") / "bundle"
    return vab_rt.load(make_bundle(folder, fine=fine_config()), threads=1)


@pytest.fixture(scope="session")
def workers(tiny_bundle):
    """Of all servers in this process."""
    from opened_server import working  # needs extras

    with working(tiny_bundle) as found:
        yield found


@pytest.fixture
def opened(workers, tmp_path):
    """Opens servers in this process."""
    from opened_server import opening

    with opening(*workers, tmp_path) as open_one:
        yield open_one


@pytest.fixture
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where no library for GPUs is installed."""
    for module in ("sessions", "cuda"):
        monkeypatch.setattr(f"vab_rt.engines.{module}.has_cuda_provider", lambda: False)
    for library in ("cuda.core", "tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, library, None)


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A silent video of `num_frames` at 25 a second; each length is encoded once."""
    folder, made = tmp_path_factory.mktemp("videos"), {}

    def video(num_frames: int) -> Path:
        if num_frames not in made:
            made[num_frames] = make_video(folder / f"{num_frames}.mp4", num_frames=num_frames)
        return made[num_frames]

    return video


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test and its fixtures draw from torch does not hang on the tests that ran before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "a report of --junitxml: without what passed there, but for marks of `everywhere`"
    parser.addoption("--but-for", metavar="XML", help=told)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files with slow tests first: side by side, the last file should not be the longest."""
    if report := config.getoption("but_for"):
        passed = passed_in(report)
        done = {item for item in items if place_of(item) in passed}
        done -= {item for item in done if item.get_closest_marker("everywhere")}
        config.hook.pytest_deselected(items=[*done])
        items[:] = [item for item in items if item not in done]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
