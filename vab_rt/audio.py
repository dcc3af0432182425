"""Sound, as it is generated and as files hold it."""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from vab_rt.audio_file import AudioWriter, check_shape, plan_output
from vab_rt.delivery import Delivery
from vab_rt.errors import MediaError, OptionError
from vab_rt.formats import untold_delay
from vab_rt.options import number
from vab_rt.paths import as_path
from vab_rt.sounds import read_sound
from vab_rt.take import Take, read_take
from vab_rt.video import VideoLike

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
        check_shape(self.samples)
        kind = np.asarray(self.samples).dtype
        if not np.issubdtype(kind, np.floating):
            raise OptionError(
                f"samples are {kind}, expected floats from -1 to 1; divide 16-bit ones by 32768"
            )
        msgspec.structs.force_setattr(self, "samples", np.asarray(self.samples, np.float32))
        expected = "samples a second, such as 16000"
        rate_hz = number("sample_rate_hz", self.sample_rate_hz, int, 1, 2**31 - 1, expected)
        msgspec.structs.force_setattr(self, "sample_rate_hz", rate_hz)

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
        path = as_path("path", path, "the name of a sound file")
        channels, rate_hz = read_sound(path)
        samples = channels.mean(0, dtype=np.float32)
        if np.abs(channels - samples).max(initial=0) > _SAME_CHANNELS:
            take = read_take(path)
            advice = "mix it down first"
            if take is not None and take.mix != "replace":
                advice = "generate it without the mix, and mix the result"
            raise MediaError(
                f"{path} has {len(channels)} different channels, expected mono sound; {advice}"
            )
        if not len(samples):
            raise MediaError(f"{path} has no samples, expected some sound; choose another file")
        if not np.isfinite(samples).all():
            raise MediaError(
                f"{path} has samples that are NaN or infinite, expected -1 to 1; save it again"
            )
        take = read_take(path)
        if take is None:
            return cls(samples, rate_hz)
        begin = untold_delay(path)
        end = begin + round(take.num_samples * rate_hz / take.sample_rate_hz)  # a codec may pad it
        return cls(samples[begin:end], rate_hz, seed=take.seed, take=take)

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return len(self.samples) / self.sample_rate_hz

    def save(
        self,
        path: str | Path,
        *,
        video: VideoLike | None = None,
        force: bool = False,
        take: bool = True,
        delivery: Delivery | None = None,
    ) -> None:
        """Writes a file; its suffix chooses the format: wav, flac, mp3, m4a, ogg, opus, aac, aiff,
        mka, or mp4, mov, m4v, mkv, webm and avi, which get a copy of the video stream.

        - video: the input, which no output may overwrite; the latter need it.
        - force: replace a file that exists.
        - delivery: rate, channels, loudness and the like; None is as the format has it.
        - take: keep what it was made of beside it, in NAME.vab.json, so that a part can be made
          anew later.

        Raises OutputError, MediaError, OptionError.
        """
        kept = self.take if take else None
        plan = plan_output(
            path, video=video, force=force, delivery=delivery, keeps_take=kept is not None
        )
        with AudioWriter(plan, self.sample_rate_hz) as file:
            file.write(self.samples)
        if kept is not None:
            file.keep(kept)
