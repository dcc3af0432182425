"""A part of a sound made anew, or a sound that goes on: what the model sees of the video, and what
of the sound is known to it.

It sees the part of the video around what is to be made, one window where that is enough, and is
given the tokens of all else there.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from vab_rt.audio import Audio
from vab_rt.config import ModelConfig
from vab_rt.engines import Engine
from vab_rt.errors import MediaWarning, OptionError
from vab_rt.resampling import resample
from vab_rt.sampling_arguments import Tokens
from vab_rt.seconds import check_part_of_sound, told_s
from vab_rt.splicing import Edit
from vab_rt.systems import System
from vab_rt.systems.vab import Encode, Vab
from vab_rt.take import Take, name_of
from vab_rt.video import Video

Samples = npt.NDArray[np.float32]

SAME_LENGTH_S = 0.1
"""Containers round the length of a video; a sound that differs by more is not of it."""
CONTEXT_S = 1.0
"""At least so much is heard on both sides of what is made anew."""


@dataclass(frozen=True)
class Editor:
    """What a model changes sounds with. seen_s: seconds that it sees of a shorter selection."""

    system: Vab
    encode: Encode
    seen_s: float

    def plan_regeneration(
        self, video: Video, sound: Audio, part_s: tuple[float, float | None]
    ) -> Edit:
        """The plan for seconds `part_s` of a sound of this video, None is its end. Raises
        OptionError."""
        c = self.system.codec_config
        video = selected(video, sound.take)
        _require_length(video, sound)
        if sound.take is not None:
            _require_same_file(video, sound.take)
        lead, sound = self._compared(video, sound)
        start_s, end_s = check_part_of_sound(*part_s, sound.duration_s, 1 / c.hop_rate_hz)
        begin = int((start_s * c.sample_rate_hz + lead) // c.hop_samples)
        total = ceil((sound.duration_s * c.sample_rate_hz + lead) / c.hop_samples)
        end = min(ceil((end_s * c.sample_rate_hz + lead) / c.hop_samples), total)
        first, until = (0, total) if lead else _surroundings(begin, end, total, c)
        known = _known(sound, lead, first, until, c, self.encode)
        known[:, begin - first : end - first] = c.mask_id
        stop = None if until == total else until
        seen = _part_of(video, first, stop, c)
        return Edit(c, sound, video, seen, first, stop, begin, end, lead, known)

    def plan_continuation(self, video: Video, sound: Audio) -> Edit:
        """The plan to go on from a sound that is the beginning of a video's. Raises OptionError;
        warns MediaWarning of one that was made for another beginning."""
        c, found_s = self.system.codec_config, sound.duration_s
        if sound.take is not None:
            _tell_other_beginning(video, sound.take)
        lead, sound = self._compared(video, sound)
        if video.expected_s is not None and found_s >= video.expected_s:
            raise OptionError(
                f"the sound to go on from is {told_s(found_s)} s long, expected less than the "
                f"{told_s(video.expected_s)} s of {video.path}; choose a shorter one"
            )
        # The last whole hop is where old and new are joined.
        begin = int((found_s * c.sample_rate_hz + lead) // c.hop_samples) - 1
        if begin * c.hop_samples < max(lead, 1):
            raise OptionError(
                f"the sound to go on from is {told_s(found_s)} s long, expected at least "
                f"{told_s(2 / c.hop_rate_hz)} s; choose a longer one"
            )
        first = 0 if lead else _aligned(max(0, begin - c.num_hops // 2), c)
        known = _known(sound, lead, first, begin, c, self.encode)[:, : begin - first]
        seen = _part_of(video, first, None, c)
        return Edit(c, sound, video, seen, first, None, begin, None, lead, known)

    def _compared(self, video: Video, sound: Audio) -> tuple[int, Audio]:
        """Samples that the model sees before the selection; and the sound, without tokens that are
        of other samples. Raises OptionError for those of another model."""
        take, lead = sound.take, self.system.config.samples_in(video.lead_s(self.seen_s))
        if take is not None and take.codec_sha256 != self.system.codec_sha256:
            raise OptionError(
                f"the sound has tokens of the model {take.model}, expected those of "
                f"{self.system.config.name} as it is here; load that model, or take the file "
                "beside the sound away, so that it is taken as any sound"
            )
        if take is not None and take.mix != "replace":
            raise OptionError(
                f"the sound was mixed with the video's own ({take.mix}), expected the generated "
                "one alone; generate it without the mix, and mix the result"
            )
        if take is not None:
            _require_tokens(take, self.system.codec_config)
        if take is not None and take.lead_samples != lead:
            sound = msgspec.structs.replace(sound, take=None)
        return lead, sound


def open_editor(
    system: System[Any], open_encoder: Callable[[], Engine] | None, seen_s: float
) -> Editor:
    """open_encoder: gives codec_encoder, and is asked when that is needed. Raises OptionError for a
    model that has no tokens."""
    if not isinstance(system, Vab):
        raise OptionError(
            f"model {system.config.name} makes its sound without tokens, expected one that "
            "decodes tokens to change a part of a sound; choose another model"
        )

    def encode(sound: Samples) -> Tokens:
        if open_encoder is None:
            raise OptionError("ready engines came without codec_encoder, expected one for sounds")
        tokens: Tokens = open_encoder()(audio=sound[None])[0]
        return tokens

    return Editor(system, encode, seen_s)


def selected(video: Video, take: Take | None) -> Video:
    """The part of the video that a sound is of. Raises OptionError for two of them."""
    if take is None or (video.start_s, video.duration_s) == (take.start_s, take.duration_s):
        return video
    if video.start_s or video.duration_s is not None:
        raise OptionError(
            f"the video starts at {told_s(video.start_s)} s for {video.duration_s} s, expected "
            f"{told_s(take.start_s)} s for {take.duration_s} s as the sound was made; "
            "give the path alone"
        )
    return Video(video.path, take.start_s, take.duration_s)


def _require_tokens(take: Take, config: ModelConfig) -> None:
    c, largest = config, int(take.tokens.max())
    if len(take.tokens) != c.num_codebooks or not 0 <= take.tokens.min() <= largest < c.mask_id:
        raise OptionError(
            f"the file beside the sound has {len(take.tokens)} codebooks and holds the token "
            f"{largest}, expected {c.num_codebooks} of 0 to {c.mask_id - 1}; take it away"
        )


def _is_same_file(video: Video, take: Take) -> bool:
    """By name or size: a file may be renamed, and a film be encoded again."""
    return name_of(video.path) == take.video or video.info.size_bytes == take.video_bytes


def _require_same_file(video: Video, take: Take) -> None:
    if not _is_same_file(video, take):
        raise OptionError(
            f"the sound was made for {take.video}, expected one of {video.path}; name the video "
            "that it was made for, or take the file beside the sound away"
        )


def _tell_other_beginning(video: Video, take: Take) -> None:
    """Warns MediaWarning: a film may have become longer, or have been cut at its beginning."""
    if not _is_same_file(video, take) or video.start_s != take.start_s:
        message = (
            f"the sound was made for {take.video} from {told_s(take.start_s)} s on, and goes on "
            f"as the beginning of {video.path} from {told_s(video.start_s)} s on"
        )
        warnings.warn(message, MediaWarning, stacklevel=4)


def _require_length(video: Video, sound: Audio) -> None:
    expected = video.expected_s
    found: float | None = sound.duration_s
    if sound.take is not None:  # which knows what the container said then, true or not
        found = expected if sound.take.video_s is None else sound.take.video_s
    if found is not None and expected is not None and abs(found - expected) > SAME_LENGTH_S:
        raise OptionError(
            f"the sound is of a video of {told_s(found)} s, expected the {told_s(expected)} s of "
            f"{video.path}; name the video that it was made for"
        )


def _surroundings(begin: int, end: int, total: int, config: ModelConfig) -> tuple[int, int]:
    """The first hop that the model sees, and the one where it stops: one window around hops
    `begin` to `end` where there is room for some context, else as many as it takes."""
    c, context = config, round(CONTEXT_S * config.hop_rate_hz)
    if total <= c.num_hops:
        return 0, total
    room = c.num_hops - (end - begin)
    if room < 2 * context:
        return _aligned(max(0, begin - context), c), min(end + context, total)
    first = _aligned(max(0, begin - room // 2), c)
    if first + c.num_hops < total:
        return first, first + c.num_hops
    return -_aligned(c.num_hops - total, c), total


def _aligned(hop: int, config: ModelConfig) -> int:
    """A hop at or before this one at which the model's images fall where they fell before."""
    rate = Fraction(config.visual_rate_hz).limit_denominator(1000)
    frames = rate * config.hop_samples / config.sample_rate_hz / config.image_stride  # in a hop
    grid = frames.denominator if frames.denominator <= config.num_hops // 4 else 1
    return hop // grid * grid


