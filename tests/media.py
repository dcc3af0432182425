"""Small real media files for the tests, made with the same FFmpeg that the runtime reads with."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

Picture = Callable[[int], NDArray[np.uint8]]  # frame number -> [height, width, 3] RGB


def grey_level(frame: int, num_levels: int = 50) -> int:
    """The brightness by which a decoded frame of `grey_video` names its number, modulo 50."""
    return 4 * (frame % num_levels) + 20


def frame_number(picture: NDArray[np.uint8]) -> int:
    """The number of the frame that a decoded picture shows (modulo 50)."""
    return round((float(picture.mean()) - 20) / 4)


def make_video(
    path: Path,
    *,
    num_frames: int = 50,
    fps: Fraction | int = 25,
    size: tuple[int, int] = (64, 48),
    picture: Picture | None = None,
    timestamps: Sequence[Fraction] | None = None,
    first_s: Fraction | int = 0,
    rotation: int = 0,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    format_options: dict[str, str] | None = None,
    gop: int = 12,
    b_frames: int = 2,
    with_sound: bool = False,
    aspect: Fraction | None = None,
) -> Path:
    """Writes a video whose frames tell their number by their grey level; returns its path.

    timestamps: seconds of each frame, for a variable frame rate. first_s is added to all.
    """
    width, height = size
    # Avi counts frames; elsewhere whole ticks at 24, 25, 29.97, 30, 50 and 60 frames a second.
    base = 1 / Fraction(fps) if path.suffix == ".avi" else Fraction(1, 30_000)
    with av.open(str(path), "w", options=format_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        if not codec.startswith("lib"):
            stream.codec_context.bit_rate = 2_000_000
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=48_000) if with_sound else None
        for number in range(num_frames):
            if picture is None:
                image = np.full((height, width, 3), grey_level(number), np.uint8)
            else:
                image = picture(number)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=pix_fmt)
            at = Fraction(number) / Fraction(fps) if timestamps is None else timestamps[number]
            frame.pts, frame.time_base = round((at + first_s) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            silence = np.zeros((2, round(num_frames / Fraction(fps) * 48_000)), np.float32)
            audio = av.AudioFrame.from_ndarray(silence, format="fltp", layout="stereo")
            audio.sample_rate, audio.pts = 48_000, 0
            container.mux(sound.encode(audio))
            container.mux(sound.encode(None))
    return path


def make_sound(path: Path, seconds: float = 1.0) -> Path:
    """An audio file, whatever its name says."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, round(seconds * 16_000)), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def packets_of(path: Path) -> list[bytes]:
    """The payload of every video packet, in file order."""
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.video[0]) if p.size]


def samples_of(path: Path) -> tuple[NDArray[np.float32], int, Fraction]:
    """Decoded audio [S] (first channel), its rate, and the time of its first sample."""
    channels, rate_hz, first_s = channels_of(path)
    return channels[0], rate_hz, first_s


def channels_of(path: Path) -> tuple[NDArray[np.float32], int, Fraction]:
    """The same of all channels [C, S]."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp")
        parts, first = [], None
        for frame in container.decode(stream):
            if first is None:
                first = frame.pts * frame.time_base
            parts += [part.to_ndarray() for part in resampler.resample(frame)]
        assert first is not None, f"{path} has no sound"
        return np.concatenate(parts, -1), stream.rate, Fraction(first)


def damage(path: Path, packets: Sequence[int]) -> Path:
    """Overwrites the payload of some video packets with noise, in place."""
    with av.open(str(path)) as container:
        demuxed = [p for p in container.demux(container.streams.video[0]) if p.size]
        spans = [(p.pos, p.size) for p in demuxed]
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0)
    for index in packets:
        begin, length = spans[index]
        data[begin : begin + length] = noise.bytes(length)
    path.write_bytes(bytes(data))
    return path


def make_picture(path: Path, size: tuple[int, int] = (64, 48)) -> Path:
    """A still picture of one grey, in the format that its suffix names."""
    codecs = {".png": "png", ".jpg": "mjpeg", ".webp": "libwebp", ".bmp": "bmp", ".gif": "gif"}
    forms = {".jpg": "yuvj420p", ".webp": "yuv420p", ".gif": "rgb8", ".bmp": "bgr24"}
    width, height = size
    encoder = av.CodecContext.create(codecs[path.suffix], "w")
    encoder.width, encoder.height, encoder.time_base = width, height, Fraction(1, 25)
    encoder.pix_fmt = forms.get(path.suffix, "rgb24")
    image = np.full((height, width, 3), grey_level(7), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=encoder.pix_fmt)
    frame.pts, frame.time_base = 0, Fraction(1, 25)
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    if path.suffix != ".gif":
        path.write_bytes(b"".join(bytes(packet) for packet in packets))
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, encoder.pix_fmt
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patch_box(path: Path, kind: bytes, offset: int, value: bytes) -> Path:
    """Overwrites bytes of the last mp4 box of a kind, counted from its contents, in place."""
    data = bytearray(path.read_bytes())
    begin = data.rindex(kind) + 4 + offset
    data[begin : begin + len(value)] = value
    path.write_bytes(bytes(data))
    return path


def trim(path: Path, begin: int | None, length_s: float, rate_hz: int = 30_000) -> Path:
    """Shortens the one edit of an mp4, as a phone does when a film is trimmed: where it begins (in
    the track's ticks, counted on from where it began) and how long it is."""
    data = path.read_bytes()
    movie_hz = int.from_bytes(data[(at := data.index(b"mvhd") + 16) : at + 4], "big")
    patch_box(path, b"elst", 8, round(length_s * movie_hz).to_bytes(4, "big"))
    if begin is not None:
        at = data.index(b"elst") + 4 + 12
        old = int.from_bytes(data[at : at + 4], "big")
        patch_box(path, b"elst", 12, (old + begin).to_bytes(4, "big"))
    return path


def count_opens(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Gets an item each time that a file is opened from here on."""
    opened: list[object] = []
    real = av.open

    def counting(file: object, *arguments: object, **more: object) -> object:
        opened.append(file)
        return real(file, *arguments, **more)

    monkeypatch.setattr(av, "open", counting)
    return opened
