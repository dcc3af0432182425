"""What each kind of file can hold: muxers, codecs, bits and rates, by suffix."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from vab_rt.delivery import VIDEO_MUXERS, Delivery
from vab_rt.errors import OptionError, OutputError

VIDEO_RATE_HZ = 48_000
"""The rate of sound beside a video, as editors expect it."""
_WAV_CODECS = {"16": "pcm_s16le", "24": "pcm_s24le", "32f": "pcm_f32le"}
_PCM_HOLDERS = (".mov", ".mkv", ".avi")
_ADTS_DELAY = 1024  # samples of FFmpeg's encoder, of which the file cannot tell; others' have more


class Format(NamedTuple):
    """muxer and codec by FFmpeg's names. bit_rate: of one channel; 0: lossless."""

    muxer: str
    codec: str
    bit_rate: int = 0

    @property
    def rates_hz(self) -> tuple[int, ...] | None:
        """Those that the codec knows; None: all."""
        import av  # who needs the names alone does without FFmpeg

        known = av.Codec(self.codec, "w").audio_rates
        return None if known is None else tuple(sorted(known))


# Not AAC in matroska, where it cannot say where the sound ends to the sample; PCM in avi, where
# what is compressed cannot say where it begins.
FORMATS = {
    ".wav": Format("wav", "pcm_s16le"),
    ".flac": Format("flac", "flac"),
    ".mp3": Format("mp3", "libmp3lame", 96_000),
    ".m4a": Format("ipod", "aac", 96_000),
    ".ogg": Format("ogg", "libopus", 64_000),
    ".opus": Format("opus", "libopus", 64_000),
    ".aac": Format("adts", "aac", 96_000),
    ".aiff": Format("aiff", "pcm_s16be"),
    ".mka": Format("matroska", "libopus", 64_000),
    ".mp4": Format(VIDEO_MUXERS[".mp4"], "aac", 96_000),
    ".mov": Format(VIDEO_MUXERS[".mov"], "aac", 96_000),
    ".m4v": Format(VIDEO_MUXERS[".m4v"], "aac", 96_000),
    ".mkv": Format(VIDEO_MUXERS[".mkv"], "libopus", 64_000),
    ".webm": Format(VIDEO_MUXERS[".webm"], "libopus", 64_000),
    ".avi": Format(VIDEO_MUXERS[".avi"], "pcm_s16le"),
}
SOUND_SUFFIXES = tuple(suffix for suffix in FORMATS if suffix not in VIDEO_MUXERS)


def format_of(path: Path, delivery: Delivery) -> Format:
    """Raises OutputError for an unknown suffix, OptionError for what such a file cannot hold."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        known = ", ".join(name[1:] for name in FORMATS)
        raise OutputError(
            f"{path} ends in {suffix or 'no suffix'}, expected one of {known}; rename the output"
        )
    chosen = FORMATS[suffix]
    if delivery.bits is not None:
        _require(suffix, "bits", delivery.bits, (".wav",))
        chosen = chosen._replace(codec=_WAV_CODECS[delivery.bits])
    if delivery.codec is not None:
        _require(suffix, "codec", delivery.codec, _PCM_HOLDERS)
        chosen = Format(chosen.muxer, "pcm_s16le")
    rates = chosen.rates_hz
    if delivery.rate_hz is not None and rates is not None and delivery.rate_hz not in rates:
        raise OptionError(
            f"rate is {delivery.rate_hz} Hz, which {chosen.codec} in {suffix} cannot hold, "
            f"expected one of {', '.join(map(str, rates))}; choose one, or write .wav"
        )
    return chosen


def _require(suffix: str, option: str, found: str, holders: tuple[str, ...]) -> None:
    if suffix not in holders:
        raise OptionError(
            f"{option} is {found}, which {suffix} does not have, expected it with "
            f"{' or '.join(holders)} alone; leave it out, or rename the output"
        )


def rate_in(chosen: Format, delivery: Delivery, own_rate_hz: int, *, has_video: bool) -> int:
    """Samples a second of the file, for sound of `own_rate_hz`."""
    if delivery.rate_hz is not None:
        return delivery.rate_hz
    rates = chosen.rates_hz
    if has_video or chosen.muxer == "adts" or (rates is not None and own_rate_hz not in rates):
        return VIDEO_RATE_HZ
    return own_rate_hz


def untold_delay(path: Path) -> int:
    """Samples by which a file of ours begins late without saying so."""
    known = FORMATS.get(path.suffix.lower())
    return _ADTS_DELAY if known is not None and known.muxer == "adts" else 0


def as_in(sound: Path, out: Path, delivery: Delivery) -> Delivery:
    """The same, and what is left open as a file of sound has it: its channels, and the bits of a
    wav where `out` is one. So what is copied from it stays as it was."""
    import av

    with av.open(f"file:{sound}", metadata_errors="replace") as container:
        context = container.streams.audio[0].codec_context
        codec, channels = context.name, context.channels
    bits = next((bits for bits, name in _WAV_CODECS.items() if name == codec), None)
    if delivery.bits is None and out.suffix.lower() == ".wav":
        delivery = msgspec.structs.replace(delivery, bits=bits)
    if delivery.num_channels is None and delivery.mix == "replace":
        delivery = msgspec.structs.replace(delivery, num_channels=min(2, channels))
    return delivery
