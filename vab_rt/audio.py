"""Sound, and the files it is written to: wav, flac, mp3, m4a, ogg, or beside a copied video."""

from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import av
import msgspec
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from numpy.typing import NDArray

from vab_rt.containers import VIDEO_MUXERS
from vab_rt.edit_list import hide_after
from vab_rt.errors import MediaError, OptionError, OutputError
from vab_rt.muxing import CopyPlan, VideoCopy, copied_video, plan_copy
from vab_rt.output import check_output, require_file_name, whole_file, writing
from vab_rt.sounds import read_sound
from vab_rt.source import require_file
from vab_rt.take import Take, read_take
from vab_rt.video import Video


class _Format(NamedTuple):
    muxer: str
    codec: str
    bit_rate: int = 0  # 0: lossless


_FORMATS = {
    ".wav": _Format("wav", "pcm_s16le"),
    ".flac": _Format("flac", "flac"),
    ".mp3": _Format("mp3", "libmp3lame", 96_000),
    ".m4a": _Format("ipod", "aac", 96_000),
    ".ogg": _Format("ogg", "libopus", 64_000),
    ".mp4": _Format(VIDEO_MUXERS[".mp4"], "aac", 96_000),
    ".mov": _Format(VIDEO_MUXERS[".mov"], "aac", 96_000),
    # Not AAC, which in matroska cannot say where the sound ends to the sample.
    ".mkv": _Format(VIDEO_MUXERS[".mkv"], "libopus", 64_000),
    ".webm": _Format(VIDEO_MUXERS[".webm"], "libopus", 64_000),
}


_SAME_CHANNELS = 2e-3  # two channels of one sound differ by no more once they were encoded


class Audio(msgspec.Struct, frozen=True, eq=False):
    """Finished sound, mono. Raises OptionError for samples of another shape or kind, or no rate."""

    samples: NDArray[np.float32]
    """[S]; full scale is -1 to 1"""
    sample_rate_hz: int
    """samples a second"""
    seed: int | None = None
    """that it was made with; None of sound from elsewhere"""
    score: float | None = None
    """how well it fits the video, where that was measured: nats a token, more is better"""
    take: Take | None = None
    """what it was made of, where a model of tokens made it"""

    def __post_init__(self) -> None:
        _check_shape(self.samples)
        kind = np.asarray(self.samples).dtype
        if not np.issubdtype(kind, np.floating):
            raise OptionError(
                f"samples are {kind}, expected floats from -1 to 1; divide 16-bit ones by 32768"
            )
        if not self.sample_rate_hz > 0:
            raise OptionError(
                f"sample_rate_hz is {self.sample_rate_hz}, expected samples a second, such as 16000"
            )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Audio):
            return NotImplemented
        same_rate = self.sample_rate_hz == other.sample_rate_hz
        return same_rate and np.array_equal(self.samples, other.samples)

    __hash__ = None  # type: ignore[assignment]  # samples may change

    @classmethod
    def load(cls, path: str | Path) -> "Audio":
        """The sound in a file of any kind, a video too, at its own rate; with what it was made of,
        where that lies beside it.

        Raises MediaError for what cannot be read, and for different channels. Warns MediaWarning
        of a sound of ours that was changed since it was made.
        """
        path = Path(path)
        require_file(path)
        channels, rate_hz = read_sound(path)
        samples = channels.mean(0, dtype=np.float32)
        if np.abs(channels - samples).max(initial=0) > _SAME_CHANNELS:
            raise MediaError(
                f"{path} has {len(channels)} different channels, expected mono sound; mix it down "
                "first"
            )
        if not len(samples):
            raise MediaError(f"{path} has no samples, expected some sound; choose another file")
        take = read_take(path)
        seed, end = None, None
        if take is not None:  # a codec may pad the end
            seed, end = take.seed, round(take.num_samples * rate_hz / take.sample_rate_hz)
        return cls(samples[:end], rate_hz, seed=seed, take=take)

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return len(self.samples) / self.sample_rate_hz

    def save(
        self,
        path: str | Path,
        *,
        video: Video | str | Path | None = None,
        force: bool = False,
        take: bool = True,
    ) -> None:
        """Writes a file; its suffix chooses the format: wav, flac, mp3, m4a, ogg, or mp4, mkv, mov
        and webm, which get a copy of the video stream.

        - video: the input, which no output may overwrite; mp4, mkv, mov and webm need it.
        - force: replace a file that exists.
        - take: keep what it was made of beside it, in NAME.vab.json, so that a part can be made
          anew later.

        Raises OutputError, MediaError.
        """
        with AudioWriter(plan_output(path, video=video, force=force), self.sample_rate_hz) as file:
            file.write(self.samples)
        if take and self.take is not None:
            self.take.save(Path(path))


@dataclass(frozen=True)
class OutputPlan:
    """A file that can be written, and how a video gets into it: None where it holds sound alone."""

    path: Path
    force: bool
    copy: CopyPlan | None


