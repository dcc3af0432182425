"""The shipped model of real kinds, on films that no one trained it for."""

from pathlib import Path

import av
import numpy as np
import pytest

import vab_rt
from vab_rt.errors import OptionError

SIZE = 96


@pytest.fixture(scope="module")
def real():
    return vab_rt.load("real")


def film(path: Path, images: list[np.ndarray], rate: int) -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def black() -> list[np.ndarray]:
    return [np.zeros((SIZE, SIZE, 3), np.uint8)] * 75


def text() -> list[np.ndarray]:
    """Bright lines of dashes on a dark page."""
    image = np.full((SIZE, SIZE, 3), 16, np.uint8)
    for row in range(8, SIZE - 8, 12):
        image[row : row + 5, 8:-8][:, np.random.default_rng(row).random(SIZE - 16) < 0.6] = 230
    return [image] * 75


def slides() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    flat = [np.full((SIZE, SIZE, 3), random.integers(256, size=3), np.uint8) for _ in range(3)]
    return [image for image in flat for _ in range(25)]


def animation() -> list[np.ndarray]:
    images = []
    for t in range(75):
        image = np.full((SIZE, SIZE, 3), 200, np.uint8)
        image[40:60, t : t + 20] = (220, 30, 30)
        images.append(image)
    return images


@pytest.mark.parametrize("make", [black, text, slides, animation])
@pytest.mark.parametrize("rate", [25, 1])
def test_what_it_does_not_know_gets_a_sound_as_long_and_its_doubt_is_told(
    real, tmp_path, make, rate
):
    images = make()[:: 25 // rate]
    steps = list(real.generate_steps(film(tmp_path / "in.mp4", images, rate), seed=1))
    sound = np.concatenate([step.audio for step in steps if step.audio is not None])
    assert len(sound) == 3 * real.config.sample_rate_hz
    assert np.isfinite(sound).all()
    kinds = steps[-1].kinds
    assert sum(kinds.values()) == pytest.approx(1, abs=1e-3)
    sure = max(p for kind, p in kinds.items() if kind != "ambience")
    assert sure < 0.5, kinds


def test_a_black_film_is_quiet(real, tmp_path):
    sound = real.generate(film(tmp_path / "in.mp4", black(), 25)).samples
    assert 20 * np.log10(sound.std() + 1e-9) < -30


def test_kinds_near_a_misspelt_one_are_offered(real, tmp_path):
    video = film(tmp_path / "in.mp4", black(), 25)
    with pytest.raises(OptionError, match="such as dog"):
        real.generate(video, kinds="dogg")


def test_a_given_kind_is_louder_than_a_black_film(real, tmp_path):
    video = film(tmp_path / "in.mp4", black(), 25)
    rain, quiet = (real.generate(video, kinds=kinds).samples for kinds in ("rain", ()))
    assert rain.std() > 2 * quiet.std()
