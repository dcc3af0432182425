"""What a sound and its video look like, for those who show them."""

import base64
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.codec
import numpy as np
import numpy.typing as npt
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from vab_rt.errors import OptionError
from vab_rt.output import whole_file, writing
from vab_rt.serve.making import refuse_lists, without_paths
from vab_rt.serve.queries import Order
from vab_rt.serve.talk import Talk
from vab_rt.spectrogram import FLOOR_DB, Spectrogram, band_edges_hz
from vab_rt.video import Video

_CODECS = {
    "mp4": ("libx264", {"preset": "ultrafast", "crf": "27"}),
    "webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8", "crf": "20", "b": "2M"}),
}
"""With options, of those that some browser plays."""
_SHORT_SIDE = 360
_TICKS_PER_S = 1000  # as matroska counts
_KEY_FRAME_EVERY = 12  # frames: who marks a part jumps to and fro


def spectrogram_of(file: Path) -> dict[str, Any]:
    """The spectrogram of the sound in a file, as JSON has it; levels: one byte each [columns,
    bands], base64."""
    pieces, rate_hz = _mono(file)
    sound = Spectrogram(rate_hz)
    for piece in pieces:
        sound.add(piece)
    sound.finish()
    level_db, column_s = sound.levels_db()  # [N, bands]
    levels = np.round((level_db / -FLOOR_DB + 1) * 255).clip(0, 255).astype(np.uint8)
    edges_hz = band_edges_hz(rate_hz)
    return {
        "duration_s": sound.duration_s,
        "column_s": column_s,
        "num_columns": len(levels),
        "num_bands": levels.shape[1],
        "lowest_hz": float(edges_hz[0]),
        "highest_hz": float(edges_hz[-1]),
        "floor_db": FLOOR_DB,
        "levels": base64.b64encode(levels.tobytes()).decode(),
        "onsets_s": sound.strokes_s().tolist(),
    }


def _mono(file: Path) -> tuple[Iterator[npt.NDArray[np.float32]], int]:
    """About a second of samples [S] at a time, and their rate."""
    container = av.open(f"file:{file}")
    stream = container.streams.audio[0]

    def pieces() -> Iterator[npt.NDArray[np.float32]]:
        resampler, parts, num_samples = av.AudioResampler("fltp"), [], 0
        with container:
            for frame in chain(container.decode(stream), (None,)):
                for part in resampler.resample(frame):
                    parts.append(part.to_ndarray().mean(0, dtype=np.float32))
                    num_samples += len(parts[-1])
                if parts and (num_samples >= stream.rate or frame is None):
                    yield np.concatenate(parts)
                    parts, num_samples = [], 0

    return pieces(), stream.rate


def make_preview(talk: Talk, order: Order, out: Path) -> None:
    """The part of its video that a sound is of, small, without sound, in a format that browsers
    play. Raises Cancelled when the sound goes meanwhile, VabError."""
    name = out.suffix[1:]
    codec, options = _CODECS[name]
    if codec not in av.codec.codecs_available:
        raise OptionError(f"format is {name}, but FFmpeg here has no {codec}, expected another")
    with without_paths(order):
        refuse_lists(order.video)
        video = Video(order.video, order.start_s, order.duration_s)
        with whole_file(out, force=True) as part, writing(out):
            _encode(talk, video, part, name, codec, options)


def _encode(
    talk: Talk, video: Video, part: Path, name: str, codec: str, options: dict[str, str]
) -> None:
    rate = Fraction(video.info.rate_hz or 25).limit_denominator(1001)
    base, last = Fraction(1, _TICKS_PER_S), -1
    shown, reformatter = video.displayed(), VideoReformatter()
    with av.open(f"file:{part}", "w", format=name) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        assert isinstance(stream, VideoStream), f"{codec} is no codec of video"
        stream.width, stream.height = _size(video)
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        stream.codec_context.gop_size = _KEY_FRAME_EVERY
        stream.codec_context.thread_count = 1  # libvpx's others wait busily: 12 times the work
        for stored, begin_s, _ in shown:
            talk.require_wanted()
            frame = _upright(stored, reformatter, (stream.width, stream.height))
            last = max(last + 1, round(begin_s * _TICKS_PER_S))
            frame.pts, frame.time_base, frame.pict_type = last, base, PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _size(video: Video) -> tuple[int, int]:
    """Even, and no larger than the video."""
    width, height = video.info.width, video.info.height
    share = min(1.0, _SHORT_SIDE / min(width, height))
    return max(2, round(width * share / 2) * 2), max(2, round(height * share / 2) * 2)


def _upright(frame: VideoFrame, reformatter: VideoReformatter, size: tuple[int, int]) -> VideoFrame:
    turns = round(frame.rotation / 90) % 4
    if not turns:
        return reformatter.reformat(frame, *size, format="yuv420p", threads=1)
    wide = size if turns == 2 else size[::-1]
    image = reformatter.reformat(frame, *wide, format="yuv444p", threads=1).to_ndarray()
    turned = np.ascontiguousarray(np.rot90(image, turns, (1, 2)), dtype=np.uint8)  # [3, h, w]
    return VideoFrame.from_ndarray(turned, format="yuv444p").reformat(format="yuv420p")
