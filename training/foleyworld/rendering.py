"""Clips as files: mp4 with H.264 and AAC, and their truth beside them."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from training.foleyworld.scenes import Scene
from training.foleyworld.sounds import CLIP_S, NUM_SAMPLES, SAMPLE_RATE_HZ
from training.foleyworld.truth import write_truth
from vab_rt.errors import OptionError, OutputError

AUDIO_FRAME_SAMPLES = 1024
CHUNK_FRAMES = 25
MIN_SIZE, MAX_SIZE = 16, 4096  # pixels; even, as yuv420p needs
MAX_FPS = 120


def frame_times(rate_hz: float) -> np.ndarray:
    """The times of a clip's frames: frame i shows (i + 0.5) / rate."""
    return (np.arange(round(CLIP_S * rate_hz)) + 0.5) / rate_hz


def write_clip(path: Path, scene: Scene, width: int, height: int, fps: int, silent: bool) -> None:
    """Write `path` (mp4) and its truth beside it as .json; no mp4 is left incomplete.

    Raises OptionError for a picture or rate that H.264 cannot hold, OutputError.
    """
    _check_pictures(width, height, fps)
    partial = path.with_suffix(".partial")
    try:
        with av.open(str(partial), "w", format="mp4") as container:
            _encode(container, scene, width, height, fps, silent)
        write_truth(path.with_suffix(".json"), scene.truth)
        partial.replace(path)
    except (OSError, av.FFmpegError) as error:
        with suppress(OSError):
            partial.unlink()
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; "
            "choose a folder that can be written and has room"
        ) from error


def _check_pictures(width: int, height: int, fps: int) -> None:
    for name, size in (("width", width), ("height", height)):
        if not MIN_SIZE <= size <= MAX_SIZE or size % 2:
            raise OptionError(
                f"{name} is {size}; expected an even number from {MIN_SIZE} to {MAX_SIZE}"
            )
    if not 1 <= fps <= MAX_FPS:
        raise OptionError(f"fps is {fps}; expected 1 to {MAX_FPS}")


def _encode(
    container: av.container.OutputContainer,
    scene: Scene,
    width: int,
    height: int,
    fps: int,
    silent: bool,
) -> None:
    video = container.add_stream("libx264", rate=fps)
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    video.options = {"crf": "20", "preset": "veryfast"}
    sound = None if silent else container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
    times = frame_times(fps)
    for start in range(0, len(times), CHUNK_FRAMES):
        for picture in scene.frames(times[start : start + CHUNK_FRAMES], width, height):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(video.encode(frame))
    container.mux(video.encode(None))
    if sound is not None:
        _encode_audio(container, sound, scene.audio())


def _encode_audio(
    container: av.container.OutputContainer, stream: av.AudioStream, audio: np.ndarray
) -> None:
    for start in range(0, NUM_SAMPLES, AUDIO_FRAME_SAMPLES):
        block = audio[None, start : start + AUDIO_FRAME_SAMPLES]
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", "mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE_HZ, start
        frame.time_base = Fraction(1, SAMPLE_RATE_HZ)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
