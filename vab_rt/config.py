"""The two kinds of settings: fields of a model, and overrides of a caller. Never mixed."""

import difflib
import numbers
import os
import reprlib
import sys
from typing import Any, Literal, TypeVar

import msgspec

from vab_rt.errors import BundleError, OptionError
from vab_rt.paths import as_path

MOTION_FRAMES = 50
"""Features that one call of a motion encoder gives; a fixed shape suits every backend."""
MAX_STEPS = 1024
MAX_GUIDANCE = 100.0
MAX_THREADS = 1024
_MAX_S = 1e9  # a longer part of a video is a mistake


class ClipConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts that every system has: what it sees, and the sound that it makes of it.

    Time is cut into hops: what a system decodes has one column a hop, such as one token step.
    """

    name: str
    image_encoder: str
    image_size: int
    visual_dim: int
    visual_rate_hz: float = 1.0
    clip_s: float = 10.0
    sample_rate_hz: int = 16_000
    hop_samples: int = 320

    def __post_init__(self) -> None:
        self.require_positive("image_size", "visual_dim", "sample_rate_hz", "hop_samples")
        if not 0 < self.visual_rate_hz <= 60 or not 0 < self.clip_s <= 600:
            raise BundleError(
                f"model visual_rate_hz {self.visual_rate_hz} and clip_s {self.clip_s}: "
                "expected 0 to 60 Hz and 0 to 600 s"
            )
        if self.num_hops < 1:
            raise BundleError(
                f"model clip_s is {self.clip_s}, expected at least one hop, "
                f"{1 / self.hop_rate_hz:g} s"
            )

    def require_positive(self, *fields: str) -> None:
        """Raises BundleError for a field below 1."""
        for field in fields:
            if getattr(self, field) < 1:
                raise BundleError(f"model {field} is {getattr(self, field)}, expected at least 1")

    @property
    def image_dim(self) -> int:
        """Numbers of a feature that come from the image encoder."""
        return self.visual_dim

    @property
    def frame_size(self) -> int:
        """Pixels of a side of the frames that are read, `visual_rate_hz` a second."""
        return self.image_size

    @property
    def large_stride(self) -> int:
        """One frame in so many is also read at image_size; 0: frames have that size themselves."""
        return 0

    @property
    def kind_names(self) -> tuple[str, ...]:
        """The names of the kinds that the model knows, where it has names for them."""
        return ()

    @property
    def num_frames(self) -> int:
        """F: visual features in one clip."""
        return max(1, round(self.clip_s * self.visual_rate_hz))

    @property
    def hop_rate_hz(self) -> float:
        return self.sample_rate_hz / self.hop_samples

    @property
    def num_hops(self) -> int:
        return round(self.clip_s * self.hop_rate_hz)

    @property
    def num_overlap_hops(self) -> int:
        """Hops that windows of a long video share with the one before: 30 % of a clip."""
        return round(0.3 * self.num_hops)

    @property
    def num_samples(self) -> int:
        """S: audio samples in one clip."""
        return self.num_hops * self.hop_samples

    def samples_in(self, duration_s: float) -> int:
        """Audio samples of a video this long."""
        return round(duration_s * self.sample_rate_hz)


class ModelConfig(ClipConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Facts of one exported transformer, read from its manifest. Every rate and length derives
    here and in ClipConfig.

    Letters used everywhere: F video frames, T token steps, K codebooks, V codebook size,
    D width, H heads, S samples (paper section 3 and table 7). The first given_codebooks are
    never predicted: a coarse-to-fine model reads them and fills in the others. With aligned_visual
    the features of the frames at a token step's own time are also added to its embedding.

    Two streams of seeing: the image encoder sees one frame in `image_stride`, and its features stay
    until the next; the last `motion_dim` numbers of a feature come from the motion encoder, which
    sees `motion_reach` frames before and after each, at `motion_size` pixels (0: image_size). The
    transformer's stream has one visual position for `image_stride` features, their mean.

    With `kinds` a feature begins with their probabilities, which add up to 1; the last of them
    stands for whatever is unknown or makes no sound.

    With `max_guidance` one pass gives logits that are guided already, by the scale that its input
    `conditional` holds, 1 to max_guidance (0: without the video). Otherwise that is 0 or 1.
    """

    codec: Literal["encodec", "dac", "spectral"]
    num_codebooks: int = 4
    codebook_size: int
    code_dim: int
    width: int
    layers: int
    expert_layers: int
    heads: int
    alibi: Literal["index", "time"] = "index"
    sinusoids: bool = False
    aligned_visual: bool = False
    given_codebooks: int = 0
    image_stride: int = 1
    motion_dim: int = 0
    motion_reach: int = 0
    motion_size: int = 0
    kinds: tuple[str, ...] = ()
    max_guidance: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive(
            "num_codebooks", "codebook_size", "code_dim", "width", "layers", "heads"
        )
        if not 0 <= self.expert_layers <= self.layers:
            raise BundleError(
                f"model expert_layers is {self.expert_layers}, expected 0 to layers ({self.layers})"
            )
        if not 0 <= self.given_codebooks < self.num_codebooks:
            raise BundleError(
                f"model given_codebooks is {self.given_codebooks}, expected 0 to num_codebooks - 1 "
                f"({self.num_codebooks - 1})"
            )
        if self.width % self.heads:
            raise BundleError(f"model width {self.width} is not a multiple of heads {self.heads}")
        if self.max_guidance and not 1 < self.max_guidance <= MAX_GUIDANCE:
            raise BundleError(
                f"model max_guidance is {self.max_guidance}, expected 0, or more than 1 and at "
                f"most {MAX_GUIDANCE:g}"
            )
        self._check_streams()
        self._check_kinds()

    def _check_streams(self) -> None:
        stride, motion, reach = self.image_stride, self.motion_dim, self.motion_reach
        if stride < 1 or self.num_frames % stride or MOTION_FRAMES % stride:
            raise BundleError(
                f"model image_stride is {stride}, expected a divisor of {self.num_frames}, the "
                f"frames of a clip, and of {MOTION_FRAMES}"
            )
        if not 0 <= motion < self.visual_dim or not 0 <= reach <= MOTION_FRAMES:
            raise BundleError(
                f"model motion_dim is {motion} and motion_reach {reach}, expected 0 to visual_dim "
                f"- 1 ({self.visual_dim - 1}) and 0 to {MOTION_FRAMES}"
            )
        if not 0 <= self.motion_size <= self.image_size or (self.motion_size and not motion):
            raise BundleError(
                f"model motion_size is {self.motion_size}, expected 0 to image_size "
                f"({self.image_size}), and 0 without motion_dim"
            )

    def _check_kinds(self) -> None:
        is_listed_once = len(set(self.kinds)) == len(self.kinds) and all(self.kinds)
        if not is_listed_once or len(self.kinds) > self.image_dim:
            raise BundleError(
                f"model kinds are {len(self.kinds)} names, expected different ones, none empty, "
                f"at most {self.image_dim} as an image feature has numbers"
            )

    @property
    def frame_size(self) -> int:
        return self.motion_size or self.image_size

    @property
    def large_stride(self) -> int:
        return self.image_stride if self.frame_size != self.image_size else 0

    @property
    def kind_names(self) -> tuple[str, ...]:
        return self.kinds

    @property
    def image_dim(self) -> int:
        return self.visual_dim - self.motion_dim

    def branches(self, guidance: float) -> tuple[float, ...]:
        """What `conditional` is in each pass of a step: one pass without guidance, and of a model
        whose logits are guided already; else one with and one without the video."""
        if guidance == 1:
            return (1.0,)
        return (guidance,) if self.max_guidance else (1.0, 0.0)

    @property
    def num_visual(self) -> int:
        """Visual positions in the transformer's stream."""
        return self.num_frames // self.image_stride

    @property
    def num_token_steps(self) -> int:
        """T: token steps in one clip."""
        return self.num_hops

    @property
    def mask_id(self) -> int:
        """The token id of [MASK]; the codebook holds 0 to V - 1."""
        return self.codebook_size


