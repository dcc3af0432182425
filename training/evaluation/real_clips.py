"""Clips of real pictures and recordings that no model has seen, and how a model sees them.

As many of each kind that has recordings to test with, drawn as `datasets/pairs.py` draws them.
Where a kind has no picture to test with, a row of image features takes its place, or its name.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import utils as onnx_utils

from training.checkpoint import read_checkpoint
from training.codecs.recordings import decode_sound
from training.datasets.material import AMBIENCE, Material
from training.datasets.one_shots import stretch, trimmed
from training.datasets.pairs import Pair, draw_pair
from training.datasets.sound_folders import Listed
from training.evaluation.evaluator import EvalConfig
from training.kinds import KindsEncoder
from vab_rt.bundle import open_bundle
from vab_rt.config import ClipConfig, ModelConfig
from vab_rt.errors import DataError, OptionError
from vab_rt.pipeline import Pipeline
from vab_rt.seeing import as_frames, given_kinds

Floats = NDArray[np.float32]
Seen = Literal["picture", "features", "name"]
FIRST_SEED = 1 << 33
"""The first of seeds that no training uses."""
MOST = 1000
"""Clips of a kind."""
CLASSES = "_fc.weight"
"""The weights of EfficientNet-Lite0 that turn its feature into logits."""


class ImageRows(msgspec.Struct, frozen=True):
    """Pictures that only features are there of: logits [n, 1000] and feature [n, 1280] of
    EfficientNet-Lite0, and the number of each one's ImageNet class [n]."""

    logits: Floats
    feature: Floats
    label: NDArray[np.int64]


class RealClip(msgspec.Struct, frozen=True):
    """seed: its own, the first of each kind a multiple of MOST. row: which of `ImageRows` is seen
    instead of the pair's images; None: none."""

    seed: int
    kind: str
    pair: Pair
    seen: Seen
    row: int | None = None


def require_kinds(config: ClipConfig) -> ModelConfig:
    """Raises OptionError for a model that knows no kinds."""
    if not isinstance(config, ModelConfig) or not config.kinds:
        raise OptionError(
            f"model {config.name} has no names for what it sees, expected one that was trained on "
            "kinds, as `vab-rt kinds` lists them"
        )
    return config


def read_rows(path: Path) -> ImageRows:
    """Raises DataError for an .npz without these arrays."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            logits, feature = (kept[name].astype(np.float32) for name in ("logits", "feature"))
            rows = ImageRows(logits, feature, kept["label"].astype(np.int64))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected an .npz with logits, feature and label"
        ) from error
    if logits.shape != (len(feature), 1000) or rows.label.shape != (len(feature),):
        raise DataError(
            f"{path} has logits {logits.shape}, feature {feature.shape} and label "
            f"{rows.label.shape}, expected [n, 1000], [n, 1280] and [n]"
        )
    return rows


def seen_in_rows(rows: ImageRows, model: EvalConfig) -> Floats:
    """What a model's image encoder makes of them [n, image_dim]. Raises OptionError for one that is
    not EfficientNet-Lite0's."""
    if model.checkpoint is not None:
        encoder = read_checkpoint(model.checkpoint).image_encoder()
        if not isinstance(encoder, KindsEncoder):
            raise other_encoder(str(model.checkpoint))
        with torch.inference_mode():
            logits, feature = torch.from_numpy(rows.logits), torch.from_numpy(rows.feature)
            return encoder.features(logits, feature).numpy()
    bundle = open_bundle(model.bundle)
    graph = onnx.load_model_from_string(bundle.read_graph("visual_encoder"))
    last = next((node for node in graph.graph.node if CLASSES in node.input), None)
    if last is None:
        raise other_encoder(bundle.config.name)
    given = {last.input[0]: rows.feature, last.output[0]: rows.logits}
    (output,) = bundle.contracts["visual_encoder"].outputs
    head = onnx_utils.Extractor(graph).extract_model(list(given), [output.name])
    session = onnxruntime.InferenceSession(head.SerializeToString())
    return session.run(None, given)[0]


