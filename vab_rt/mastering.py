"""From a model's sound to a file's, in pieces: gain, rate, mix, fades, loudness, headroom."""

import tempfile
import warnings
from collections.abc import Iterator
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
    ) -> None:
        self.gain_db = delivery.gain_db
        """of the model's sound; with the one of the loudness, once all sound is there"""
        self._path, self._delivery = path, delivery
        self._rate_hz, self._num_channels = to_hz, num_channels
        self._gain = np.float32(10 ** (delivery.gain_db / 20))
        is_mixed = delivery.mix != "replace" and video is not None
        self._stages: list[_Stage] = []
        if from_hz != to_hz:
            self._stages.append(Resampling(from_hz, to_hz, 1))
        if is_mixed and video is not None:
            self._stages.append(Mixture(video, delivery.mix, to_hz, num_channels))
        if delivery.fade_s:
            self._stages.append(_Fades(round(delivery.fade_s * to_hz)))
        self._spool: _Spool | None = None
        if delivery.loudness_lufs is not None:
            self._spool = _Spool(path.parent, to_hz, num_channels)
        is_smooth = to_hz >= 2 * from_hz and not is_mixed
        is_louder = from_hz != to_hz or delivery.gain_db or is_mixed or self._spool is not None
        ceiling = OVERSAMPLED_CEILING if is_smooth else CEILING
        self._limiter = Limiter(to_hz, ceiling) if is_louder else None

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
        target, limiter = self._delivery.loudness_lufs, self._limiter
        assert target is not None and limiter is not None, "there is a spool for no other sound"
        spool.add(_wide(end, self._num_channels))
        gain_db = 0.0
        for _ in range(2):  # how much of a quiet sound counts depends on its level
            found = spool.lufs(gain_db)
            if found is None:
                raise OptionError(
                    f"loudness is {target:g} LUFS, but the sound is silent, or shorter than 0.4 s, "
                    "expected some that has a loudness; leave it out"
                )
            gain_db += target - found
        self.gain_db += gain_db
        after = Meter(self._rate_hz, self._num_channels)
        for piece in spool.pieces(gain_db):
            ready = limiter.add(piece, is_last=piece.shape[-1] == 0)
            after.add(ready)
            yield ready
        heard = after.lufs()
        if heard is not None and abs(heard - target) > _TOLD_LU:
            message = f"{self._path.name} has {heard:.1f} LUFS and not {target:g}"
            warnings.warn(f"{message}: its peaks leave no more room", MediaWarning, stacklevel=2)


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
    """Sound [C, S] on disk, in a file that is gone with the process."""

    def __init__(self, folder: Path, rate_hz: int, num_channels: int) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # as long as this
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

    def lufs(self, gain_db: float) -> float | None:
        """None of silence."""
        meter = Meter(*self._form)
        for piece in self.pieces(gain_db):
            meter.add(piece)
        return meter.lufs()


def _wide(sound: Samples, num_channels: int) -> Samples:
    """[1 or C, S] as [C, S]: the same sound in all."""
    return sound if len(sound) == num_channels else np.repeat(sound, num_channels, 0)
