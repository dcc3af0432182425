"""Sound files of others: any container and codec, as mono samples at a model's rate."""

from itertools import chain
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from vab_rt.errors import MediaError, reason_of
from vab_rt.source import require_file

SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".aif", ".aiff", ".wma"),
    *(".mka", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"),
)


def decode_sound(path: Path, rate_hz: int, longest_s: float | None = None) -> NDArray[np.float32]:
    """Mono samples [S] of any number and level, the mean of all channels; of a longer file the
    first `longest_s`, without reading more. Raises MediaError."""
    samples, _ = read_sound(path, rate_hz, longest_s)
    mono: NDArray[np.float32] = samples.mean(0, dtype=np.float32)
    return mono


def read_sound(
    path: Path, rate_hz: int | None = None, longest_s: float | None = None
) -> tuple[NDArray[np.float32], int]:
    """Samples [channels, S] and their rate, the file's own where none is given. Raises
    MediaError."""
    require_file(path, "a sound file")  # to open a pipe would wait for whoever writes to it
    resampler = av.AudioResampler(format="fltp", rate=rate_hz)  # mixing to mono there is louder
    parts: list[NDArray[np.float32]] = []
    left = None
    try:
        with av.open(f"file:{path}", metadata_errors="replace") as container:
            if not container.streams.audio:
                raise MediaError(f"{path} has no sound, expected some; leave the file out")
            stream = container.streams.audio[0]
            rate_hz = stream.rate if rate_hz is None else rate_hz
            if longest_s is not None:
                left = round(longest_s * rate_hz)
            for frame in chain(container.decode(stream), (None,)):
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().astype(np.float32, copy=False))
                    if left is not None:
                        left -= parts[-1].shape[1]
                if left is not None and left <= 0:
                    break
    except MemoryError:  # FFmpeg's is both
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise MediaError(
            f"the sound of {path} cannot be read ({reason_of(error)}), expected a complete file; "
            "copy it again, or leave it out"
        ) from error
    if not parts:
        return np.zeros((1, 0), np.float32), rate_hz
    samples = np.concatenate(parts, 1)
    return samples if longest_s is None else samples[:, : round(longest_s * rate_hz)], rate_hz