def other_encoder(model: str) -> OptionError:
    return OptionError(
        f"features are those of EfficientNet-Lite0 and {model} has another image encoder, expected "
        "a model of real kinds; leave --features out"
    )


def draw_clips(
    material: Material,
    config: ModelConfig,
    count: int,
    rows: ImageRows | None = None,
    table: Mapping[int, str] | None = None,
) -> Iterator[RealClip]:
    """`count` clips of each kind that the material has recordings of, kind by kind; always the
    same. table: kinds of ImageNet's classes, by which rows are of a kind."""
    for number, kind in enumerate(material.sounding):
        of_kind = rows_of_kind(kind, rows, table or {})
        for i in range(count):
            seed = number * MOST + i
            pair = draw_pair(FIRST_SEED + seed, material, config, kind=kind)
            if kind in material.pictures:
                yield RealClip(seed, kind, pair, "picture")
            elif len(of_kind):
                yield RealClip(seed, kind, pair, "features", int(of_kind[i % len(of_kind)]))
            else:
                yield RealClip(seed, kind, pair, "name")


def rows_of_kind(kind: str, rows: ImageRows | None, table: Mapping[int, str]) -> NDArray[np.int64]:
    if rows is None:
        return np.empty(0, np.int64)
    return np.flatnonzero([table.get(int(label)) == kind for label in rows.label])


def features_of(clip: RealClip, pipeline: Pipeline, row: Floats | None) -> Floats:
    """What a model sees of a clip [F, visual_dim]; row [image_dim] is seen instead of images.

    Raises OptionError for a model without kinds where a name is all there is.
    """
    config, system, pair = pipeline.system.config, pipeline.system, clip.pair
    if row is not None:
        engines = system.engines.with_graphs(
            visual_encoder=lambda frames: np.repeat(row[None], len(frames), 0)
        )
        system = dataclasses.replace(system, engines=engines)
    large = pair.images[pair.shown.clip(0)]  # [F / image_stride, image_size, image_size, 3]
    seen = np.stack(list(system.see(as_frames(pair.frames, large, config.image_stride))))
    if clip.seen != "name":
        return seen
    if clip.kind not in config.kind_names:
        raise OptionError(
            f"model {config.name} has no kind {clip.kind}, of which there is no picture; expected "
            "a model of these kinds"
        )
    return given_kinds(seen, (clip.kind,), config)


def images_of(clip: RealClip) -> NDArray[np.uint8]:
    """The images that are seen, each once [n, image_size, image_size, 3]."""
    return clip.pair.images[np.unique(clip.pair.shown[clip.pair.shown >= 0])]


def table_shares(logits: Floats, table: Mapping[int, str], kinds: Sequence[str]) -> Floats:
    """Probabilities [kinds] by the table alone, of logits [n, 1000]; those of no kind are of the
    last one."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares = (shares / shares.sum(1, keepdims=True)).mean(0)
    found = np.zeros(len(kinds), np.float32)
    numbers = {kind: i for i, kind in enumerate(kinds)}
    for label, share in enumerate(shares):
        found[numbers.get(table.get(label, ""), len(kinds) - 1)] += share
    return found


def likeliest(shares: Mapping[str, float], known: Mapping[str, Sequence[Listed]]) -> str:
    """The likeliest kind that there are recordings of; AMBIENCE is none."""
    return max(
        (kind for kind in shares if kind in known and kind != AMBIENCE), key=shares.__getitem__
    )


def retrieved(listed: Sequence[Listed], config: ModelConfig, random: np.random.Generator) -> Floats:
    """The sound of one of these recordings, from anywhere on and again and again [S].

    Raises MediaError.
    """
    chosen = listed[int(random.integers(len(listed)))]
    rate_hz = config.sample_rate_hz
    samples = trimmed(decode_sound(chosen.path, rate_hz), rate_hz)
    longer = max(0, len(samples) - config.num_samples)
    offset = int(random.integers(longer + 1))
    return stretch([samples[offset:]], config.num_samples, rate_hz)
