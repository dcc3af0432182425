"""Files of sound: alone, or beside a copied video."""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import msgspec
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from numpy.typing import NDArray

from vab_rt.containers import BOXED
from vab_rt.delivery import VIDEO_MUXERS, Delivery
from vab_rt.edit_list import hide_after
from vab_rt.errors import OptionError, OutputError
from vab_rt.formats import SOUND_SUFFIXES, Format, format_of, rate_in
from vab_rt.mastering import Mastering
from vab_rt.mixing import require_sound
from vab_rt.muxing import CopyPlan, VideoCopy, copied_video, plan_copy
from vab_rt.options import check_kind
from vab_rt.output import check_output, require_file_name, whole_file, writing
from vab_rt.paths import as_path
from vab_rt.resampling import LAYOUTS, frame_of
from vab_rt.source import require_file
from vab_rt.take import Take, path_of
from vab_rt.video import Video, VideoLike, as_video


@dataclass(frozen=True)
class OutputPlan:
    """A file that can be written. copy: how a video gets into it; None where it holds sound alone.
    mixed: the video whose own sound does, too."""

    path: Path
    force: bool
    delivery: Delivery
    form: Format
    num_channels: int
    copy: CopyPlan | None
    mixed: Video | None


def plan_output(
    path: str | Path,
    *,
    video: VideoLike | None = None,
    force: bool = False,
    delivery: Delivery | None = None,
    keeps_take: bool = False,
) -> OutputPlan:
    """For one AudioWriter. video: what the sound belongs to, which no format may overwrite.
    keeps_take: a take will lie beside the file.

    Raises OutputError unless this file can be written: suffix, folder, and the video's codec;
    OptionError for a delivery that it cannot have; MediaError when there is no video to begin with.
    """
    path = as_path("path", path, "the name of a file, such as out.wav")
    delivery = Delivery() if delivery is None else delivery
    check_kind("delivery", delivery, Delivery, "vab_rt.Delivery")
    require_file_name(path)
    form, suffix = format_of(path, delivery), path.suffix.lower()
    if suffix in VIDEO_MUXERS and video is None:
        raise OutputError(
            f"{path} is a video file, expected a video to copy into it; "
            f"name one, or write {', '.join(SOUND_SUFFIXES[:-1])} or {SOUND_SUFFIXES[-1]}"
        )
    video = None if video is None else as_video(video)
    if video is not None:
        require_file(video.path)
    source = video.path if video else None
    check_output(path, force=force, source=source)
    if keeps_take:
        check_output(path_of(path), force=True, source=source)
    mixed = None if delivery.mix == "replace" else _with_sound(video, delivery)
    num_channels = 1 if mixed is None else require_sound(mixed)
    copy = None
    if suffix in VIDEO_MUXERS and video is not None:
        copy = plan_copy(video, suffix, keeps_sound=mixed is not None)
    return OutputPlan(
        path, force, delivery, form, delivery.num_channels or num_channels, copy, mixed
    )


def _with_sound(video: Video | None, delivery: Delivery) -> Video:
    if video is None:
        raise OptionError(
            f"mix is {delivery.mix}, but no video is there, expected one whose sound is mixed in; "
            "name it, or leave mix out"
        )
    return video