def plan_output(
    path: str | Path, *, video: Video | str | Path | None = None, force: bool = False
) -> OutputPlan:
    """For one AudioWriter. video: what the sound belongs to, which no format may overwrite.

    Raises OutputError unless this file can be written: suffix, folder, and the video's codec;
    MediaError when there is no video to begin with.
    """
    path = Path(path)
    require_file_name(path)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        known = ", ".join(name[1:] for name in _FORMATS)
        raise OutputError(
            f"{path} ends in {suffix or 'no suffix'}, expected one of {known}; rename the output"
        )
    if suffix in VIDEO_MUXERS and video is None:
        raise OutputError(
            f"{path} is a video file, expected a video to copy into it; "
            "name one, or write .wav, .flac, .mp3, .m4a or .ogg"
        )
    video = Video(video) if isinstance(video, str | Path) else video
    if video is not None:
        require_file(video.path)
    check_output(path, force=force, source=video.path if video else None)
    copy = plan_copy(video, suffix) if suffix in VIDEO_MUXERS and video is not None else None
    return OutputPlan(path, force, copy)


class AudioWriter:
    """Writes sound as it arrives, into a file that appears when the `with` block ends well.

    mp4, mkv, mov and webm get a copy of the video stream. Raises OutputError; on any exception,
    Ctrl-C included, nothing is left behind.
    """

    def __init__(self, plan: OutputPlan, sample_rate_hz: int) -> None:
        self.path = plan.path
        self.sample_rate_hz = sample_rate_hz
        self.num_samples = 0
        self._plan = plan
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            self._part = resources.enter_context(whole_file(self.path, force=self._plan.force))
            self._open(self._plan.copy, resources)
            self._resources = resources.pop_all()
        return self

    def _open(self, plan: CopyPlan | None, resources: ExitStack) -> None:
        suffix = self.path.suffix.lower()
        chosen = _FORMATS[suffix]
        more = {} if plan is None else plan.form.options
        with writing(self.path):
            # bitexact: no random serial numbers, so the same sound gives the same bytes.
            options = {"fflags": "+bitexact", **_muxer_options(suffix, self.sample_rate_hz), **more}
            container = av.open(f"file:{self._part}", "w", format=chosen.muxer, options=options)
        self._container: OutputContainer = container
        self._copy: VideoCopy | None = None
        resources.callback(_close_quietly, container)
        if plan is not None:
            self._copy = resources.enter_context(copied_video(container, plan, self.path))
        self._stream = _add_audio_stream(container, chosen, self.sample_rate_hz)

    def write(self, samples: NDArray[np.float32]) -> None:
        """Appends samples [S], float32, -1 to 1. Raises OptionError for another shape."""
        _check_shape(samples)
        second = self.sample_rate_hz
        with writing(self.path):
            for begin in range(0, len(samples), second):
                self._write_second(samples[begin : begin + second])

    def _write_second(self, samples: NDArray[np.float32]) -> None:
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples, np.float32)[None], format="flt", layout="mono"
        )
        frame.sample_rate = self.sample_rate_hz
        frame.pts = self.num_samples
        frame.time_base = Fraction(1, self.sample_rate_hz)
        self.num_samples += len(samples)
        if self._copy is not None:
            self._copy.advance(Fraction(self.num_samples, self.sample_rate_hz))
        self._container.mux(self._stream.encode(frame))

    def _finish(self) -> None:
        with writing(self.path):
            if self._copy is not None:
                self._copy.advance(None)
            self._container.mux(self._stream.encode(None))
            self._container.close()
            if self._copy is not None and self._copy.end_s is not None:
                hide_after(self._part, self._copy.end_s)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._resources.__exit__(kind, error, trace)
            return
        with self._resources:
            self._finish()


def _check_shape(samples: NDArray[np.float32]) -> None:
    shape = np.shape(samples)
    if len(shape) != 1:
        raise OptionError(
            f"samples have the shape {list(shape)}, expected one dimension, [S], of mono sound; "
            "pass one channel, such as samples.mean(axis=0) of [channels, S]"
        )


def _add_audio_stream(container: OutputContainer, chosen: _Format, rate_hz: int) -> AudioStream:
    """A mono stream at the sound's own rate, or 48 kHz where the codec does not know it."""
    known = av.Codec(chosen.codec, "w").audio_rates
    rate = rate_hz if known is None or rate_hz in known else 48_000
    stream = container.add_stream(chosen.codec, rate=rate, layout="mono")
    assert isinstance(stream, AudioStream), f"{chosen.codec} is not an audio codec"
    if chosen.bit_rate:
        stream.bit_rate = chosen.bit_rate
    return stream


def _muxer_options(suffix: str, rate_hz: int) -> dict[str, str]:
    if suffix == ".wav":
        return {"rf64": "auto"}  # beyond 4 GiB
    if suffix in (".m4a", ".mp4", ".mov"):
        return {"movie_timescale": str(rate_hz)}  # lengths to the sample, not the millisecond
    return {}


def _close_quietly(container: OutputContainer) -> None:
    """Releases the file of a failed write; the failure itself is already on its way."""
    try:
        container.close()
    except (OSError, ValueError):
        pass
