"""How sound is wanted in a file."""

from typing import Any, Literal, get_args

import msgspec

from vab_rt.errors import OptionError
from vab_rt.options import number

Bits = Literal["16", "24", "32f"]
Codec = Literal["pcm"]
Mix = Literal["replace", "keep", "duck"]
VIDEO_MUXERS = {
    ".mp4": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".m4v": "ipod",
    ".avi": "avi",
}
"""The formats of files that hold a video beside the sound, by suffix; as FFmpeg calls them."""
_NAMES = {"rate_hz": "rate", "num_channels": "channels", "loudness_lufs": "loudness"}
_NAMES |= {"fade_s": "fade", "gain_db": "gain"}  # as the command line has them


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a file is to hold the sound. None leaves a choice to the format. Raises OptionError."""

    rate_hz: int | None = None
    """samples a second, 8000 to 192000; None is 48000 beside a video, else the model's"""
    num_channels: int | None = None
    """1, or 2: dual mono, the same sound on both sides; None is 1, or as many as the video's own
    sound has, at most 2, where that is mixed in"""
    bits: Bits | None = None
    """of a sample in wav: "16", "24", or "32f" for floats; None is 16"""
    loudness_lufs: float | None = None
    """integrated loudness by EBU R 128, -50 to -5: one gain for all of the sound; None leaves it"""
    fade_s: float = 0.0
    """seconds in which the sound comes at its beginning and goes at its end, 0 to 60"""
    codec: Codec | None = None
    """"pcm" for uncompressed sound in mov, mkv and avi; None is the format's own"""
    mix: Mix = "replace"
    """"replace" drops the video's own sound; "keep" mixes it in; "duck" lowers it while ours
    sounds"""
    gain_db: float = 0.0
    """of the model's sound, -60 to 40, before it is mixed"""

    def __post_init__(self) -> None:
        self._check_number("rate_hz", int, 8000, 192_000, "8000 to 192000 Hz, such as 48000")
        self._check_number("num_channels", int, 1, 2, "1, or 2 for the same sound on both sides")
        self._check_number("loudness_lufs", float, -50, -5, "-50 to -5 LUFS, such as -23")
        self._check_number("fade_s", float, 0, 60, "0 to 60 s")
        self._check_number("gain_db", float, -60, 40, "-60 to 40 dB")
        if isinstance(self.bits, int):
            msgspec.structs.force_setattr(self, "bits", str(self.bits))
        self._check_choice("bits", get_args(Bits), is_optional=True)
        self._check_choice("codec", get_args(Codec), is_optional=True)
        self._check_choice("mix", get_args(Mix))

    def _check_number(self, field: str, kind: type[float], *limits: Any) -> None:
        found = getattr(self, field)
        if found is not None or field in ("fade_s", "gain_db"):  # the others may be None
            checked = number(_NAMES.get(field, field), found, kind, *limits)
            msgspec.structs.force_setattr(self, field, checked)

    def _check_choice(
        self, field: str, choices: tuple[str, ...], *, is_optional: bool = False
    ) -> None:
        found = getattr(self, field)
        if found not in choices and not (is_optional and found is None):
            raise OptionError(f"{field} is {found!r}, expected {' or '.join(choices)}")
