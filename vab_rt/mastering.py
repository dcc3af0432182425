"""From a model's sound to a file's, in pieces: gain, rate, mix, fades, loudness, headroom."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from vab_rt.delivery import Delivery
from vab_rt.errors import MediaWarning, OptionError
from vab_rt.loudness import CEILING, OVERSAMPLED_CEILING, Limiter, Meter
from vab_rt.mixing import Mixture
from vab_rt.resampling import Resampling
from vab_rt.video import Video

Samples = NDArray[np.float32]
_TOLD_LU = 0.5
_ALL_BUT_SILENT_LUFS = -50.0  # what a sound without events has, that nobody wants raised
_MOST_GIVEN_BACK_DB = 1.0  # of what the limiter takes; more would be heard


class _Stage(Protocol):
    def add(self, samples: Samples, *, is_last: bool) -> Samples: ...


class Mastering:
    """A model's sound [S] in, a file's [C, S] out.

    video: whose own sound is mixed in, where the delivery says so. Sound whose loudness is set is
    held in a file without a name beside `path` until all of it is known.
    """

    def __init__(
        self,
        delivery: Delivery,
        video: Video | None,
        path: Path,
        *,
        from_hz: int,
        to_hz: int,
        num_channels: int,
        is_lossless: bool,
    ) -> None:
        self.gain_db = delivery.gain_db
        """of the model's sound; with the one of the loudness, once all sound is there"""
        self._path, self._delivery = path, delivery
        self._rate_hz, self._num_channels = to_hz, num_channels
        self._gain = np.float32(10 ** (delivery.gain_db / 20))
        mixed = None if delivery.mix == "replace" else video
        self._stages: list[_Stage] = []
        self._resources = ExitStack()
        if from_hz != to_hz:
            self._stages.append(Resampling(from_hz, to_hz, 1))
        if mixed is not None:
            mixture = Mixture(mixed, delivery.mix, to_hz, num_channels)
            self._stages.append(self._resources.enter_context(closing(mixture)))
        if delivery.fade_s:
            self._stages.append(_Fades(round(delivery.fade_s * to_hz)))
        self._spool: _Spool | None = None
        if delivery.loudness_lufs is not None:
            file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  # closed below
            self._resources.callback(file.close)
            self._spool = _Spool(file, to_hz, num_channels)
        # What is encoded with losses may overshoot.
        is_smooth = to_hz >= 2 * from_hz and mixed is None and is_lossless
        is_louder = from_hz != to_hz or delivery.gain_db or mixed is not None
        self._ceiling = OVERSAMPLED_CEILING if is_smooth else CEILING
        self._limiter = Limiter(to_hz, self._ceiling) if is_louder else None

    def add(self, samples: Samples) -> Samples:
        """What is ready of the sound so far."""
        return self._limited(self._staged(samples[None]))

    def rest(self) -> Iterator[Samples]:
        """Everything that is left. Raises OptionError for silence whose loudness is to be set."""
        end = self._staged(np.zeros((1, 0), np.float32), is_last=True)
        if self._spool is None:
            yield self._limited(end, is_last=True)
        else:
            yield from self._levelled(self._spool, end)

    def close(self) -> None:
        self._resources.close()

    def _staged(self, sound: Samples, *, is_last: bool = False) -> Samples:
        sound = sound if self._gain == 1 else sound * self._gain
        for stage in self._stages:
            sound = stage.add(sound, is_last=is_last)
        return sound

    def _limited(self, sound: Samples, *, is_last: bool = False) -> Samples:
        if self._spool is not None:
            self._spool.add(_wide(sound, self._num_channels))
            return np.zeros((self._num_channels, 0), np.float32)
        if self._limiter is not None:
            sound = self._limiter.add(sound, is_last=is_last)
        return _wide(sound, self._num_channels)

    def _levelled(self, spool: "_Spool", end: Samples) -> Iterator[Samples]:
        target, gain_db = self._delivery.loudness_lufs, 0.0
        assert target is not None, "there is a spool for no other sound"
        spool.add(_wide(end, self._num_channels))
        name = self._path.name
        for _ in range(2):  # how much of a quiet sound counts depends on its level
            found = self._lufs(spool.pieces(gain_db))
            if found is None:
                raise OptionError(
                    f"loudness is {target:g} LUFS, but the sound is silent, or shorter than 0.4 s, "
                    "expected some that has a loudness; leave it out"
                )
            if not gain_db and found < min(target, _ALL_BUT_SILENT_LUFS):
                message = f"{name} was all but silent ({found:.0f} LUFS): what is raised is noise"
                warnings.warn(message, MediaWarning, stacklevel=2)
            gain_db += target - found
        taken_db = target - (self._lufs(self._with_headroom(spool.pieces(gain_db))) or target)
        if taken_db <= _MOST_GIVEN_BACK_DB:
            gain_db += taken_db
        self.gain_db += gain_db
        after = Meter(self._rate_hz, self._num_channels)
        for ready in self._with_headroom(spool.pieces(gain_db)):
            after.add(ready)
            yield ready
        heard = after.lufs()
        if heard is not None and abs(heard - target) > _TOLD_LU:
            message = f"{name} has {heard:.1f} LUFS and not {target:g}"
            warnings.warn(f"{message}: its peaks leave no more room", MediaWarning, stacklevel=2)

    def _with_headroom(self, pieces: Iterator[Samples]) -> Iterator[Samples]:
        limiter = Limiter(self._rate_hz, self._ceiling)
        for piece in pieces:
            yield limiter.add(piece, is_last=piece.shape[-1] == 0)

    def _lufs(self, pieces: Iterator[Samples]) -> float | None:
        meter = Meter(self._rate_hz, self._num_channels)
        for piece in pieces:
            meter.add(piece)
        return meter.lufs()


