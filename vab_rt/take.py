"""What a sound of ours was made of, kept in a file beside it: `out.wav` has `out.wav.vab.json`.

With the tokens of a sound a part of it can be made anew as the model made the rest. docs/EDITING.md
specifies the file.
"""

import hashlib
import math
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import av
import av.error
import msgspec
import numpy as np
import numpy.typing as npt

from vab_rt.errors import MediaWarning
from vab_rt.file_object import VideoFile
from vab_rt.output import whole_file, writing

if TYPE_CHECKING:
    from vab_rt.sampling_arguments import Tokens

SUFFIX = ".vab.json"
FORMAT = 1
_MOST_TOKENS = 1 << 28
_MOST_GAIN_DB = 200


class _Facts(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What the tokens of a sound belong to."""

    model: str
    """the name of the model"""
    codec_sha256: str
    """of the codec_decoder that the tokens are of"""
    video: str
    """the name of the video's file"""
    video_bytes: int
    """and its size"""
    start_s: float
    """where the part of the video begins that the sound is of"""
    duration_s: float | None
    """how much of the video was asked for; None: to its end"""
    video_s: float | None
    """how long the container says that this part is"""
    sample_rate_hz: int
    """the model's"""
    num_samples: int
    """of the sound, at that rate"""
    lead_samples: int
    """what the model heard before the sound begins"""
    seed: int
    """that it was made with, or its latest part"""
    gain_db: float
    """between the model's sound and the file"""
    fade_s: float
    """in which the file's sound comes and goes"""
    mix: str
    """whether the file holds the video's own sound as well"""
    precision: str = "fp32"
    """what the model was computed in, or its latest part"""
    kinds: tuple[str, ...] = ()
    """that it was told of instead of what it saw, or for its latest part"""


class Take(_Facts, frozen=True, eq=False, kw_only=True):
    """The tokens of a sound, and what they belong to."""

    tokens: "npt.NDArray[np.int32]"
    """[K, T], T from `lead_samples` before the sound on"""

    def save(self, sound: Path) -> None:
        """Beside the file of its sound, which is finished. Raises OutputError."""
        kept = {name: getattr(self, name) for name in _Facts.__struct_fields__}
        content = _File(
            **kept,
            format_version=FORMAT,
            sound_sha256=packets_sha256(sound),
            shape=self.tokens.shape,
            packed=zlib.compress(self.tokens.astype("<i2").tobytes()),
        )
        path = path_of(sound)
        with whole_file(path, force=True) as part, writing(path):
            part.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")


class _File(
    _Facts, frozen=True, eq=False, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """The file as it is: what is known, the tokens as int16, and the sound that they belong to."""

    format_version: int
    sound_sha256: str
    shape: tuple[int, int]
    packed: bytes


def name_of(video: VideoFile) -> str:
    """That of a video's file, as text."""
    return video.name.encode(errors="replace").decode()


def path_of(sound: Path) -> Path:
    """The path of a sound file's take."""
    return sound.with_name(sound.name + SUFFIX)


def read_take(sound: Path) -> Take | None:
    """The take of a file of sound; None where there is none.

    Warns MediaWarning, and returns None, of one that is damaged, of a newer version, or of another
    sound: of a file that was changed since it was made.
    """
    path = path_of(sound)
    if not path.is_file():
        return None
    try:
        content = msgspec.json.decode(path.read_bytes(), type=_File)
        if content.format_version != FORMAT:
            raise ValueError(f"version {content.format_version}, expected {FORMAT}")
        if content.sample_rate_hz < 1 or content.num_samples < 1 or content.lead_samples < 0:
            raise ValueError("its lengths are not those of a sound")
        if abs(content.gain_db) > _MOST_GAIN_DB:
            raise ValueError(f"its gain is {content.gain_db:g} dB")
        if content.sound_sha256 != packets_sha256(sound):
            _tell_without(sound, f"it was changed since {path.name} was written")
            return None
        kept = {name: getattr(content, name) for name in _Facts.__struct_fields__}
        return Take(tokens=_unpacked(content), **kept)
    except (OSError, ValueError, zlib.error) as error:  # msgspec's errors are ValueErrors
        _tell_without(sound, f"{path.name} cannot be read ({error})")
        return None


def _tell_without(sound: Path, reason: str) -> None:
    message = f"{sound} is taken as any sound, without its tokens: {reason}"
    warnings.warn(message, MediaWarning, stacklevel=4)


def _unpacked(content: _File) -> "Tokens":
    size = 2 * math.prod(content.shape)
    if min(content.shape) < 1 or size > _MOST_TOKENS:
        raise ValueError(f"tokens have the shape {list(content.shape)}")
    raw = zlib.decompressobj().decompress(content.packed, size + 1)
    if len(raw) != size:
        raise ValueError(f"tokens have {len(raw)} bytes, expected {size}")
    return np.frombuffer(raw, "<i2").astype(np.int32).reshape(content.shape)


def packets_sha256(sound: Path) -> str:
    """The digest of the sound in a file, as it is encoded: what else is in the container does not
    count.

    Raises OSError for a file without sound.
    """
    digest = hashlib.sha256()
    with av.open(f"file:{sound}", metadata_errors="replace") as container:
        if not container.streams.audio:
            raise OSError(f"{sound} has no sound")
        for packet in container.demux(container.streams.audio[0]):
            digest.update(bytes(packet))
    return digest.hexdigest()