def _part_of(video: Video, first: int, until: int | None, config: ModelConfig) -> Video:
    at_s = first / config.hop_rate_hz
    length_s = None if video.duration_s is None else video.duration_s - at_s
    if until is not None:
        length_s = (until - first) / config.hop_rate_hz
    return Video(video.path, video.start_s + at_s, length_s) if at_s or until else video


def _known(
    sound: Audio, lead: int, first: int, until: int, config: ModelConfig, encode: Encode
) -> Tokens:
    """The sound's tokens [K, T] from a hop to a hop: its own, or else what the codec hears in it,
    where that is whole hops."""
    c = config
    if sound.take is not None:
        return sound.take.tokens[:, first : max(until, first + c.num_hops)].copy()
    samples = resample(sound.samples, sound.sample_rate_hz, c.sample_rate_hz)
    heard = np.concatenate([np.zeros(lead, np.float32), samples])[first * c.hop_samples :]
    heard = heard[: (until - first) * c.hop_samples]
    num_whole = len(heard) // c.hop_samples
    clips = np.pad(heard, (0, -len(heard) % c.num_samples)).reshape(-1, c.num_samples)
    tokens = np.concatenate([encode(clip) for clip in clips], 1)[:, : until - first]
    tokens[:, num_whole:] = c.mask_id
    if not first:
        tokens[:, : ceil(lead / c.hop_samples)] = c.mask_id
    return tokens
