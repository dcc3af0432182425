"""A part of a sound between what stays: what of it the model is given, and how the new is set into
the old.

Samples outside are never rendered again: a codec that accumulates phase would change them to the
end of the sound.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from vab_rt.audio import Audio
from vab_rt.config import ModelConfig
from vab_rt.loudness import Limiter
from vab_rt.resampling import resample
from vab_rt.sampling_arguments import Tokens
from vab_rt.take import Take
from vab_rt.video import Video
from vab_rt.windows import Window, blend

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Edit:
    """Hops `begin` to `end` of a sound are made anew. Hops count from where the model's tokens
    begin, `lead` samples before the sound."""

    config: ModelConfig
    sound: Audio
    video: Video
    """what the sound is of"""
    seen: Video
    """the part of it that the model sees"""
    first: int
    """the hop where that begins"""
    until: int | None
    """the hop where it ends; None: with the video"""
    begin: int
    end: int | None
    """None: the sound goes on to the end of the video"""
    lead: int
    known: Tokens
    """[K, T] from `first` on, [MASK] where the sound is to be made"""

    def given(self, window: Window) -> Tokens:
        """Tokens [K, T] of a window, [MASK] where none are known."""
        c = self.config
        start = window.index * (c.num_hops - c.num_overlap_hops)
        tokens = np.full((c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
        known = self.known[:, start : start + c.num_token_steps]
        tokens[:, : known.shape[1]] = known
        return tokens

    def splice(self, made: Samples, take: Take) -> Audio:
        """The sound with its part out of `made` [S], all that the model heard, whose take it was.

        The new is joined to the old within a hop at both ends.
        """
        c, rate_hz, old = self.config, self.sound.sample_rate_hz, self.sound.samples
        gain_db = 0.0 if self.sound.take is None else self.sound.take.gain_db
        made = resample(made, c.sample_rate_hz, rate_hz) * np.float32(10 ** (gain_db / 20))
        if gain_db > 0:  # as the old was, which was limited then
            made = Limiter(rate_hz).add(made, is_last=True)
        at, begin = self._sample(self.first), self._sample(self.begin)
        end = at + len(made) if self.end is None else min(self._sample(self.end), len(old))
        new = made[begin - at : end - at].copy()
        new *= self._fade(np.arange(begin, begin + len(new)), max(len(old), begin + len(new)))
        hop = min(round(c.hop_samples * rate_hz / c.sample_rate_hz), len(new) // 2)
        if begin:
            new[:hop] = blend(old[begin : begin + hop], new[:hop])
        if end < len(old):
            new[len(new) - hop :] = blend(new[len(new) - hop :], old[end - hop : end])
        samples = np.concatenate([old[:begin], new, old[begin + len(new) :]])
        return Audio(samples, rate_hz, take=self._take(take, len(samples)))

    def _fade(self, at: npt.NDArray[np.int64], num_samples: int) -> Samples:
        """The gain of samples `at` by which the old sound came and goes."""
        fade_s = 0.0 if self.sound.take is None or self.end is None else self.sound.take.fade_s
        if not fade_s:
            return np.ones(len(at), np.float32)
        length = max(1, round(fade_s * self.sound.sample_rate_hz))
        inside = np.minimum(at, num_samples - 1 - at) + 0.5
        return np.minimum(1, inside / length).astype(np.float32)

    def _take(self, made: Take, num_samples: int) -> Take | None:
        """The take of the whole sound, from that of what the model heard."""
        c, old = self.config, self.sound.take
        if old is None and (self.first or self.until is not None):
            return None  # nobody has the tokens of what lies before and after
        tokens = made.tokens
        if old is not None and self.first:
            tokens = np.concatenate([old.tokens[:, : self.first], tokens], 1)
        if old is not None and self.until is not None:
            tokens = np.concatenate([tokens[:, : self.until], old.tokens[:, self.until :]], 1)
        return msgspec.structs.replace(
            made,
            tokens=tokens,
            start_s=self.video.start_s,
            duration_s=self.video.duration_s,
            video_s=self.video.expected_s,
            num_samples=round(num_samples * c.sample_rate_hz / self.sound.sample_rate_hz),
            lead_samples=self.lead,
            gain_db=0.0 if old is None else old.gain_db,
            fade_s=0.0 if old is None or self.end is None else old.fade_s,
        )

    def _sample(self, hop: int) -> int:
        """The sound's sample, at its own rate, where a hop begins."""
        at_s = (hop * self.config.hop_samples - self.lead) / self.config.sample_rate_hz
        return max(0, round(at_s * self.sound.sample_rate_hz))