def _check(
    options: msgspec.Struct, kind: type[float], field: str, least: float, most: float, expected: str
) -> None:
    found = getattr(options, field)
    if found is not None:
        checked = number(field, found, kind, least, most, expected)
        msgspec.structs.force_setattr(options, field, checked)


def number(
    option: str, found: Any, kind: type[float], least: float, most: float, expected: str
) -> float:
    """The same as one of Python's own. Raises OptionError for another kind, or out of range."""
    is_number = isinstance(found, numbers.Integral if kind is int else numbers.Real)
    if not is_number:
        words = "a whole number" if kind is int else "a number"
        raise OptionError(f"{option} is {found!r}, expected {words}, {expected}")
    if not least <= found <= most:
        raise OptionError(f"{option} is {found}, expected {expected}")
    return found if isinstance(found, int | float) else kind(found)


def check_kind(option: str, found: Any, kind: type, expected: str) -> None:
    """Raises OptionError for what is of another kind."""
    if not isinstance(found, kind):
        raise OptionError(f"{option} is {reprlib.repr(found)}, expected {expected}")


def check_threads(threads: Any) -> int | None:
    """Raises OptionError."""
    if threads is None:
        return None
    return int(number("threads", threads, int, 1, MAX_THREADS, f"1 to {MAX_THREADS}"))


