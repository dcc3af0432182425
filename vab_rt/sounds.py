"""Sound files of others: any container and codec, as mono samples at a model's rate."""

from itertools import chain
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from vab_rt.errors import MediaError

SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".aif", ".aiff", ".wma"),
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
)


def decode_sound(path: Path, rate_hz: int, longest_s: float | None = None) -> NDArray[np.float32]:
    """Mono samples [S] of any number and level, the mean of all channels; of a longer file the
    first `longest_s`, without reading more. Raises MediaError."""
    resampler = av.AudioResampler(format="fltp", rate=rate_hz)  # mixing to mono there is louder
    parts: list[NDArray[np.float32]] = []
    left = None if longest_s is None else round(longest_s * rate_hz)
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            if not container.streams.audio:
                raise MediaError(f"{path} has no sound, expected some; leave the file out")
            frames = container.decode(container.streams.audio[0])
            for frame in chain(frames, (None,)):
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().mean(0))
                    if left is not None:
                        left -= len(parts[-1])
                if left is not None and left <= 0:
                    break
    except MemoryError:  # FFmpeg's is both
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"the sound of {path} cannot be read ({error}), expected a complete file; copy it "
            "again, or leave it out"
        ) from error
    samples = np.concatenate([np.zeros(0, np.float32), *parts]).astype(np.float32)
    return samples if longest_s is None else samples[: round(longest_s * rate_hz)]
