"""The shards on disk: WebDataset tar files and their index. Written down in docs/DATA.md."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training.datasets.clips import TokenisedClips
from training.saving import write_whole
from vab_rt.config import ClipConfig, ModelConfig
from vab_rt.errors import DataError

INDEX = "shards.json"
_FACTS = (
    "codec",
    "image_encoder",
    "image_size",
    "visual_dim",
    "visual_rate_hz",
    "clip_s",
    "sample_rate_hz",
    "hop_samples",
    "num_codebooks",
    "codebook_size",
)
STREAMS = {"image_stride": 1, "motion_dim": 0, "motion_reach": 0, "motion_size": 0, "kinds": ()}
"""Facts of models with two streams of seeing, and what they are of all others, unsaid."""
_OF_CLIPS = tuple(fact for fact in _FACTS if fact in ClipConfig.__struct_fields__)
ShardName = Annotated[str, msgspec.Meta(pattern=r"^shard-[0-9]{6}\.tar$")]
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class ClipNotes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """KEY.json: where a clip is from. end_s - start_s is at most a clip; the rest is padding."""

    source: str
    start_s: float
    end_s: float
    labels: tuple[str, ...]


class Sample(msgspec.Struct, frozen=True):
    """One clip in a shard. tokens int16 [K, T]; features float16 [F, visual_dim]."""

    key: str
    tokens: NDArray[np.int16]
    features: NDArray[np.float16]
    notes: ClipNotes


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the index vouches for."""

    clips: int
    size_bytes: int
    sha256: Sha256


