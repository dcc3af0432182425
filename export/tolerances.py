"""How far from torch is allowed: beyond it no graph is written, and the bench times nothing."""

from typing import NamedTuple


class Tolerance(NamedTuple):
    """relative: the largest difference, as a share of the largest value."""

    relative: float
    reason: str


TOLERANCES = {
    "visual_encoder": Tolerance(5e-5, "float32 sums in another order; EVA02-L-14 has 2e-6"),
    "motion_encoder": Tolerance(5e-5, "float32 sums in another order"),
    "backbone": Tolerance(5e-5, "float32 sums in another order; the default has 4e-6"),
    "fine_backbone": Tolerance(5e-5, "the same"),
    "codec_decoder": Tolerance(5e-5, "the same; the spectral codec is under phases"),
    "phases": Tolerance(
        2e-3,
        "sines of hundreds of added-up phases: a codec trained for minutes has 5e-4 in one sample, "
        "5e-5 in all (torch's own float32 is 1e-4 off its float64); the shipped have 1e-5",
    ),
    "codec_encoder": Tolerance(1e-4, "tokens are equal, but where two codes are this equally near"),
    "mapper": Tolerance(5e-5, "float32 sums in another order, through up to 12 layers"),
    "unet": Tolerance(5e-5, "the same; a tiny one has 1e-6"),
    "vae_decoder": Tolerance(5e-5, "the same; a tiny one has 3e-6"),
    "vocoder": Tolerance(5e-5, "the same; a tiny one has 3e-6"),
    "rounded": Tolerance(1e-2, "rounding to 16 bits goes either way where sums differ; 4e-5"),
    "fp16": Tolerance(0.5, "as for int8"),
    "bf16": Tolerance(0.5, "as for int8"),
    "fp8": Tolerance(0.5, "as for int8"),
    "int8": Tolerance(0.5, "a loss is expected and reported; this only refuses nonsense"),
}
