"""The manifest, vab.json: its keys, and what follows from its kind. docs/BUNDLE.md specifies it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from vab_rt.config import ClipConfig, ModelConfig, TokenOptions, Tuning, fill_in
from vab_rt.contract import GraphContract, contract_of, v2a_contract_of
from vab_rt.errors import BundleError, VabError
from vab_rt.v2a_config import LatentOptions, V2AConfig

FORMAT_VERSION = 1
MANIFEST = "vab.json"
Variant = Literal["fp32", "fp16", "bf16", "fp8"]
"""What graphs beside the main ones compute in, for devices that run them better. fp8: products in
8-bit floats, the rest in fp16."""

EXPORT = "export the model again with: python -m export.build_engines CHECKPOINT"
COPY = "copy the bundle again from where it came"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class GraphEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One graph: its file, and its inputs and outputs."""

    file: str
    contract: GraphContract


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file must be. sha256: 64 lower-case hexadecimal digits."""

    size_bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
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
            "pictures",
            f"{c.visual_rate_hz:g} a second, {c.image_size} pixels ({c.image_encoder})",
        )


class VabManifest(Manifest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A transformer that decodes tokens, between an image encoder and a codec."""

    model: ModelConfig

    def facts(self) -> Iterator[tuple[str, str]]:
        yield from super().facts()
        c = self.model
        yield (
            "tokens",
            (
                f"{c.num_codebooks} x {c.num_token_steps} of {c.codebook_size} "
                f"({c.codec}, {c.token_rate_hz:g} Hz, hop {c.hop_samples})"
            ),
        )
        yield (
            "backbone",
            (
                f"width {c.width}, {c.layers} layers ({c.expert_layers} with experts), "
                f"{c.heads} heads, distance by {c.alibi}"
            ),
        )

    @property
    def defaults(self) -> TokenOptions:
        return fill_in(self.options, TokenOptions(), self.model.name)


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
    return contract_of(manifest.model)


def v2a_contracts(manifest: V2AManifest) -> dict[str, GraphContract]:
    return v2a_contract_of(manifest.model)


KINDS: dict[str, Kind] = {
    "vab": Kind(VabManifest, vab_contracts, unneeded=("codec_encoder",), stepped=("backbone",)),
    "v2a-mapper": Kind(V2AManifest, v2a_contracts),
}


def kind_of(config: ClipConfig) -> str:
    """The kind whose `model` has this type."""
    types = {_fields(kind.manifest)["model"]: name for name, kind in KINDS.items()}
    return types[type(config)]


def contracts_of(manifest: Manifest) -> dict[str, GraphContract]:
    """By name, of every graph that a bundle with this manifest may hold."""
    return KINDS[manifest.kind].contracts(manifest)


def needed_graphs(manifest: Manifest) -> list[str]:
    """The graphs that generating takes, in the order in which they run."""
    unneeded = KINDS[manifest.kind].unneeded
    return [name for name in contracts_of(manifest) if name not in unneeded]


def decode_manifest(path: Path, content: bytes) -> Manifest:
    """The manifest that these bytes of `path` hold, checked as far as it goes without the files.

    Raises BundleError that names the key, what was found, and what was expected.
    """
    kind = _check_head(path, content)
    try:
        manifest = msgspec.json.decode(content, type=kind.manifest)
    except msgspec.ValidationError as error:
        expected = _expected(error, kind.manifest)
        raise BundleError(f"{path}: {error}; expected {expected}; {EXPORT}") from error
    except VabError as error:
        raise BundleError(f"{path}: {error}; {EXPORT}") from error
    _check_graphs(path, manifest)
    for file, entry in manifest.files.items():
        _check_entry(path, file, entry)
    return manifest


class _Version(msgspec.Struct):
    format_version: int


class _Kind(msgspec.Struct):
    kind: str


def _check_head(path: Path, content: bytes) -> Kind:
    """First of all, as another version or kind may have other keys."""
    try:
        found = msgspec.json.decode(content, type=_Version).format_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"{path} is not a manifest ({error}), expected JSON with a format_version; {COPY}"
        ) from error
    if found != FORMAT_VERSION:
        what = "upgrade with: pip install --upgrade vab-rt" if found > FORMAT_VERSION else EXPORT
        raise BundleError(
            f"{path} has format_version {found}, expected {FORMAT_VERSION}, the only one that "
            f"this version reads; {what}"
        )
    kinds = f"one of {', '.join(KINDS)}"
    try:
        name = msgspec.json.decode(content, type=_Kind).kind
    except msgspec.ValidationError as error:
        raise BundleError(f"{path}: {error}; expected {kinds}; {EXPORT}") from error
    if name not in KINDS:
        raise BundleError(f"{path} has the kind {name!r}, expected {kinds}; {EXPORT}")
    return KINDS[name]


def _expected(error: msgspec.ValidationError, manifest: type[Manifest]) -> str:
    """The keys allowed, or the type of the value, at the place where decoding stopped."""
    where = re.search(r"at `\$(.*)`$", str(error))
    kind: Any = manifest
    for key in re.findall(r"\.(\w+)|\[", where[1] if where else ""):
        kind = _fields(kind)[key] if key else _struct_in(get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        kind = _struct_in(get_args(kind))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return "the keys " + ", ".join(kind.__struct_fields__)
    is_choice = get_origin(kind) is Literal
    return f"one of {', '.join(get_args(kind))}" if is_choice else "a value of that type"


def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def _struct_in(choices: tuple[Any, ...]) -> Any:
    """What an element of a container is, or an optional value that is there."""
    return next(kind for kind in reversed(choices) if kind not in (..., type(None)))


def _check_graphs(path: Path, manifest: Manifest) -> None:
    contracts, needed = contracts_of(manifest), needed_graphs(manifest)
    missing = [name for name in needed if name not in manifest.graphs]
    if missing:
        raise BundleError(
            f"{path} has no graph {missing[0]}, expected {', '.join(needed)}; {EXPORT}"
        )
    graphs: list[Mapping[str, GraphEntry]] = [manifest.graphs, *manifest.variants.values()]
    for name, graph in chain.from_iterable(group.items() for group in graphs):
        if name not in contracts:
            raise BundleError(
                f"{path} has a graph {name!r}, expected only {', '.join(contracts)}; {EXPORT}"
            )
        if graph.contract != contracts[name]:
            raise BundleError(
                f"{path}: the contract of graph {name} is {graph.contract}, expected "
                f"{contracts[name]} for this model; {EXPORT}"
            )
        if graph.file not in manifest.files:
            raise BundleError(
                f"{path}: graph {name} is in {graph.file!r}, expected a name listed under files "
                f"({', '.join(manifest.files)}); {EXPORT}"
            )


def _check_entry(path: Path, file: str, entry: FileEntry) -> None:
    if not _FILE_NAME.fullmatch(file) or file == MANIFEST:
        raise BundleError(
            f"{path} names the file {file!r}, expected a plain name inside the folder (letters, "
            "digits, '.', '_', '-', not first a '.'); do not use this bundle"
        )
    if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256) or entry.size_bytes < 1:
        raise BundleError(
            f"{path}: {file} has size_bytes {entry.size_bytes} and sha256 {entry.sha256!r}, "
            f"expected at least 1 and 64 hexadecimal digits; {EXPORT}"
        )