class ShardIndex(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """shards.json. model: the facts of ModelConfig that clips depend on, and no others."""

    format_version: Literal[1] = 1
    kind: Literal["vab-shards"] = "vab-shards"
    model: dict[str, str | int | float | tuple[str, ...]]
    encoders_sha256: Sha256
    labels: tuple[str, ...]
    shards: dict[ShardName, Shard]
    complete: bool


def clip_facts(config: ModelConfig) -> dict[str, Any]:
    """What tokens and features depend on; transformers of any size can share the same clips."""
    facts = {name: getattr(config, name) for name in (*_FACTS, *STREAMS)}
    return {name: fact for name, fact in facts.items() if fact != STREAMS.get(name)}


def check_facts(where: str, found: dict[str, Any], config: ModelConfig) -> None:
    """Raises DataError naming the first fact in which clips and model differ."""
    of_model = clip_facts(config)
    for name in of_model | found:
        present, expected = (facts.get(name, STREAMS.get(name)) for facts in (found, of_model))
        if present != expected:
            raise DataError(
                f"{where} has {name} {present!r}, expected {expected!r} as in the model "
                f"{config.name}; choose the config that belongs to it, or extract the clips again"
            )


def encoders_sha256(codec: nn.Module, image_encoder: nn.Module) -> str:
    """A digest of the weights that tokens and features come from."""
    digest = hashlib.sha256()
    for module in (codec, image_encoder):
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(plain.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_shard(path: Path, samples: Iterable[Sample]) -> Shard:
    """A tar of KEY.tokens.npy, KEY.features.npy, KEY.json; the same samples give the same bytes.

    It appears whole or not at all. Raises OutputError.
    """
    content, num_clips = io.BytesIO(), 0
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            num_clips += 1
            for name, data in _members(sample):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    data = content.getvalue()
    write_whole(path, data)
    return Shard(num_clips, len(data), hashlib.sha256(data).hexdigest())


def read_shard(where: str, data: bytes, expected: Shard, index: ShardIndex) -> TokenisedClips:
    """The clips of a shard's bytes, checked against the index. Raises DataError naming `where`."""
    if len(data) != expected.size_bytes:
        kind = "is cut short" if len(data) < expected.size_bytes else "has grown"
        raise _damaged(where, f"{kind}: {len(data)} bytes, expected {expected.size_bytes}")
    if hashlib.sha256(data).hexdigest() != expected.sha256:
        raise _damaged(where, f"is damaged, expected content with the sha256 of {INDEX}")
    try:
        arrays = zip(*_clips(data, index), strict=True)
        tokens, features, labels = (np.stack(array) for array in arrays)
    except (tarfile.TarError, ValueError, EOFError, KeyError, msgspec.DecodeError) as error:
        raise _damaged(where, f"is no shard of clips ({error})") from error
    return TokenisedClips(tokens=tokens, features=features, labels=labels)


def read_origins(where: str, data: bytes) -> list[tuple[str, ClipNotes]]:
    """The keys and notes of the clips that `read_shard` reads, in the same order."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            texts = {m.name: tar.extractfile(m).read() for m in tar if m.name.endswith(".json")}
        return [
            (name.removesuffix(".json"), msgspec.json.decode(text, type=ClipNotes))
            for name, text in texts.items()
        ]
    except (tarfile.TarError, ValueError, EOFError, msgspec.DecodeError) as error:
        raise _damaged(where, f"is no shard of clips ({error})") from error


def write_index(folder: Path, index: ShardIndex) -> None:
    """Replaces the index of a folder. Raises OutputError."""
    write_whole(folder / INDEX, msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n")


def read_index(where: str, data: bytes) -> ShardIndex:
    """Raises DataError naming what is wrong with it."""
    try:
        return msgspec.json.decode(data, type=ShardIndex)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{where}: {error}, expected the index of shards in format 1; copy the folder again, "
            "or extract the clips again"
        ) from error


def _members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    for name, array in (("tokens", sample.tokens), ("features", sample.features)):
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        yield f"{sample.key}.{name}.npy", content.getvalue()
    yield f"{sample.key}.json", msgspec.json.encode(sample.notes)


def _clips(data: bytes, index: ShardIndex) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """tokens [K, T], features [F, visual_dim], labels float32 [classes] of each sample."""
    column = {name: i for i, name in enumerate(index.labels)}
    model = index.model
    clip = msgspec.convert({"name": "clip"} | {n: model[n] for n in _OF_CLIPS}, ClipConfig)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        members = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}
    for name, text in members.items():
        if name.endswith(".json"):
            key = name.removesuffix(".json")
            tokens, features = (
                np.load(io.BytesIO(members[f"{key}.{part}.npy"]), allow_pickle=False)
                for part in ("tokens", "features")
            )
            _check_arrays(key, tokens, features, clip, model)
            labels = np.zeros(len(column), np.float32)
            notes = msgspec.json.decode(text, type=ClipNotes)
            labels[[column[label] for label in notes.labels]] = 1
            yield tokens, features, labels


def _check_arrays(
    key: str, tokens: np.ndarray, features: np.ndarray, clip: ClipConfig, model: dict[str, Any]
) -> None:
    """Raises ValueError for arrays that no clip of such a model has."""
    expected = {
        "tokens": (tokens, np.int16, (model["num_codebooks"], clip.num_hops)),
        "features": (features, np.float16, (clip.num_frames, clip.visual_dim)),
    }
    for name, (array, dtype, shape) in expected.items():
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(
                f"{key}.{name} is {array.dtype} {list(array.shape)}, expected "
                f"{np.dtype(dtype)} {list(shape)}"
            )
    if tokens.min() < 0 or tokens.max() >= model["codebook_size"]:
        raise ValueError(
            f"{key}.tokens are {tokens.min()} to {tokens.max()}, expected 0 to "
            f"{model['codebook_size'] - 1}"
        )
    if not np.isfinite(features).all():
        raise ValueError(f"{key}.features hold NaN or infinity, expected finite numbers")


def _damaged(where: str, what: str) -> DataError:
    return DataError(
        f"{where} {what}; copy it again, or delete it and run the same extraction again, which "
        "makes what is missing"
    )
