"""VAB: a transformer fills in all audio tokens in a few parallel steps, a codec makes sound of them
(paper section 3). In two stages where a second transformer has the fine codebooks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.config import ModelConfig
from vab_rt.contract import VabManifest
from vab_rt.decoding import guided
from vab_rt.engines import Engines
from vab_rt.errors import OptionError
from vab_rt.options import COARSE_TO_FINE, GenerateOptions, TokenOptions, fill_in
from vab_rt.sampling_arguments import Tokens
from vab_rt.seeing import encode_images, encode_two_streams, given_kinds
from vab_rt.windows import Window

if TYPE_CHECKING:  # features can do without the library that reads videos
    from vab_rt.video import Frame

# The fine stage draws other numbers than the coarse one: its seeds are those and this.
FINE_SEED = 0xBF58476D1CE4E5B9

Encode = Callable[[npt.NDArray[np.float32]], Tokens]
"""Sound [S] of a clip to tokens [K, T], by the codec."""


class Said(NamedTuple):
    """Logarithms of the probabilities of every token [K, T, V] before any is known."""

    with_features: npt.NDArray[np.float32]
    without: npt.NDArray[np.float32]

    @property
    def gains(self) -> npt.NDArray[np.float32]:
        """How much likelier what is seen makes each token, in nats."""
        return self.with_features - self.without


@dataclass(frozen=True)
class Vab:
    """`engines` has the graphs visual_encoder, backbone and codec_decoder, and motion_encoder where
    the model has motion. Its state is tokens [B, K, T], where V is [MASK]."""

    config: ModelConfig
    engines: Engines
    defaults: TokenOptions = field(default_factory=TokenOptions)
    codec_sha256: str = ""
    """of the codec_decoder: tokens of another say other things"""

    stages = ("tokens", "codec")

    def see(self, frames: "Iterator[Frame]") -> Iterator[npt.NDArray[np.float32]]:
        """Features [visual_dim] of a video's frames, one each."""
        images = self.engines["visual_encoder"]
        if not self.config.motion_dim:
            return encode_images(frames, images)
        return encode_two_streams(frames, images, self.engines["motion_encoder"], self.config)

    @property
    def codec_config(self) -> ModelConfig:
        """The config of the model that has all of the codec's codebooks."""
        return self.config

    def options(self, overrides: GenerateOptions) -> TokenOptions:
        """The caller's overrides, and the model's own where there are none."""
        options = fill_in(overrides, self.defaults, f"model {self.config.name}")
        for config in (self.config, self.codec_config):
            check_guidance(options.guidance, config)
        return options

    def num_steps(self, options: TokenOptions) -> int:
        return options.steps + (options.fine_steps or 0)

    def decode(
        self,
        window: Window,
        previous: Tokens | None,
        options: TokenOptions,
        given: Tokens | None = None,
    ) -> Iterator[tuple[int, Tokens]]:
        """The tokens [1, K, T] of one window, step by step; on a GPU the last of a stage alone.

        given: tokens [K, T], of which those that are not [MASK] stay, but for those that the window
        shares with the one before.
        """
        seeds = np.array([window.seed(options.seed)], np.uint64)
        tokens = carry_over(previous, self.codec_config)
        if given is not None:
            tokens = np.where(tokens == self.config.mask_id, given, tokens)
        features = given_kinds(window.features, options.kinds, self.config)
        return self.decode_tokens(features[None], tokens, seeds, options)

    def said(self, features: npt.NDArray[np.float32], kinds: tuple[str, ...] = ()) -> Said:
        """What the model says of every token with features [F, visual_dim], and without."""
        c = self.config
        nothing = np.full((1, c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
        seen = given_kinds(features, kinds, c)[None]
        with_, without = guided(self.engines["backbone"], {"features": seen}, (1.0, 0.0))(nothing)
        assert without is not None
        return Said(_log_softmax(with_[0]), _log_softmax(without[0]))

    def likelihood(
        self, features: npt.NDArray[np.float32], tokens: Tokens
    ) -> npt.NDArray[np.float64]:
        """How much likelier each of tokens [N, K, T] is with features [F, visual_dim] than without
        [N]: nats a token, more is better. Of the coarse codebooks where there are two stages."""
        return mean_gains(self.said(features).gains, tokens)

    def decode_tokens(
        self,
        features: npt.NDArray[np.float32],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: TokenOptions,
    ) -> Iterator[tuple[int, Tokens]]:
        """Fill the [MASK] positions of tokens [B, K, T] to fit features [B, F, visual_dim].

        seeds [B]. Yields (step, tokens), on a GPU the last of a stage alone; each clip gets the
        tokens it would get alone.
        """
        given = {"features": features}
        branches = self.config.branches(options.guidance)
        return self.engines.decode_tokens("backbone", given, tokens, seeds, options, branches)

    def render(self, state: Tokens) -> npt.NDArray[np.float32]:
        return self.engines["codec_decoder"](tokens=state)


@dataclass(frozen=True, kw_only=True)
class CoarseToFine(Vab):
    """Two stages: `config` is of the coarse model, and `engines` has a graph fine_backbone too
    (paper section 3.3, equation 3).

    The fine codebooks of its state are [MASK] until the coarse ones are finished.
    """

    fine_config: ModelConfig
    defaults: TokenOptions = COARSE_TO_FINE

    @property
    def codec_config(self) -> ModelConfig:
        return self.fine_config

    def decode_tokens(
        self,
        features: npt.NDArray[np.float32],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: TokenOptions,
    ) -> Iterator[tuple[int, Tokens]]:
        start, fine = np.split(tokens, [self.config.num_codebooks], axis=1)
        coarse = start
        for step, coarse in super().decode_tokens(features, start, seeds, options):
            yield step, np.concatenate([coarse, fine], 1)
        for step, whole in self.decode_fine(features, coarse, fine, seeds, options):
            yield options.steps + step, whole

    def decode_fine(
        self,
        features: npt.NDArray[np.float32],
        coarse: Tokens,
        fine: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: TokenOptions,
    ) -> Iterator[tuple[int, Tokens]]:
        """The second stage alone: coarse tokens stay, fine ones are filled in where [MASK].

        seeds [B]: as the first stage has them. Yields (fine step, tokens [B, K, T] of all
        codebooks).
        """
        stage = msgspec.structs.replace(options, steps=options.fine_steps)
        given = {"coarse": coarse, "features": features}
        own_seeds = seeds + np.uint64(FINE_SEED)  # modulo 2**64
        branches = self.fine_config.branches(options.guidance)
        decoding = self.engines.decode_tokens(
            "fine_backbone", given, fine, own_seeds, stage, branches
        )
        for step, filled in decoding:
            yield step, np.concatenate([coarse, filled], 1)


def check_guidance(guidance: float, config: ModelConfig) -> None:
    """Raises OptionError for one that a model which is guided in one pass has not learned."""
    most = config.max_guidance
    if most and not 1 <= guidance <= most:
        raise OptionError(
            f"guidance is {guidance:g}, expected 1 to {most:g} for model {config.name}, which has "
            "learned to be guided in one pass so far; choose another, or the model that it was "
            "made of"
        )


def mean_gains(
    gains: npt.NDArray[np.float32], tokens: npt.NDArray[np.integer[Any]]
) -> npt.NDArray[np.float64]:
    """The mean of gains [K, T, V] over each of tokens [N, K or more, T] [N]."""
    num_codebooks, num_steps, _ = gains.shape
    books, steps = np.ogrid[:num_codebooks, :num_steps]
    found = gains[books, steps, tokens[:, :num_codebooks]]  # [N, K, T]
    mean: npt.NDArray[np.float64] = found.mean(axis=(1, 2), dtype=np.float64)
    return mean


def _log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    x = logits - logits.max(-1, keepdims=True)
    normalised: npt.NDArray[np.float32] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return normalised


def open_system(bundle: Bundle, engines: Engines) -> Vab:
    """In one stage or two, as the bundle has them."""
    manifest = bundle.manifest
    assert isinstance(manifest, VabManifest), manifest.kind
    guidance = manifest.defaults.guidance
    engines.warm_up("backbone", manifest.model.branches(guidance))
    sha256 = manifest.files[manifest.graphs["codec_decoder"].file].sha256
    if manifest.fine is None:
        return Vab(manifest.model, engines, manifest.defaults, sha256)
    engines.warm_up("fine_backbone", manifest.fine.branches(guidance))
    return CoarseToFine(
        manifest.model,
        engines,
        defaults=manifest.defaults,
        codec_sha256=sha256,
        fine_config=manifest.fine,
    )


def facts_of(manifest: VabManifest) -> Iterator[tuple[str, str]]:
    """Name and value of what people should know of such a model."""
    c = manifest.fine or manifest.model
    if c.motion_dim:
        yield "motion", f"{c.motion_dim} of {c.visual_dim} numbers, images 1 in {c.image_stride}"
    tokens = f"{c.num_codebooks} x {c.num_token_steps} of {c.codebook_size}"
    yield "tokens", f"{tokens} ({c.codec}, {c.hop_rate_hz:g} Hz, hop {c.hop_samples})"
    yield "backbone", _sizes(manifest.model)
    if manifest.fine is not None:
        predicts = f"predicts all codebooks but the first {c.given_codebooks}"
        yield "fine backbone", f"{_sizes(c)}, {predicts}"


def _sizes(c: ModelConfig) -> str:
    return (
        f"width {c.width}, {c.layers} layers ({c.expert_layers} with experts), {c.heads} heads, "
        f"distance by {c.alibi}"
    )


def carry_over(previous: Tokens | None, config: ModelConfig) -> Tokens:
    """Tokens [1, K, T] for a window to start from: those it shares with the one before, else V.

    They are given to the decoder as known.
    """
    shape = (1, config.num_codebooks, config.num_token_steps)
    tokens = np.full(shape, config.mask_id, np.int32)
    if previous is not None:
        shared = config.num_overlap_hops
        tokens[..., :shared] = previous[..., config.num_token_steps - shared :]
    return tokens
