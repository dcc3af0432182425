"""Fixtures of the runtime's tests: a tiny bundle, and short videos that FFmpeg has encoded."""

import shutil
from pathlib import Path

import hypothesis
import pytest
from command import run  # noqa: F401  # a fixture
from media import make_video
from recording_driver import fake_driver, launch  # noqa: F401  # fixtures
from tiny_bundle import make_bundle

import vab_rt
from vab_rt.pipeline import Pipeline

# A busy machine is no failure.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """A bundle to read; tests that damage one take `bundle_copy`."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def bundle_copy(tiny_bundle, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def pipeline(tiny_bundle) -> Pipeline:
    return vab_rt.load(tiny_bundle, threads=1)


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A silent video of `num_frames` at 25 a second; each length is encoded once."""
    folder, made = tmp_path_factory.mktemp("videos"), {}

    def video(num_frames: int) -> Path:
        if num_frames not in made:
            made[num_frames] = make_video(folder / f"{num_frames}.mp4", num_frames=num_frames)
        return made[num_frames]

    return video


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: side by side, the last file should not be the longest."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