class Tuning(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """How a model decodes. None leaves a choice to the model. Raises OptionError."""

    steps: int | None = None
    """decoding steps, 1 to 1024: more is slower"""
    fine_steps: int | None = None
    """steps for the fine codebooks of a coarse-to-fine system, 1 to 1024"""
    guidance: float | None = None
    """classifier-free guidance scale, 0 to 100; 1 is off, and takes half the time"""
    temperature: float | None = None
    """of token sampling, 0.01 to 100: variety of the sound"""
    top_k: int | None = None
    """candidates for each token; 0 keeps all"""
    mask_temperature: float | None = None
    """of the Gumbel noise on confidences, 0 to 1000, annealed to 0: variety in the order"""

    def __post_init__(self) -> None:
        _check(self, int, "steps", 1, MAX_STEPS, f"1 to {MAX_STEPS}")
        _check(self, int, "fine_steps", 1, MAX_STEPS, f"1 to {MAX_STEPS}")
        _check(self, float, "guidance", 0, MAX_GUIDANCE, f"0 to {MAX_GUIDANCE:g}")
        _check(self, float, "temperature", 0.01, 100, "0.01 to 100")
        _check(self, int, "top_k", 0, 2**31 - 1, "0 (keep all) or more")
        _check(self, float, "mask_temperature", 0, 1000, "0 to 1000")

    def named(self) -> dict[str, Any]:
        """What is not left to the model."""
        return {key: x for key, x in msgspec.structs.asdict(self).items() if x is not None}


class GenerateOptions(
    Tuning, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=False
):
    """What the caller wants. What is left None is as the model has it. Raises OptionError."""

    seed: int = 0
    """0 to 2**64 - 1; the same seed and video give the same sound"""
    kinds: tuple[str, ...] = ()
    """what makes the sound, whatever is seen: names that the model knows; one may be a str"""
    library: str | None = None
    """a folder of recordings: those that fit are played, in time with what is seen"""
    library_strength: float = 0.5
    """how much of them is kept, 0 to 1"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.library is not None:  # a path is taken as well
            as_path("library", self.library, "a folder of recordings")
            msgspec.structs.force_setattr(self, "library", os.fspath(self.library))
        share = number("library_strength", self.library_strength, float, 0, 1, "0 to 1")
        msgspec.structs.force_setattr(self, "library_strength", share)
        if isinstance(self.kinds, str):
            msgspec.structs.force_setattr(self, "kinds", (self.kinds,))
        elif not isinstance(self.kinds, tuple | list) or not all(
            isinstance(kind, str) for kind in self.kinds
        ):
            raise OptionError(f"kinds is {self.kinds!r}, expected names, such as ('dog',)")
        else:
            msgspec.structs.force_setattr(self, "kinds", tuple(self.kinds))
        seed = number("seed", self.seed, int, 0, 2**64 - 1, "0 to 2**64 - 1")
        msgspec.structs.force_setattr(self, "seed", seed)

    def but(self, **fields: Any) -> "GenerateOptions":
        """The same with other fields. Raises OptionError for one that there is not."""
        for name in fields:
            if name not in self.__struct_fields__:
                part = name in ("start_s", "duration_s")
                raise OptionError(
                    f"{name} is no option, expected one of {', '.join(self.__struct_fields__)}; "
                    + (f"give vab_rt.Video(path, {name}=...)" if part else "check the spelling")
                )
        return msgspec.structs.replace(self, **fields)


class TokenOptions(GenerateOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The options of a system that decodes tokens, with nothing left open (paper section 4.1):
    fine_steps alone is None where there is no second stage.

    The defaults live here and nowhere else; a bundle may recommend others.
    """

    steps: int = 16
    guidance: float = 1.5
    temperature: float = 0.8
    top_k: int = 256
    mask_temperature: float = 10.5


COARSE_TO_FINE = TokenOptions(fine_steps=36)
"""The defaults of a system whose second model decodes the fine codebooks (paper section 4.1)."""


def overridden(options: GenerateOptions | None, fields: dict[str, Any]) -> GenerateOptions:
    """Options, but for what fields name. Raises OptionError."""
    options = GenerateOptions() if options is None else options
    check_kind("options", options, GenerateOptions, "vab_rt.GenerateOptions; or fields, as seed=7")
    return options.but(**fields)


def check_count(num_candidates: Any) -> int:
    """How many sounds of one video. Raises OptionError."""
    return int(number("num_candidates", num_candidates, int, 1, 32, "1 to 32"))


def check_part(start_s: Any, duration_s: Any) -> tuple[float, float | None]:
    """A part of a video, in seconds, as numbers. Raises OptionError."""
    start_s = number("start", start_s, float, 0, _MAX_S, "0 s or more, at most 1e9 s")
    if duration_s is not None:
        least, expected = sys.float_info.min, "more than 0 s, at most 1e9 s"
        duration_s = number("duration", duration_s, float, least, _MAX_S, expected)
    return start_s, duration_s


def check_top(top: Any) -> int:
    """How many files a search tells, at most. Raises OptionError."""
    return int(number("top", top, int, 1, 10_000, "1 to 10000"))


def check_kinds(kinds: tuple[str, ...], config: ClipConfig) -> None:
    """Raises OptionError for a kind that the model does not know."""
    for kind in kinds:
        if not kind:
            raise OptionError(
                "kind is '', expected a name; choose one that vab-rt kinds MODEL lists"
            )
        if not config.kind_names:
            raise OptionError(
                f"kind is {kind}, but model {config.name} has no names for what it sees, expected "
                "none; leave it out, or choose a model that has, such as real (vab-rt kinds real)"
            )
        if kind not in config.kind_names:
            near = difflib.get_close_matches(kind, config.kind_names, 3, 0.5)
            hint = f", such as {' or '.join(near)}" if near else ""
            raise OptionError(
                f"kind is {kind}, which {config.name} does not know, expected one that vab-rt "
                f"kinds MODEL lists{hint}"
            )


Options = TypeVar("Options", bound=GenerateOptions)


def fill_in(overrides: Tuning, defaults: Options, system: str) -> Options:
    """The defaults, but for what the overrides name.

    Raises OptionError for an override that the system does not know: it has no default for it.
    """
    named = overrides.named()
    known = [key for key in Tuning.__struct_fields__ if getattr(defaults, key) is not None]
    for key in Tuning.__struct_fields__:
        if key in named and key not in known:
            raise OptionError(
                f"{key} is {named[key]}, which {system} has no use for, expected one of "
                f"{', '.join(known)}; leave it out"
            )
    return msgspec.structs.replace(defaults, **named)
