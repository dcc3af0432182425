"""The video reader's resize and crop against open_clip's own transform, in pixels and features."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from media import make_video

torch = pytest.importorskip("torch", reason="the runtime is tested without PyTorch")
open_clip = pytest.importorskip("open_clip", reason="open_clip is an extra of export")

from checkpoints import tiny_config
from PIL import Image

from training.image_encoder import ImageEncoder
from vab_rt.video import Video

SIZE = 64
CONFIG = tiny_config(image_size=SIZE, visual_dim=64, clip_s=10.0)
Picture = Callable[[int, int], np.ndarray]  # width, height -> [height, width, 3]


def clouds(width: int, height: int) -> np.ndarray:
    """Noise with the spectrum of photographs, 1/f."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1e-3
    spectrum = np.fft.rfft2(random.standard_normal((3, height, width))) / frequency
    image = np.fft.irfft2(spectrum, s=(height, width)).transpose(1, 2, 0)
    image = (image - image.mean()) / image.std()
    return np.clip(128 + 50 * image, 0, 255).astype(np.uint8)


def shapes(width: int, height: int) -> np.ndarray:
    """Hard edges and flat colours."""
    rows, columns = np.mgrid[:height, :width]
    image = np.full((height, width, 3), (40, 90, 160), np.uint8)
    image[np.hypot(rows - height / 2, columns - width / 2) < height / 4] = (240, 220, 30)
    image[rows > 0.8 * height] = (30, 30, 30)
    image[abs(rows - columns) < 3] = 255
    return image


def ramp(width: int, height: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    levels = [255 * rows / height, 255 * columns / width, np.full(rows.shape, 99.0)]
    return np.stack(levels, axis=-1).astype(np.uint8)


def noise(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


# The largest mean difference in levels of 255. Noise, where every pixel is an edge, shows the
# difference of the two kernels: swscale's bicubic has C = 0.6, Pillow's has 0.5.
BOUNDS: dict[Picture, float] = {clouds: 0.6, shapes: 0.5, ramp: 0.1, noise: 1.9}
SIZES = [(256, 144), (320, 240), (144, 256), (65, 63), (48, 48), (640, 360)]


def open_clip_picture(image: np.ndarray) -> np.ndarray:
    """uint8 [SIZE, SIZE, 3] by open_clip's transform, its normalisation undone."""
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    transform = open_clip.image_transform(SIZE, is_train=False, mean=zero, std=one)
    tensor = transform(Image.fromarray(image))  # [3, SIZE, SIZE], 0 to 1
    return (tensor.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def read_picture(path: Path, image: np.ndarray) -> np.ndarray:
    """The same by the video reader, from a lossless RGB video."""
    height, width = image.shape[:2]
    video = make_video(
        path,
        num_frames=2,
        size=(width, height),
        picture=lambda number: image,
        codec="libx264rgb",
        pix_fmt="rgb24",
        options={"crf": "0"},
    )
    return next(Video(video).frames(CONFIG)).image


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("picture", BOUNDS, ids=lambda picture: picture.__name__)
def test_pixels(tmp_path, picture, size, record_property):
    image = picture(*size)
    ours, theirs = read_picture(tmp_path / "in.mp4", image), open_clip_picture(image)
    difference = np.abs(ours.astype(int) - theirs.astype(int)).mean()
    record_property("mean_difference_levels", float(difference))
    print(f"{picture.__name__} {size}: {difference:.3f} of 255 levels")
    assert difference <= BOUNDS[picture]


def test_a_crop_one_pixel_off_would_be_seen(tmp_path):
    """What the bounds are worth: moved by one pixel, the same pictures are far outside them."""
    for picture, bound in BOUNDS.items():
        ours = read_picture(tmp_path / f"{picture.__name__}.mp4", picture(320, 240)).astype(int)
        theirs = open_clip_picture(picture(320, 240)).astype(int)
        assert np.abs(ours[:, 1:] - theirs[:, :-1]).mean() > 1.5 * bound, picture.__name__


@pytest.mark.parametrize("picture", [clouds, shapes], ids=lambda picture: picture.__name__)
def test_features(tmp_path, picture):
    """Cosine of the features of both pictures, by an encoder with random weights."""
    torch.manual_seed(0)
    encoder = ImageEncoder(CONFIG).eval()
    image = picture(320, 240)
    pictures = np.stack([read_picture(tmp_path / "in.mp4", image), open_clip_picture(image)])
    with torch.no_grad():
        ours, theirs = encoder(torch.from_numpy(pictures))
    cosine = float(ours @ theirs)
    print(f"{picture.__name__}: cosine {cosine:.6f}")
    assert cosine > 0.999
