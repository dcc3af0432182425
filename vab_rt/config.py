"""Facts of an exported model: what it sees, and the sound that it makes. Every rate and length
derives here."""

from typing import Literal

import msgspec

from vab_rt.errors import BundleError

MOTION_FRAMES = 50
"""Features that one call of a motion encoder gives; a fixed shape suits every backend."""
MAX_GUIDANCE = 100.0


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
    """Facts of one exported transformer, read from its manifest.

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