class AudioWriter:
    """Writes sound as it arrives, into a file that appears when the `with` block ends well.

    Video files get a copy of the video stream. Raises OutputError; on any exception, Ctrl-C
    included, nothing is left behind.
    """

    def __init__(self, plan: OutputPlan, sample_rate_hz: int) -> None:
        self.path = plan.path
        self.sample_rate_hz = sample_rate_hz
        self.num_samples = 0
        """written so far, at `sample_rate_hz`"""
        self._plan = plan
        self.rate_hz = rate_in(
            plan.form, plan.delivery, sample_rate_hz, has_video=plan.copy is not None
        )
        """samples a second of the file"""
        self._num_encoded = 0  # at rate_hz
        self._resources = ExitStack()

    @property
    def gain_db(self) -> float:
        """Between what was written and the file, once the `with` block has ended: the gain that was
        asked for, and the one that set the loudness."""
        return self._mastering.gain_db

    def __enter__(self) -> Self:
        plan = self._plan
        with ExitStack() as resources:
            self._part = resources.enter_context(whole_file(self.path, force=plan.force))
            self._open(plan.copy, resources)
            with writing(self.path):
                self._mastering = Mastering(
                    plan.delivery,
                    plan.mixed,
                    self._part.with_name(self.path.name),
                    from_hz=self.sample_rate_hz,
                    to_hz=self.rate_hz,
                    num_channels=plan.num_channels,
                    is_lossless=not plan.form.bit_rate,
                )
            resources.callback(self._mastering.close)
            self._resources = resources.pop_all()
        return self

    def _open(self, plan: CopyPlan | None, resources: ExitStack) -> None:
        suffix, form = self.path.suffix.lower(), self._plan.form
        more = {} if plan is None else plan.form.options
        with writing(self.path):
            # bitexact: no random serial numbers, so the same sound gives the same bytes.
            options = {"fflags": "+bitexact", **_muxer_options(suffix, self.rate_hz), **more}
            container = av.open(f"file:{self._part}", "w", format=form.muxer, options=options)
        self._container: OutputContainer = container
        self._copy: VideoCopy | None = None
        resources.callback(_close_quietly, container)
        if plan is not None:
            self._copy = resources.enter_context(copied_video(container, plan, self.path))
        self._stream = _add_audio_stream(container, form, self.rate_hz, self._plan.num_channels)

    def write(self, samples: NDArray[np.float32]) -> None:
        """Appends samples [S], float32, -1 to 1. OptionError: another shape, NaN, infinity."""
        check_shape(samples)
        second = self.sample_rate_hz
        with writing(self.path):
            for begin in range(0, len(samples), second):
                piece = np.asarray(samples[begin : begin + second], np.float32)
                _check_finite(piece)
                self.num_samples += len(piece)
                self._encode(self._mastering.add(piece))

    def keep(self, take: Take) -> None:
        """What the sound was made of, beside the file, once the `with` block has ended."""
        delivery, gain_db = self._plan.delivery, take.gain_db + self.gain_db
        fade_s = max(take.fade_s, delivery.fade_s)
        take = msgspec.structs.replace(take, gain_db=gain_db, fade_s=fade_s, mix=delivery.mix)
        take.save(self.path)

    def _encode(self, sound: NDArray[np.float32]) -> None:
        """sound: [C, S], as the file has it."""
        if not sound.shape[-1]:
            return
        frame = frame_of(sound, self.rate_hz, self._num_encoded)
        self._num_encoded += sound.shape[-1]
        if self._copy is not None:
            self._copy.advance(Fraction(self._num_encoded, self.rate_hz))
        self._container.mux(self._stream.encode(frame))

    def _finish(self) -> None:
        with writing(self.path):
            for sound in self._mastering.rest():
                self._encode(sound)
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
        with suppress(OSError):  # of the sound before; what stays is noticed when it is read
            path_of(self.path).unlink()


def check_shape(samples: NDArray[np.float32]) -> None:
    """Raises OptionError for what is not mono."""
    shape = np.shape(samples)
    if len(shape) != 1:
        raise OptionError(
            f"samples have the shape {list(shape)}, expected one dimension, [S], of mono sound; "
            "pass one channel, such as samples.mean(axis=0) of [channels, S]"
        )


def _check_finite(samples: NDArray[np.float32]) -> None:
    if not np.isfinite(samples).all():
        raise OptionError(
            "samples are NaN or infinite, expected -1 to 1; look at what they were computed from"
        )


def _add_audio_stream(
    container: OutputContainer, form: Format, rate_hz: int, num_channels: int
) -> AudioStream:
    stream = container.add_stream(form.codec, rate=rate_hz, layout=LAYOUTS[num_channels])
    assert isinstance(stream, AudioStream), f"{form.codec} is not an audio codec"
    if form.bit_rate:
        stream.bit_rate = form.bit_rate * num_channels
    return stream


def _muxer_options(suffix: str, rate_hz: int) -> dict[str, str]:
    if suffix == ".wav":
        return {"rf64": "auto"}  # beyond 4 GiB
    if suffix == ".m4a" or suffix in BOXED:
        return {"movie_timescale": str(rate_hz)}  # lengths to the sample, not the millisecond
    return {}


def _close_quietly(container: OutputContainer) -> None:
    """Releases the file of a failed write; the failure itself is already on its way."""
    try:
        container.close()
    except (OSError, ValueError):
        pass