class _Fades:
    """The first samples come within so many, the last ones go."""

    def __init__(self, num_samples: int) -> None:
        self._ramp: Samples = ((np.arange(num_samples) + 0.5) / num_samples).astype(np.float32)
        self._num_in = 0
        self._kept: Samples | None = None

    def add(self, samples: Samples, *, is_last: bool) -> Samples:
        sound = samples.copy()
        coming = self._ramp[self._num_in : self._num_in + sound.shape[-1]]
        sound[..., : len(coming)] *= coming
        self._num_in += sound.shape[-1]
        if self._kept is not None:
            sound = np.concatenate([self._kept, sound], -1)
        num_kept = min(len(self._ramp), sound.shape[-1])
        ready, self._kept = np.split(sound, [sound.shape[-1] - num_kept], -1)
        if not is_last:
            return ready
        going = self._ramp[::-1][len(self._ramp) - num_kept :]
        return np.concatenate([ready, self._kept * going], -1)


class _Spool:
    """Sound [C, S] in a file."""

    def __init__(self, file: IO[bytes], rate_hz: int, num_channels: int) -> None:
        self._file = file
        self._form = (rate_hz, num_channels)

    def add(self, sound: Samples) -> None:
        self._file.write(np.ascontiguousarray(sound.T).tobytes())

    def pieces(self, gain_db: float) -> Iterator[Samples]:
        """A second each, the last one empty."""
        rate_hz, num_channels = self._form
        gain = np.float32(10 ** (gain_db / 20))
        self._file.seek(0)
        while data := self._file.read(4 * rate_hz * num_channels):
            yield np.frombuffer(data, np.float32).reshape(-1, num_channels).T * gain
        yield np.zeros((num_channels, 0), np.float32)


def _wide(sound: Samples, num_channels: int) -> Samples:
    """[1 or C, S] as [C, S]: the same sound in all."""
    return sound if len(sound) == num_channels else np.repeat(sound, num_channels, 0)
