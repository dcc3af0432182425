"""Folders of tiny synthetic recordings and pictures, as users have them, and a model for them."""

import av
import msgspec
import numpy as np

from training.configs import read_recipe
from vab_rt.audio import Audio

RATE_HZ = 16_000


def write_picture(path, color, size=(48, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), color, np.uint8)
    image[::4] //= 2
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "rgb24"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        file.mux(stream.encode(None))


def write_sound(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    Audio(samples=samples.astype(np.float32), sample_rate_hz=RATE_HZ).save(path)


def clicks(random, times_s=(0.1, 0.6, 1.2), duration_s=1.6):
    """Decaying bursts at these times, over quiet noise."""
    samples = 1e-4 * random.standard_normal(round(duration_s * RATE_HZ))
    burst = random.standard_normal(1600) * np.exp(-np.arange(1600) / 300)
    for time_s in times_s:
        at = round(time_s * RATE_HZ)
        samples[at : at + 1600] += 0.2 * burst
    return samples


def write_folders(folder, count=4):
    """Three kinds of `count` recordings: `tick` is struck, `hum` and `hiss` are not; `hum` has no
    picture, and `vase`, which makes no sound, has some."""
    random = np.random.default_rng(0)
    times = np.arange(2 * RATE_HZ) / RATE_HZ
    for i in range(count):
        write_sound(folder / "sounds/tick" / f"{i}.wav", clicks(random))
        write_sound(folder / "sounds/hum" / f"{i}.wav", 0.2 * np.sin(6.28 * (200 + 50 * i) * times))
        write_sound(folder / "sounds/hiss" / f"{i}.wav", 0.1 * random.standard_normal(len(times)))
        for kind, color in (
            ("tick", (250, 40, 40)),
            ("hiss", (40, 40, 250)),
            ("vase", (9, 250, 9)),
        ):
            write_picture(folder / "pictures" / kind / f"{i}.png", color)
    return folder


def small_config(**facts):
    """The default's model with two sizes of images, and these facts."""
    facts = {"image_size": 64, "motion_size": 32, **facts}
    return msgspec.structs.replace(read_recipe("default").model, **facts)
