"""The kinds of bundles: the keys of their manifests, and what follows from them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from vab_rt.config import (
    ClipConfig,
    CoarseToFineOptions,
    ModelConfig,
    TokenOptions,
    Tuning,
    fill_in,
)
from vab_rt.contract import BACKBONES, GraphContract, pair_contract_of, v2a_contract_of
from vab_rt.errors import BundleError
from vab_rt.v2a_config import LatentOptions, V2AConfig

Variant = Literal["fp32", "fp16", "bf16", "fp8"]
"""What graphs beside the main ones compute in, for devices that run them better. fp8: products in
8-bit floats, the rest in fp16."""
_OF_CLIPS = tuple(fact for fact in ClipConfig.__struct_fields__ if fact != "name")
_OF_STREAMS = ("image_stride", "motion_dim", "motion_reach")
SHARED_FACTS = (*_OF_CLIPS, *_OF_STREAMS, "codec", "codebook_size", "code_dim")
"""What a coarse and a fine model have in common."""


class GraphEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One graph: its file, and its inputs and outputs."""

    file: str
    contract: GraphContract


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file must be. sha256: 64 lower-case hexadecimal digits."""

    size_bytes: int
    sha256: str


class Manifest(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """The content of vab.json, whatever its kind.

    options: what the model recommends where the caller leaves a choice open.
    """

    format_version: int
    kind: str
    model: ClipConfig
    options: Tuning = Tuning()
    precision: Literal["fp32", "int8"]
    graphs: dict[str, GraphEntry]
    variants: dict[Variant, dict[str, GraphEntry]] = {}
    files: dict[str, FileEntry]
    licence: str
    provenance: dict[str, str]

    def facts(self) -> Iterator[tuple[str, str]]:
        """Name and value of what people should know of a model of this kind."""
        c = self.model
        yield "sound", f"{c.sample_rate_hz} Hz mono, {c.clip_s:g} s at a time"
        yield (
            "frames",
            f"{c.visual_rate_hz:g} a second, {c.image_size} pixels ({c.image_encoder})",
        )


class VabManifest(Manifest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A transformer that decodes tokens, between an image encoder and a codec; and a second one
    where the first decodes the coarse codebooks alone."""

    model: ModelConfig
    fine: ModelConfig | None = None

    def __post_init__(self) -> None:
        check_pair(self.model, self.fine)

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        c = self.fine or self.model
        if c.motion_dim:
            yield (
                "motion",
                f"{c.motion_dim} of {c.visual_dim} numbers, images 1 in {c.image_stride}",
            )
        yield (
            "tokens",
            (
                f"{c.num_codebooks} x {c.num_token_steps} of {c.codebook_size} "
                f"({c.codec}, {c.token_rate_hz:g} Hz, hop {c.hop_samples})"
            ),
        )
        yield "backbone", _sizes(self.model)
        if self.fine is not None:
            predicts = f"predicts all codebooks but the first {self.fine.given_codebooks}"
            yield "fine backbone", f"{_sizes(self.fine)}, {predicts}"

    @property
    def defaults(self) -> TokenOptions:
        own = TokenOptions() if self.fine is None else CoarseToFineOptions()
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


def _sizes(c: ModelConfig) -> str:
    return (
        f"width {c.width}, {c.layers} layers ({c.expert_layers} with experts), {c.heads} heads, "
        f"distance by {c.alibi}"
    )


class V2AManifest(Manifest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapper between an image encoder and AudioLDM, which denoises latents of spectrograms."""

    model: V2AConfig

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        c, steps = self.model, self.defaults.steps
        yield (
            "latents",
            (
                f"{c.latent_channels} x {c.num_hops} x {c.num_rows} of {c.num_mels} mels "
                f"({c.hop_rate_hz:g} Hz, hop {c.hop_samples}), {steps} steps of {c.timesteps}"
            ),
        )
        sizes = f"{c.visual_dim} to {c.audio_dim}, {c.aggregator} of the pictures"
        how = f", {c.mapper_steps} steps" if c.mapper == "prior" else ""
        yield "mapper", f"{c.mapper}, {sizes}{how}"

    @property
    def defaults(self) -> LatentOptions:
        return fill_in(self.options, LatentOptions(), self.model.name)


@dataclass(frozen=True)
class Kind:
    """What follows from the `kind` of a manifest. The system itself is `vab_rt.systems.KIND`.

    contracts: of all graphs that a bundle with this manifest may hold. unneeded: those that it may
    lack, as generating does without. stepped: those that run many times in a row on the same
    arrays.
    """

    manifest: type[Manifest]
    contracts: Callable[[Any], dict[str, GraphContract]]
    unneeded: tuple[str, ...] = ()
    stepped: tuple[str, ...] = ()


def vab_contracts(manifest: VabManifest) -> dict[str, GraphContract]:
    return pair_contract_of(manifest.model, manifest.fine)


def v2a_contracts(manifest: V2AManifest) -> dict[str, GraphContract]:
    return v2a_contract_of(manifest.model)


KINDS: dict[str, Kind] = {
    "vab": Kind(VabManifest, vab_contracts, unneeded=("codec_encoder",), stepped=BACKBONES),
    "v2a-mapper": Kind(V2AManifest, v2a_contracts),
}


def kind_of(config: ClipConfig) -> str:
    """The kind whose `model` has this type."""
    types = {fields_of(kind.manifest)["model"]: name for name, kind in KINDS.items()}
    return types[type(config)]


def contracts_of(manifest: Manifest) -> dict[str, GraphContract]:
    """By name, of every graph that a bundle with this manifest may hold."""
    return KINDS[manifest.kind].contracts(manifest)


def needed_graphs(manifest: Manifest) -> list[str]:
    """The graphs that generating takes, in the order in which they run."""
    unneeded = KINDS[manifest.kind].unneeded
    return [name for name in contracts_of(manifest) if name not in unneeded]


def fields_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The type of each field."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}
