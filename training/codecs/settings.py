"""How the codecs are trained: the weights of their losses, their batches and rates."""

from typing import Any, Literal

import msgspec

from training.codecs.codec import read_settings
from vab_rt.errors import OptionError

OF_OUTPUT = ("waveform", "mel", "log_mel", "convergence", "level", "adversarial", "features")
BEFORE_OUTPUT = ("magnitude", "frequency", "energies", "commitment")
SHORTEST_CROP_S = 0.2  # longer than the longest window of spectra and discriminator


class CodecTraining(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How EnCodec is trained: by default as in arXiv:2210.13438 at 24 kHz, where that says it.

    The first lines are weights of losses; one of weight 0 is not computed. balanced: the weights of
    losses on the output are shares of the gradient there, not factors.
    energies: of levels and envelope, of a codec that learns its latents; encoder_share: of the rate
    at which its encoder learns. sizes, bands, spectra_floor: of `MultiScaleSpectra`.
    steps: a budget instead of minutes.
    discriminator_from: the progress, 0 to 1, from which it takes part; 1 leaves it out.
    discriminator_share: of the steps in which it learns too. max_norm: of the gradient, 0 for any.
    fit_clips: whose frames the codebooks begin with. dead_below: see `codebooks.follow`.
    precision: of the networks; auto is bfloat16 where the CPU computes it faster.
    """

    waveform: float = 0.1
    mel: float = 1.0
    log_mel: float = 0.0
    convergence: float = 0.0
    level: float = 0.0
    adversarial: float = 3.0
    features: float = 3.0
    magnitude: float = 0.0
    frequency: float = 0.0
    energies: float = 0.0
    commitment: float = 1.0
    balanced: bool = True
    sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    bands: int = 64
    spectra_floor: float = 1e-3
    batch: int = 64
    crop_s: float = 1.0
    peak_rate: float = 3e-4
    encoder_share: float = 1.0
    betas: tuple[float, float] = (0.5, 0.9)
    weight_decay: float = 0.0
    max_norm: float = 0.0
    average: float = 0.99
    steps: int | None = None
    discriminator_from: float = 0.0
    discriminator_share: float = 2 / 3
    discriminator_filters: int = 32
    fit_clips: int = 20
    dead_below: float = 0.1
    precision: Literal["auto", "fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if self.crop_s < SHORTEST_CROP_S:
            raise OptionError(f"crop_s is {self.crop_s}, expected at least {SHORTEST_CROP_S}")
        if not 0 < self.dead_below < 1:
            raise OptionError(f"dead_below is {self.dead_below}, expected more than 0, less than 1")
        if min(self.weights.values()) < 0 or not any(self.weights[n] for n in OF_OUTPUT[:5]):
            raise OptionError(
                f"the weights of the losses are {self.weights}, expected 0 or more, and one of "
                f"{', '.join(OF_OUTPUT[:5])} above 0"
            )

    @property
    def weights(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in OF_OUTPUT + BEFORE_OUTPUT}


class SpectralTraining(CodecTraining, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the spectral codec is trained.

    No waveform loss: its tokens do not hold the phase, so that one would only take level away. No
    commitment: there is no encoder that could commit. Without the discriminator by default, as its
    steps take a CPU too long.
    """

    waveform: float = 0.0
    mel: float = 0.0
    log_mel: float = 2.0
    convergence: float = 1.0
    level: float = 2.0
    adversarial: float = 0.1
    features: float = 0.2
    magnitude: float = 1.0
    frequency: float = 1.0
    commitment: float = 0.0
    balanced: bool = False
    sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    bands: int = 80
    batch: int = 16
    peak_rate: float = 1e-3
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 1e-5
    max_norm: float = 1.0
    average: float = 0.998
    discriminator_from: float = 1.0
    fit_clips: int = 300
    precision: Literal["auto", "fp32", "bf16"] = "auto"


def read_training(codec: str, found: dict[str, Any] | None = None) -> CodecTraining:
    """The settings of a codec's training, those in `found` changed. Raises OptionError."""
    return read_settings(found, SpectralTraining if codec == "spectral" else CodecTraining)
