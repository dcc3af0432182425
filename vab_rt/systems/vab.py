"""VAB: a transformer fills in all audio tokens in a few parallel steps, a codec makes sound of them
(paper section 3)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vab_rt.bundle import Bundle
from vab_rt.config import GenerateOptions, ModelConfig, TokenOptions, fill_in
from vab_rt.decoding import Tokens
from vab_rt.engines import Engine, Engines
from vab_rt.errors import BundleError
from vab_rt.manifest import VabManifest
from vab_rt.windows import Window


@dataclass(frozen=True)
class Vab:
    """`engines` has the graphs visual_encoder, backbone and codec_decoder. Its state is tokens
    [B, K, T], where V is [MASK]."""

    config: ModelConfig
    engines: Engines
    defaults: TokenOptions = field(default_factory=TokenOptions)

    stages = ("tokens", "codec")

    @property
    def device(self) -> str:
        return self.engines.device

    @property
    def visual_encoder(self) -> Engine:
        return self.engines["visual_encoder"]

    def options(self, wishes: GenerateOptions) -> TokenOptions:
        """The caller's wishes, and the model's own where there are none."""
        return fill_in(wishes, self.defaults, f"model {self.config.name}")

    def num_steps(self, options: GenerateOptions) -> int:
        return self.options(options).steps

    def decode(
        self, window: Window, previous: Tokens | None, options: GenerateOptions
    ) -> Iterator[tuple[int, Tokens]]:
        """The tokens [1, K, T] of one window, step by step; on a GPU the last step alone."""
        seeds = np.array([window.seed(options.seed)], np.uint64)
        tokens = carry_over(previous, self.config)
        return self.decode_tokens(window.features[None], tokens, seeds, options)

    def decode_tokens(
        self,
        features: npt.NDArray[np.float32],
        tokens: Tokens,
        seeds: npt.NDArray[np.uint64],
        options: GenerateOptions,
    ) -> Iterator[tuple[int, Tokens]]:
        """Fill the [MASK] positions of tokens [B, K, T] to fit features [B, F, visual_dim].

        seeds [B]. Yields (step, tokens), on a GPU the last alone; each clip gets the tokens it
        would get alone.
        """
        complete = self.options(options)
        return self.engines.decode_tokens("backbone", features, tokens, seeds, complete)

    def render(self, state: Tokens) -> npt.NDArray[np.float32]:
        return self.engines["codec_decoder"](tokens=state)


def open_system(bundle: Bundle, engines: Engines) -> Vab:
    """Raises BundleError for a model that only goes on from another's tokens."""
    manifest = bundle.manifest
    assert isinstance(manifest, VabManifest), manifest.kind
    if manifest.model.given_codebooks:
        raise BundleError(
            f"model {manifest.model.name} predicts only the codebooks after the first "
            f"{manifest.model.given_codebooks}, expected one that predicts all; a coarse-to-fine "
            "model cannot generate alone, load the coarse one"
        )
    engines.warm_up("backbone")
    return Vab(manifest.model, engines, manifest.defaults)


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
